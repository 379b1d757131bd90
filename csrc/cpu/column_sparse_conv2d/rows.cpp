// Column-sparse convolution with a row of the product for each output pixel, read in place or gathered.
#include <algorithm>

#include "cpu/column_sparse_conv2d/plan.h"
#include "cpu/conv2d/rectangles.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

// Values of output pixels: those of row 0 of the item's first image, which may lie before what is there.
template <class P>
struct Pixels {
  P* data;
  int64_t pixel, line, image;  // from one to the next
};

// The first taps of the item's pixels, in a channels-last image or strip.
template <class T>
Pixels<const T> first_taps(const Work<T>& work, const BandItem& item, bool filled) {
  const Conv2dShape& s = work.p.shape;
  const Plan& plan = work.plan;
  const int64_t area = s.in_height * s.in_width;
  const T* from = work.p.x + item.image * s.in_channels * area;
  int64_t image = s.in_channels * area;
  if (plan.strip) {
    const RowRange rows = rows_under(s, item.first_row, item.row_end);
    image = plan.strip_rows * plan.pitch;
    for (int64_t i = 0; !filled && i < item.images; ++i) {
      work.kernels.transpose(from + i * s.in_channels * area + rows.begin * s.in_width, area, s.in_channels,
                             (rows.end - rows.begin) * s.in_width, work.strip() + i * image, s.in_channels);
    }
    from = work.strip() - rows.begin * plan.pitch;
  }
  return {from - s.pad_height * plan.pitch - s.pad_width * s.in_channels, s.stride_width * s.in_channels,
          s.stride_height * plan.pitch, image};
}

// The columns of a block that meet the image in a rectangle of outputs; returns how many ranges they are.
int64_t find_terms(const Conv2dShape& s, const Patches& patches, const Terms& block, const Stretch& y,
                   const Stretch& x, Terms* terms) {
  int64_t count = 0;
  for (int64_t i = y.first_tap; i < y.tap_end; ++i) {
    const int64_t* const row = patches.begin + i * s.kernel_width;
    const int64_t begin = std::max(block.begin, row[x.first_tap]), end = std::min(block.end, row[x.tap_end]);
    if (begin >= end) continue;
    if (count > 0 && terms[count - 1].end == begin) {
      terms[count - 1].end = end;
    } else {
      terms[count++] = {begin, end};
    }
  }
  return count;
}

// The rectangles of an item as products that have the columns that meet the image and no more; returns how
// many.
template <class T>
int64_t fill_parts(const Work<T>& work, const Patches& patches, const Terms& block, const BandItem& item,
                   const Pixels<const T>& in, const Pixels<T>& out) {
  const Conv2dShape& s = work.p.shape;
  Gemm<T>* part = work.parts();
  Terms* terms = work.terms();
  for (Stretch y{0, item.first_row}; y.end < item.row_end;) {
    y = vertical(s).stretch(y.end, item.row_end);
    for (Stretch x{0, 0}; x.end < s.out_width; ++part) {
      x = horizontal(s).stretch(x.end, s.out_width);
      *part = {};
      part->patch = Patch::line(work.p.kept.count);
      part->terms = terms;
      part->term_ranges = find_terms(s, patches, block, y, x, terms);
      terms += part->term_ranges;
      part->a = in.data + y.begin * in.line + x.begin * in.pixel;
      part->c = out.data + y.begin * out.line + x.begin * out.pixel;
      set_directions<T>({x.end - x.begin, in.pixel, out.pixel}, {y.end - y.begin, in.line, out.line},
                        {item.images, in.image, out.image}, work.kernels.tile_pixels, *part);
    }
  }
  return part - work.parts();
}

// One product of all rectangles: a block of k, for output channels [column, end) of a group.
template <class T>
void multiply(const Work<T>& work, const BandItem& item, int64_t group, int64_t column, int64_t end,
              const Terms& block, const Pixels<const T>& in, const Pixels<T>& out) {
  const Patches patches = work.patches(group);
  const int64_t count = fill_parts(work, patches, block, item, in, out);
  for (Gemm<T>* part = work.parts(); part < work.parts() + count; ++part) {
    part->offset = work.plan.way == Way::in_place ? patches.offset : nullptr;
    part->b = work.weights(group, column);
    part->b_panel = work.p.kept.count * kPanel;
    part->b_step = kPanel;
    part->c_panel = kPanel;
    part->columns = end - column;
    part->bias = work.bias(group, column);
    part->accumulate = block.begin > 0;
  }
  work.kernels.gemms(work.parts(), count);
}

template <class T>
void compute_group(const Work<T>& work, const BandItem& item, int64_t group, const Pixels<const T>& in) {
  const Conv2dShape& s = work.p.shape;
  const Plan& plan = work.plan;
  const int64_t area = s.out_height * s.out_width;
  for (int64_t column = item.column; column < item.column_end; column += plan.columns_at_once) {
    const int64_t end = std::min(column + plan.columns_at_once, item.column_end);
    const int64_t channel = work.channel(group, column);
    if (s.channels_last) {
      const Pixels<T> out{work.p.y + item.image * area * s.out_channels + channel, s.out_channels,
                          s.out_width * s.out_channels, area * s.out_channels};
      if (plan.way == Way::in_place) {
        multiply(work, item, group, column, end, {0, work.p.kept.count}, in, out);
        continue;
      }
      for (int64_t block = 0; block < plan.blocks.count; ++block) {
        const Terms terms{plan.blocks.begin(block), plan.blocks.end(block)};
        const int64_t pitch = row_pitch(terms.end - terms.begin), line = s.out_width * pitch;
        gather_rows(work.kernels, s, work.patches(group), plan.blocks, block, work.p.x,
                    item.image * area + item.first_row * s.out_width, item.images * item.rows() * s.out_width,
                    work.gathered(), pitch);
        const Pixels<const T> rows{work.gathered() - item.first_row * line - terms.begin, pitch, line,
                                   item.rows() * line};
        multiply(work, item, group, column, end, terms, rows, out);
      }
    } else {
      const int64_t pixel = round_up(end - column, kPanel), line = s.out_width * pixel;
      const Pixels<T> out{work.tile() - item.first_row * line, pixel, line, item.rows() * line};
      multiply(work, item, group, column, end, {0, work.p.kept.count}, in, out);
      for (int64_t i = 0; i < item.images; ++i) {
        work.kernels.transpose(
            work.tile() + i * item.rows() * line, pixel, item.rows() * s.out_width, end - column,
            work.p.y + ((item.image + i) * s.out_channels + channel) * area + item.first_row * s.out_width,
            area);
      }
    }
  }
}

}  // namespace

template <class T>
void compute_rows(const Work<T>& work, int64_t begin, int64_t end) {
  const Conv2dShape& s = work.p.shape;
  const Plan& plan = work.plan;
  const int64_t bands = plan.count(s);
  int64_t band_in_strip = -1;
  for (int64_t i = begin; i < end; ++i) {
    // Splits are the outer loop: a worker that stays within one reads only that part of the weights.
    const int64_t split = i / bands, band = i % bands;
    const BandItem item = plan.item(s, band, split);
    const Pixels<const T> in = first_taps(work, item, band == band_in_strip);
    band_in_strip = band;
    for (int64_t group = 0; group < s.groups; ++group) compute_group(work, item, group, in);
  }
}

template void compute_rows(const Work<float>&, int64_t, int64_t);
template void compute_rows(const Work<double>&, int64_t, int64_t);

}  // namespace cnnkern
