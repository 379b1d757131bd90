// Dense convolution as a matrix product that lowers the image on the fly (im2col that is never written out).
//
// A work item is a band of output rows of one image, or several small images, against a range of output
// channels. A channels-last image is read where it lies: a pixel's patch is kH runs of kW * C adjacent
// values. The input rows of a channel-first band are transposed into a strip first, and its results back.
// Rectangles of the band (rectangles.h) leave out the products with padding; the GEMM takes them together,
// since each of them reads all weights.
#include "cpu/conv2d/conv2d.h"

#include <algorithm>

#include "cpu/bands.h"
#include "cpu/conv2d/depthwise.h"
#include "cpu/conv2d/rectangles.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

constexpr int64_t kPixels = 512;  // of one band: enough for the weights to be read rarely

struct Plan : Bands {
  int64_t pitch;            // elements of an input row
  int64_t strip_rows;       // most input rows of a band
  int64_t columns_at_once;  // output channels of one product
  // Elements of one worker's scratch, in this order.
  int64_t parts_size, strip_size, tile_size;
  int64_t worker_size() const { return parts_size + strip_size + tile_size; }
};

template <class T>
Plan make_plan(const Conv2dShape& s, int64_t threads) {
  Plan plan{};
  plan.pitch = s.in_width * s.in_channels;

  // A band's input takes a quarter of level 2, several small images half of it; the rest is for weights and
  // results.
  const int64_t row_bytes = static_cast<int64_t>(sizeof(T)) * plan.pitch * s.stride_height;
  const int64_t fit = std::max<int64_t>(1, level2_cache_bytes() / 4 / row_bytes);
  const int64_t bands = (s.out_height + fit - 1) / fit;
  const int64_t area = s.out_height * s.out_width;
  const int64_t image_bytes = row_bytes / s.stride_height * s.in_height;
  const int64_t most_images =
      std::max<int64_t>(1, std::min(kPixels / area, level2_cache_bytes() / 2 / image_bytes));
  const int64_t depth = s.kernel_height * s.kernel_width * (s.in_channels / s.groups);
  const bool heavy_weights = s.out_channels * depth > 2 * s.in_height * s.in_width * s.in_channels;
  static_cast<Bands&>(plan) = cut_into_bands(s, bands, most_images, heavy_weights, threads);
  plan.strip_rows = std::min(s.in_height, strip_rows(s, plan.out_rows));

  // A channel-first result is computed into a tile of two panels and transposed from there.
  plan.columns_at_once = s.channels_last ? plan.group_columns : 2 * kPanel;

  const int64_t most_parts =
      vertical(s).most_stretches(plan.out_rows) * horizontal(s).most_stretches(s.out_width);
  plan.parts_size = round_up(most_parts * static_cast<int64_t>(sizeof(Gemm<T>) / sizeof(T)), kPanel);
  if (!s.channels_last) {
    plan.strip_size = round_up(plan.images * plan.strip_rows * plan.pitch, kPanel);
    plan.tile_size = plan.images * plan.out_rows * s.out_width *
                     round_up(std::min(plan.group_columns, plan.columns_at_once), kPanel);
  }
  return plan;
}

// Pixels of channels: the input rows of an item, or the output rows.
template <class P>
struct Rows {
  P* data;                     // row 0 of the item's first image, which may lie before what is there
  int64_t pixel, line, image;  // from one to the next
};

template <class T>
struct Scratch {
  Gemm<T>* parts;
  T* strip;
  T* tile;

  Scratch(T* base, const Plan& plan)
      : parts(reinterpret_cast<Gemm<T>*>(base)),
        strip(base + plan.parts_size),
        tile(strip + plan.strip_size) {}
};

// The input rows of an item, transposed into the strip where the image is channel first.
template <class T>
Rows<const T> input_rows(const Primitives<T>& kernels, const Conv2dParams<T>& p, const Plan& plan,
                         const BandItem& item, bool filled, T* strip) {
  const Conv2dShape& s = p.shape;
  const int64_t area = s.in_height * s.in_width;
  const T* const x = p.x + item.image * s.in_channels * area;
  if (s.channels_last) return {x, s.in_channels, plan.pitch, s.in_channels * area};
  const RowRange rows = rows_under(s, item.first_row, item.row_end);
  const int64_t step = plan.strip_rows * plan.pitch;
  for (int64_t i = 0; !filled && i < item.images; ++i) {
    kernels.transpose(x + i * s.in_channels * area + rows.begin * s.in_width, area, s.in_channels,
                      (rows.end - rows.begin) * s.in_width, strip + i * step, s.in_channels);
  }
  return {strip - rows.begin * plan.pitch, s.in_channels, plan.pitch, step};
}

// The rectangles of an item as products that have their pixels and patches and no more; returns how many.
template <class T>
int64_t fill_parts(const Conv2dShape& s, const BandItem& item, const Rows<const T>& in, const Rows<T>& out,
                   int64_t tile_pixels, Gemm<T>* parts) {
  const int64_t group_channels = s.in_channels / s.groups;
  int64_t count = 0;
  for (Stretch y{0, item.first_row}; y.end < item.row_end;) {
    y = vertical(s).stretch(y.end, item.row_end);
    for (Stretch x{0, 0}; x.end < s.out_width;) {
      x = horizontal(s).stretch(x.end, s.out_width);
      Gemm<T>& part = parts[count++] = {};
      part.patch = {group_channels,
                    s.kernel_width,
                    s.kernel_height,
                    y.first_tap,
                    y.tap_end,
                    x.first_tap,
                    x.tap_end,
                    s.dilation_height * in.line,
                    s.dilation_width * in.pixel};
      part.a = in.data + (y.begin * s.stride_height - s.pad_height) * in.line +
               (x.begin * s.stride_width - s.pad_width) * in.pixel;
      part.c = out.data + y.begin * out.line + x.begin * out.pixel;
      set_directions<T>({x.end - x.begin, s.stride_width * in.pixel, out.pixel},
                        {y.end - y.begin, s.stride_height * in.line, out.line},
                        {item.images, in.image, out.image}, tile_pixels, part);
    }
  }
  return count;
}

// One product of all rectangles: output channels [column, end) of a group.
template <class T>
void multiply(const Primitives<T>& kernels, const Conv2dParams<T>& p, const Plan& plan, const BandItem& item,
              int64_t group, int64_t column, int64_t end, const Rows<const T>& in,
              const Scratch<T>& scratch) {
  const Conv2dShape& s = p.shape;
  const int64_t group_channels = s.in_channels / s.groups, channel = group * plan.group_columns + column;
  const int64_t area = s.out_height * s.out_width, tile_pixel = round_up(end - column, kPanel);
  const int64_t tile_line = s.out_width * tile_pixel, rows = item.row_end - item.first_row;
  const Rows<const T> from{in.data + group * group_channels, in.pixel, in.line, in.image};
  const Rows<T> to =
      s.channels_last
          ? Rows<T>{p.y + item.image * area * s.out_channels + channel, s.out_channels,
                    s.out_width * s.out_channels, area * s.out_channels}
          : Rows<T>{scratch.tile - item.first_row * tile_line, tile_pixel, tile_line, rows * tile_line};
  const int64_t count = fill_parts(s, item, from, to, kernels.tile_pixels, scratch.parts);
  const int64_t depth = s.kernel_height * s.kernel_width * group_channels;
  for (Gemm<T>* part = scratch.parts; part < scratch.parts + count; ++part) {
    part->b = p.packed + (group * panels(plan.group_columns) + column / kPanel) * depth * kPanel;
    part->b_panel = depth * kPanel;
    part->b_step = kPanel;
    part->c_panel = kPanel;
    part->columns = end - column;
    part->bias = p.bias ? p.bias + channel : nullptr;
    part->relu = p.relu;
  }
  kernels.gemms(scratch.parts, count);
  for (int64_t i = 0; !s.channels_last && i < item.images; ++i) {
    kernels.transpose(
        scratch.tile + i * rows * tile_line, tile_pixel, rows * s.out_width, end - column,
        p.y + ((item.image + i) * s.out_channels + channel) * area + item.first_row * s.out_width, area);
  }
}

template <class T>
void run(const Conv2dParams<T>& p, const Primitives<T>& kernels, const Plan& plan, const Worker& me) {
  const Conv2dShape& s = p.shape;
  const Scratch<T> scratch(p.scratch + me.index * plan.worker_size(), plan);
  const int64_t bands = plan.count(s);
  const auto [begin, end] = me.share(bands * plan.splits);
  int64_t band_in_strip = -1;
  for (int64_t i = begin; i < end; ++i) {
    // Splits are the outer loop: a worker that stays within one reads only that part of the weights.
    const int64_t split = i / bands, band = i % bands;
    const BandItem item = plan.item(s, band, split);
    const Rows<const T> in = input_rows(kernels, p, plan, item, band == band_in_strip, scratch.strip);
    band_in_strip = band;
    for (int64_t group = 0; group < s.groups; ++group) {
      for (int64_t column = item.column; column < item.column_end; column += plan.columns_at_once) {
        multiply(kernels, p, plan, item, group, column,
                 std::min(column + plan.columns_at_once, item.column_end), in, scratch);
      }
    }
  }
}

}  // namespace

template <class T>
int64_t conv2d_scratch(const Conv2dShape& shape, int64_t threads) {
  if (is_depthwise(shape)) return depthwise_scratch<T>(shape, threads);
  return threads * make_plan<T>(shape, threads).worker_size();
}

template <class T>
void conv2d(const Conv2dParams<T>& p) {
  if (is_depthwise(p.shape)) return depthwise(p);
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan<T>(p.shape, p.threads);
  parallel(p.threads, [&](const Worker& me) { run(p, kernels, plan, me); });
}

template int64_t conv2d_scratch<float>(const Conv2dShape&, int64_t);
template int64_t conv2d_scratch<double>(const Conv2dShape&, int64_t);
template void conv2d(const Conv2dParams<float>&);
template void conv2d(const Conv2dParams<double>&);

}  // namespace cnnkern
