// Perforated convolution as a matrix product with a row for each kept output and none for the others.
//
// The kept outputs of all images are counted through, and the workers share them evenly, whatever the masks
// look like; or they share the output channels where the weights are most of what has to be read. Blocks of
// kept outputs are lowered (lower.h), k by k, and multiplied with the packed weights of the dense
// convolution; the block then writes all outputs that show one of its rows (show.h), so that every output is
// written by one worker and no one waits. A channels-last image is read in place, a channel-first one through
// strips (cpu/strip.h).
#include "cpu/perforated_conv2d/perforated_conv2d.h"

#include <algorithm>

#include "cpu/conv2d/conv2d.h"
#include "cpu/parallel.h"
#include "cpu/perforated_conv2d/lower.h"
#include "cpu/perforated_conv2d/show.h"
#include "cpu/registry.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

constexpr int64_t kLeastPositions = 96;  // of a block: the weights are read for each
constexpr int64_t kMostPositions = 384;
constexpr int64_t kChannelsAtOnce = 64;  // transposed

struct Plan {
  int64_t depth;             // of a group's patch
  int64_t positions;         // of a block
  int64_t splits;            // of the output channels
  int64_t images, out_rows;  // that strips lie under; `images` strips at a time
  int64_t strip_step;        // from one strip to the next
  // Elements of one worker's scratch, in this order.
  int64_t offsets_size, patches_size, strips_size, lowered_size, tile_size, expanded_size;
  int64_t worker_size() const {
    return offsets_size + patches_size + strips_size + lowered_size + tile_size + expanded_size;
  }
};

// Strips under as many rows or images as have a block's positions, and as half of level 2 holds anyway.
template <class T>
void choose_strips(const Conv2dShape& s, int64_t kept, Plan& plan) {
  const int64_t fit = level2_cache_bytes() / 2 / static_cast<int64_t>(sizeof(T)) / row_pitch(s);  // rows
  const int64_t of_image = std::max<int64_t>(1, kept / s.batch);
  plan.images = std::clamp<int64_t>(std::min(plan.positions / of_image, 4 * fit / s.in_height), 1, s.batch);
  plan.out_rows = s.out_height;
  if (plan.images == 1) {
    const int64_t enough = (plan.positions * s.out_height + of_image - 1) / of_image;
    plan.out_rows = std::clamp<int64_t>(std::max(enough, fit / s.stride_height), 1, s.out_height);
  }
  plan.strip_step = std::min(s.in_height, strip_rows(s, plan.out_rows)) * row_pitch(s);
  plan.strips_size = round_up(plan.images * plan.strip_step, kPanel);
}

template <class T>
Plan make_plan(const Conv2dShape& s, int64_t kept, int64_t threads) {
  Plan plan{};
  const int64_t taps = s.kernel_height * s.kernel_width;
  plan.depth = taps * (s.in_channels / s.groups);
  // Every worker reads the weights for its positions, or lowers all positions for its channels.
  const bool by_channels = s.groups == 1 && panels(s.out_channels) >= threads && kept < 2 * s.out_channels;
  plan.splits = by_channels ? threads : 1;

  const int64_t columns = (panels(s.out_channels) + plan.splits - 1) / plan.splits * kPanel;
  const int64_t lowered =
      is_depthwise(s) ? taps * kPanel : lowered_pitch(std::min(plan.depth, kLoweredDepth));
  const int64_t fit = level2_cache_bytes() / 4 / static_cast<int64_t>(sizeof(T));
  plan.positions = std::clamp(std::min(fit / lowered, fit / columns), kLeastPositions, kMostPositions);
  plan.positions = std::min(plan.positions, kept);
  if (!s.channels_last) {
    choose_strips<T>(s, kept, plan);
    plan.expanded_size = kRunPixels * kRunColumns;
  }
  const int64_t patch = static_cast<int64_t>(sizeof(PatchAt<T>) / sizeof(T));
  if (is_depthwise(s))
    plan.offsets_size = round_up(taps * static_cast<int64_t>(sizeof(int64_t) / sizeof(T)), kPanel);
  plan.patches_size = round_up(plan.positions * patch, kPanel);
  plan.lowered_size = round_up(plan.positions * lowered, kPanel);
  plan.tile_size = (plan.positions + 1) * columns;
  return plan;
}

// Kept outputs [begin, end) of all images together.
struct Range {
  int64_t begin, end;
};

template <class T>
struct Scratch {
  int64_t* offsets;     // (taps), where a depthwise patch's taps lie
  PatchAt<T>* patches;  // (positions)
  T* strips;
  T* lowered;   // (positions, depth of a block)
  T* tile;      // (positions + 1, columns)
  T* expanded;  // of show.h

  Scratch(T* base, const Plan& plan)
      : offsets(reinterpret_cast<int64_t*>(base)),
        patches(reinterpret_cast<PatchAt<T>*>(base + plan.offsets_size)),
        strips(base + plan.offsets_size + plan.patches_size),
        lowered(strips + plan.strips_size),
        tile(lowered + plan.lowered_size),
        expanded(tile + plan.tile_size) {}
};

int64_t image_of(const Conv2dShape& s, const Perforation& perforation, int64_t position) {
  const int64_t* const starts = perforation.begin;
  return std::upper_bound(starts, starts + s.batch + 1, position) - starts - 1;
}

// The positions from `begin` on, up to `end`, whose strips fit.
int64_t end_of_strips(const Conv2dShape& s, const Plan& plan, const Perforation& perforation, int64_t begin,
                      int64_t end) {
  const int64_t image = image_of(s, perforation, begin);
  end = std::min(end, perforation.begin[std::min(s.batch, image + plan.images)]);
  if (plan.out_rows == s.out_height) return end;
  const int32_t* const kept =
      perforation.kept + (perforation.masks == 1 ? 0 : image * s.out_height * s.out_width);
  const int32_t* const from = kept + (begin - perforation.begin[image]);
  const int64_t last_row = *from / s.out_width + plan.out_rows;
  const int32_t* const to = kept + (end - perforation.begin[image]);
  return begin + (std::lower_bound(from, to, last_row * s.out_width) - from);
}

// The input rows under the kept outputs [first, last) of an image.
RowRange rows_under_kept(const Conv2dShape& s, const int32_t* kept, int64_t first, int64_t last) {
  return rows_under(s, kept[first] / s.out_width, kept[last - 1] / s.out_width + 1);
}

template <class T>
void fill_strips(const Primitives<T>& kernels, const PerforatedConv2dParams<T>& p, const Plan& plan,
                 const Range& range, T* strip) {
  const Conv2dShape& s = p.shape;
  const int64_t area = s.in_height * s.in_width;
  for_images(s, p.perforation, range.begin, range.end,
             [&](int64_t image, int64_t part, int64_t first, int64_t last) {
               const RowRange rows = rows_under_kept(s, p.perforation.kept + part, first, last);
               for (int64_t channel = 0; channel < s.in_channels; channel += kChannelsAtOnce) {
                 kernels.transpose(p.x + (image * s.in_channels + channel) * area + rows.begin * s.in_width,
                                   area, std::min(kChannelsAtOnce, s.in_channels - channel),
                                   (rows.end - rows.begin) * s.in_width, strip + channel, s.in_channels);
               }
               strip += plan.strip_step;
             });
}

// Where the patches of a block lie, in images or in the strips of `strips`.
template <class T>
void find_patches(const PerforatedConv2dParams<T>& p, const Plan& plan, const Range& strips,
                  const Range& block, const T* strip, PatchAt<T>* patch) {
  const Conv2dShape& s = p.shape;
  const int64_t height = (s.kernel_height - 1) * s.dilation_height,
                width = (s.kernel_width - 1) * s.dilation_width;
  const int64_t first_image = image_of(s, p.perforation, strips.begin);
  for_images(s, p.perforation, block.begin, block.end,
             [&](int64_t image, int64_t part, int64_t first, int64_t last) {
               const int32_t* const kept = p.perforation.kept + part;
               PatchAt<T> at{};
               if (s.channels_last) {
                 at.image = p.x + image * s.in_height * row_pitch(s);
               } else {
                 const int64_t begun = std::max<int64_t>(0, strips.begin - p.perforation.begin[image]);
                 const int64_t row = rows_under_kept(s, kept, begun, begun + 1).begin;
                 at.image = strip + (image - first_image) * plan.strip_step - row * row_pitch(s);
               }
               for (int64_t j = first; j < last; ++j) {
                 at.top = kept[j] / s.out_width * s.stride_height - s.pad_height;
                 at.left = kept[j] % s.out_width * s.stride_width - s.pad_width;
                 at.inside = at.top >= 0 && at.top + height < s.in_height && at.left >= 0 &&
                             at.left + width < s.in_width;
                 *patch++ = at;
               }
             });
}

// A range of output channels.
struct Columns {
  int64_t first, count;
};

// Rows (count, columns) of the block's outputs, for one group or a range of its output channels.
template <class T>
void multiply(const Primitives<T>& kernels, const PerforatedConv2dParams<T>& p, const Plan& plan,
              int64_t count, int64_t group, const Columns& columns, int64_t width, const Scratch<T>& scratch,
              T* to) {
  const Conv2dShape& s = p.shape;
  const int64_t group_columns = s.out_channels / s.groups;
  const int64_t first_panel = group * panels(group_columns) + columns.first / kPanel;
  Gemm<T> gemm{};
  gemm.a = scratch.lowered;
  gemm.pixels = count;
  gemm.lines = 1;
  gemm.b_panel = plan.depth * kPanel;
  gemm.b_step = kPanel;
  gemm.c = to;
  gemm.c_pixel = width;
  gemm.c_panel = kPanel;
  gemm.columns = columns.count;
  gemm.bias = p.bias ? p.bias + group * group_columns + columns.first : nullptr;
  const int64_t blocks = (plan.depth + kLoweredDepth - 1) / kLoweredDepth;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = plan.depth * b / blocks, end = plan.depth * (b + 1) / blocks;
    lower(s, scratch.patches, count, group, begin, end, scratch.lowered);
    gemm.a_pixel = lowered_pitch(end - begin);
    gemm.patch = Patch::line(end - begin);
    gemm.b = p.packed + first_panel * gemm.b_panel + begin * kPanel;
    gemm.accumulate = b > 0;
    kernels.gemm(gemm);
  }
}

template <class T>
void multiply_depthwise(const Primitives<T>& kernels, const PerforatedConv2dParams<T>& p, const Plan& plan,
                        int64_t count, const Scratch<T>& scratch) {
  const Conv2dShape& s = p.shape;
  for (int64_t tap = 0; tap < plan.depth; ++tap) scratch.offsets[tap] = tap * kPanel;
  DepthwiseLine<T> line{};
  line.x = scratch.lowered;
  line.taps = plan.depth;
  line.x_pixel = line.taps * kPanel;
  line.tap_offset = scratch.offsets;
  line.out_width = count;
  line.out_pixel = s.out_channels;
  for (int64_t channel = 0; channel < s.out_channels; channel += kPanel) {
    lower_depthwise(s, scratch.patches, count, channel, scratch.lowered);
    line.weight = p.packed + channel * line.taps;
    line.bias = p.bias ? p.bias + channel : nullptr;
    line.out = scratch.tile + channel;
    line.channels = std::min(kPanel, s.out_channels - channel);
    kernels.depthwise_line(line);
  }
}

template <class T>
void compute(const Primitives<T>& kernels, const PerforatedConv2dParams<T>& p, const Plan& plan,
             const Range& block, const Columns& columns, const Scratch<T>& scratch) {
  const Conv2dShape& s = p.shape;
  const int64_t count = block.end - block.begin;
  if (is_depthwise(s)) {
    multiply_depthwise(kernels, p, plan, count, scratch);
  } else {
    const int64_t group_columns = s.out_channels / s.groups;
    for (int64_t group = 0; group < s.groups; ++group) {
      const Columns part = s.groups == 1 ? columns : Columns{0, group_columns};
      multiply(kernels, p, plan, count, group, part, columns.count, scratch,
               scratch.tile + group * group_columns);
    }
  }
  std::fill_n(scratch.tile + count * columns.count, columns.count, T(0));
  show<T>(kernels, s, p.perforation,
          {scratch.tile, columns.count, block.begin, block.end, columns.first, columns.count},
          scratch.expanded, p.y);
}

template <class T>
void run(const PerforatedConv2dParams<T>& p, const Primitives<T>& kernels, const Plan& plan,
         const Worker& me) {
  const Conv2dShape& s = p.shape;
  const Scratch<T> scratch(p.scratch + me.index * plan.worker_size(), plan);
  const int64_t kept = p.perforation.begin[s.batch], column_panels = panels(s.out_channels);
  const Worker::Range all{0, kept};
  const auto [first_split, last_split] = plan.splits > 1 ? me.share(plan.splits) : Worker::Range{0, 1};
  const auto [begin, end] = plan.splits > 1 ? all : me.share(kept);
  for (int64_t split = first_split; split < last_split; ++split) {
    const int64_t column = column_panels * split / plan.splits * kPanel;
    const int64_t last = std::min(s.out_channels, column_panels * (split + 1) / plan.splits * kPanel);
    for (Range strips{begin, begin}; strips.begin < end; strips.begin = strips.end) {
      strips.end = end;
      if (!s.channels_last) {
        strips.end = end_of_strips(s, plan, p.perforation, strips.begin, end);
        fill_strips(kernels, p, plan, strips, scratch.strips);
      }
      const int64_t count = strips.end - strips.begin, blocks = (count + plan.positions - 1) / plan.positions;
      for (int64_t b = 0; b < blocks; ++b) {
        const Range block{strips.begin + count * b / blocks, strips.begin + count * (b + 1) / blocks};
        find_patches(p, plan, strips, block, scratch.strips, scratch.patches);
        compute(kernels, p, plan, block, {column, last - column}, scratch);
      }
    }
  }
}

bool keeps_all(const Conv2dShape& s, int64_t kept) { return kept == s.batch * s.out_height * s.out_width; }

}  // namespace

template <class T>
int64_t perforated_conv2d_scratch(const Conv2dShape& shape, int64_t kept, int64_t threads) {
  if (keeps_all(shape, kept)) return conv2d_scratch<T>(shape, threads);
  return threads * make_plan<T>(shape, kept, threads).worker_size();
}

template <class T>
void perforated_conv2d(const PerforatedConv2dParams<T>& p) {
  const int64_t kept = p.perforation.begin[p.shape.batch];
  if (keeps_all(p.shape, kept))
    return conv2d<T>({p.shape, p.x, p.packed, p.bias, p.y, p.scratch, p.threads, false});
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan<T>(p.shape, kept, p.threads);
  parallel(p.threads, [&](const Worker& me) { run(p, kernels, plan, me); });
}

template int64_t perforated_conv2d_scratch<float>(const Conv2dShape&, int64_t, int64_t);
template int64_t perforated_conv2d_scratch<double>(const Conv2dShape&, int64_t, int64_t);
template void perforated_conv2d(const PerforatedConv2dParams<float>&);
template void perforated_conv2d(const PerforatedConv2dParams<double>&);

}  // namespace cnnkern
