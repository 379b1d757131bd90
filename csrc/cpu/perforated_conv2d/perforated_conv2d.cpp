// Perforated convolution as a matrix product with a row for each kept output and none for the others.
//
// Bands of outputs (plan.h) go one after another. The product reads the patches of a band's kept outputs
// where they lie in a channels-last image, through pointers (pixels.h); of a channel-first image the rows
// that they need are transposed first. Kept outputs are written to their place in y, or, channel first, to a
// tile of a few channels. While they are in cache, the outputs of the band that show them are copied from
// there; those that show one of a neighbouring band follow with that one, and any that show one still further
// away at the end, when all workers have written theirs.
#include "cpu/perforated_conv2d/perforated_conv2d.h"

#include "cpu/parallel.h"
#include "cpu/perforated_conv2d/depthwise.h"
#include "cpu/perforated_conv2d/pixels.h"
#include "cpu/perforated_conv2d/plan.h"
#include "cpu/perforated_conv2d/show.h"

namespace cnnkern {
namespace {

constexpr int64_t kChannelsAtOnce = 64;  // transposed

// What a worker works with; its size alone, where there is no memory yet.
template <class T>
struct Scratch {
  Piece* pieces;   // (images)
  PieceAt<T>* at;  // (images)
  int32_t* list;   // of copy_shown
  PixelStep<T>* steps;
  Pixels<T> pixels;
  DepthwiseScratch<T> depthwise;
  int32_t* rows;  // (positions), of show_rows
  T* strips;
  T* tile;  // (positions + 1, kTileColumns)
  int64_t size = 0;

  Scratch(const Conv2dShape& s, const BandPlan& plan, T* base) {
    const int64_t taps = s.kernel_height * s.kernel_width;
    const int64_t positions = plan.images * plan.out_rows * s.out_width;
    const auto take = [&]<class U>(U*& array, int64_t count) {
      array = base ? reinterpret_cast<U*>(base + size) : nullptr;
      const int64_t bytes = count * static_cast<int64_t>(sizeof(U)), unit = static_cast<int64_t>(sizeof(T));
      size += round_up((bytes + unit - 1) / unit, kPanel);
    };
    take(pieces, plan.images);
    take(at, plan.images);
    take(list, 2 * kListed);
    if (is_depthwise(s)) {
      take(depthwise.offsets, taps);
      take(depthwise.lowered, kDepthwisePixels * taps * kPanel);
      take(depthwise.results, kDepthwisePixels * kPanel);
    } else {
      T* zeros;
      take(pixels.inside, plan.kept * taps);
      take(pixels.c, plan.kept);
      take(steps, 2 * taps);
      take(zeros, s.in_channels);
      if (base) std::fill_n(zeros, s.in_channels, T(0));
      pixels.zeros = zeros;
    }
    if (s.channels_last) return;
    take(rows, positions);
    take(strips, plan.images * plan.strip_step);
    take(tile, (positions + 1) * kTileColumns);
    if (base) std::fill_n(tile + positions * kTileColumns, kTileColumns, T(0));  // what zero outputs show
  }
};

template <class T>
struct Work {
  const Primitives<T>& kernels;
  const PerforatedConv2dParams<T>& p;
  const BandPlan& plan;
  Scratch<T> scratch;

  Piece piece(int64_t begin, int64_t end) const {
    const int64_t area = p.shape.out_height * p.shape.out_width, image = begin / area;
    return piece_of(p.shape, p.perforation, image, begin - image * area, end - image * area);
  }
};

// The input rows under a piece, transposed to `strip`; returns where row 0 would lie.
template <class T>
const T* fill_strip_of(const Work<T>& work, const Piece& piece, T* strip) {
  const Conv2dShape& s = work.p.shape;
  if (piece.count() == 0) return strip;
  const RowRange rows =
      rows_under(s, piece.kept[piece.first] / s.out_width, piece.kept[piece.last - 1] / s.out_width + 1);
  const int64_t area = s.in_height * s.in_width;
  const T* const x = work.p.x + piece.image * s.in_channels * area + rows.begin * s.in_width;
  for (int64_t channel = 0; channel < s.in_channels; channel += kChannelsAtOnce) {
    work.kernels.transpose(x + channel * area, area, std::min(kChannelsAtOnce, s.in_channels - channel),
                           (rows.end - rows.begin) * s.in_width, strip + channel, s.in_channels);
  }
  return strip - rows.begin * row_pitch(s);
}

// Whether a kept output reads one pixel, and that inside the image.
bool reads_pixels(const Conv2dShape& s) {
  return s.kernel_height * s.kernel_width == 1 && s.pad_height == 0 && s.pad_width == 0 && !is_depthwise(s);
}

// The pixels that a piece's kept outputs read, one after another in `strip`.
template <class T>
void gather_pixels_of(const Work<T>& work, const Piece& piece, T* strip) {
  const Conv2dShape& s = work.p.shape;
  const int64_t area = s.in_height * s.in_width;
  int32_t* const list = work.scratch.list;
  T* const rows = work.scratch.tile;
  Piece part = piece;
  for (; part.first < piece.last; part.first = part.last) {
    part.last = std::min(piece.last, part.first + kListed);
    const int64_t count = part.count();
    for_kept(s, part, [&](int64_t j, int64_t y, int64_t x, int64_t) {
      list[j - part.first] = static_cast<int32_t>(y * s.stride_height * s.in_width + x * s.stride_width);
    });
    for (int64_t channel = 0; channel < s.in_channels; channel += kTileColumns) {
      const int64_t channels = std::min(kTileColumns, s.in_channels - channel);
      for (int64_t c = 0; c < channels; ++c) {
        const T* const plane = work.p.x + (piece.image * s.in_channels + channel + c) * area;
        for (int64_t i = 0; i < count; ++i) rows[c * count + i] = plane[list[i]];
      }
      work.kernels.transpose(rows, count, channels, count,
                             strip + (part.first - piece.first) * s.in_channels + channel, s.in_channels);
    }
  }
}

// The values that a channel-first piece reads, in memory of the worker's.
template <class T>
const T* rearrange(const Work<T>& work, const Piece& piece, T* strip) {
  if (!reads_pixels(work.p.shape)) return fill_strip_of(work, piece, strip);
  gather_pixels_of(work, piece, strip);
  return strip;
}

// The pieces of the band [begin, end), and where they lie; returns how many there are.
template <class T>
int64_t lay_out(const Work<T>& work, int64_t begin, int64_t end) {
  const Conv2dShape& s = work.p.shape;
  const Scratch<T>& scratch = work.scratch;
  const int64_t area = s.out_height * s.out_width;
  int64_t count = 0, row = 0;
  for (; begin < end; ++count) {
    const int64_t until = std::min(end, (begin / area + 1) * area);
    const Piece& piece = scratch.pieces[count] = work.piece(begin, until);
    if (s.channels_last) {
      scratch.at[count] = {work.p.x + piece.image * s.in_height * row_pitch(s), true,
                           work.p.y + piece.image * area * s.out_channels, s.out_channels, true};
    } else {
      find_rows(piece, row, work.plan.images * work.plan.out_rows * s.out_width, scratch.rows + row);
      scratch.at[count] = {rearrange(work, piece, scratch.strips + count * work.plan.strip_step),
                           !reads_pixels(s), scratch.tile + row * kTileColumns, kTileColumns, false};
    }
    row += until - begin;
    begin = until;
  }
  return count;
}

// Output channels [channels.first, ..) of the kept outputs of all pieces, which lie from `c_column` on.
template <class T>
void multiply(const Work<T>& work, int64_t pieces, const Channels& channels, int64_t c_column) {
  const PerforatedConv2dParams<T>& p = work.p;
  const Conv2dShape& s = p.shape;
  const Scratch<T>& scratch = work.scratch;
  if (is_depthwise(s)) {
    for (int64_t i = 0; i < pieces; ++i)
      multiply_depthwise(work.kernels, p, scratch.pieces[i], scratch.at[i], channels, c_column,
                         scratch.depthwise);
    return;
  }
  const int64_t group_columns = s.out_channels / s.groups, group = channels.first / group_columns;
  const int64_t depth = s.kernel_height * s.kernel_width * (s.in_channels / s.groups);
  ScatteredGemm<T> parts[2];
  const int64_t count = fill_parts(s, scratch.pixels, group, scratch.steps, parts);
  const int64_t panel = group * panels(group_columns) + channels.first % group_columns / kPanel;
  for (ScatteredGemm<T>* part = parts; part < parts + count; ++part) {
    part->c_column = c_column;
    part->b = p.packed + panel * depth * kPanel;
    part->b_panel = depth * kPanel;
    part->columns = channels.count;
    part->bias = p.bias ? p.bias + channels.first : nullptr;
  }
  if (count > 0) work.kernels.scattered_gemms(parts, count);
}

// A band's kept outputs, and of channel-first images all outputs.
template <class T>
void compute(const Work<T>& work, int64_t pieces, const Channels& channels) {
  const Conv2dShape& s = work.p.shape;
  const int64_t group_columns = is_depthwise(s) ? s.out_channels : s.out_channels / s.groups;
  const int64_t most = s.channels_last ? group_columns : kTileColumns;
  const int64_t end = channels.first + channels.count;
  for (int64_t channel = channels.first; channel < end;) {
    const int64_t group_end = (channel / group_columns + 1) * group_columns;
    const Channels part{channel, std::min({most, group_end - channel, end - channel})};
    multiply(work, pieces, part, s.channels_last ? channel : 0);
    for (int64_t i = 0, row = 0; !s.channels_last && i < pieces; ++i) {
      const Piece& piece = work.scratch.pieces[i];
      show_rows(work.kernels, s, piece, part, work.scratch.tile, work.scratch.rows + row, work.p.y);
      row += piece.end - piece.begin;
    }
    channel += part.count;
  }
}

// The kept outputs of the range [begin, end), and those outputs that show one of the same band or of one
// beside it.
template <class T>
void run_bands(Work<T>& work, int64_t begin, int64_t end, const Channels& channels) {
  const Conv2dShape& s = work.p.shape;
  const Scratch<T>& scratch = work.scratch;
  Piece before{-1};
  while (begin < end) {
    const int64_t next = end_of_band(s, work.plan, begin, end), count = lay_out(work, begin, next);
    if (!is_depthwise(s)) find_pixels(s, scratch.pieces, scratch.at, count, work.scratch.pixels);
    compute(work, count, channels);
    for (Piece* piece = scratch.pieces; piece < scratch.pieces + count; ++piece) {
      const bool beside = piece->image == before.image;
      const auto copy = [&](const Piece& shown, const Owners& owners) {
        copy_shown(s, shown, owners, channels, scratch.list, work.p.y);
      };
      if (s.channels_last) {
        copy(*piece, {beside ? before.first : piece->first, piece->last, true, true});
      } else if (beside) {
        copy(*piece, {before.first, before.last, true, false});
      }
      if (beside) copy(before, {piece->first, piece->last, true, false});
    }
    before = scratch.pieces[count - 1];
    begin = next;
  }
}

// The outputs that show one that lies further away.
template <class T>
void copy_far(const Work<T>& work, int64_t begin, int64_t end, const Channels& channels) {
  const Conv2dShape& s = work.p.shape;
  const int64_t area = s.out_height * s.out_width;
  int64_t before = begin;
  while (begin < end) {
    const int64_t image = begin / area, image_end = std::min(end, (image + 1) * area);
    const int64_t next = std::min(image_end, end_of_band(s, work.plan, begin, end));
    const int64_t behind = next < image_end ? end_of_band(s, work.plan, next, end) : image_end;
    const Piece near = work.piece(std::max(before, image * area), behind);
    const bool sees_all = near.begin == 0 && near.end == area;
    if (!sees_all)
      copy_shown(s, work.piece(begin, next), {near.first, near.last, false, false}, channels,
                 work.scratch.list, work.p.y);
    before = begin;
    begin = next;
  }
}

template <class T>
void run(Work<T> work, const Worker& me) {
  const Conv2dShape& s = work.p.shape;
  const BandPlan& plan = work.plan;
  const bool by_channels = plan.splits > 1;
  const int64_t column_panels = panels(s.out_channels);
  const auto [first_split, last_split] = by_channels ? me.share(plan.splits) : Worker::Range{0, 1};
  const int64_t first = column_panels * first_split / plan.splits * kPanel;
  const int64_t last = std::min(s.out_channels, column_panels * last_split / plan.splits * kPanel);
  const Channels channels{first, last - first};
  const int64_t index = by_channels ? 0 : me.index, count = by_channels ? 1 : me.count;
  const int64_t begin = begin_of_share(s, work.p.perforation, index, count);
  const int64_t end = begin_of_share(s, work.p.perforation, index + 1, count);
  run_bands(work, begin, end, channels);
  me.barrier();
  copy_far(work, begin, end, channels);
}

bool keeps_all(const Conv2dShape& s, int64_t kept) { return kept == s.batch * s.out_height * s.out_width; }

}  // namespace

template <class T>
int64_t perforated_conv2d_scratch(const Conv2dShape& shape, int64_t kept, int64_t threads) {
  if (keeps_all(shape, kept)) return conv2d_scratch<T>(shape, threads);
  return threads * Scratch<T>(shape, plan_bands<T>(shape, kept, threads), nullptr).size;
}

template <class T>
void perforated_conv2d(const PerforatedConv2dParams<T>& p) {
  const Conv2dShape& s = p.shape;
  const int64_t kept = p.perforation.begin[s.batch];
  if (keeps_all(s, kept)) return conv2d<T>({s, p.x, p.packed, p.bias, p.y, p.scratch, p.threads, false});
  const BandPlan plan = plan_bands<T>(s, kept, p.threads);
  const int64_t size = Scratch<T>(s, plan, nullptr).size;
  parallel(p.threads, [&](const Worker& me) {
    run<T>({primitives<T>(), p, plan, Scratch<T>(s, plan, p.scratch + me.index * size)}, me);
  });
}

template int64_t perforated_conv2d_scratch<float>(const Conv2dShape&, int64_t, int64_t);
template int64_t perforated_conv2d_scratch<double>(const Conv2dShape&, int64_t, int64_t);
template void perforated_conv2d(const PerforatedConv2dParams<float>&);
template void perforated_conv2d(const PerforatedConv2dParams<double>&);

}  // namespace cnnkern
