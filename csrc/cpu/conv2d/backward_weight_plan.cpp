// See backward_weight_plan.h. Nothing that an element's sum depends on (bands, parts) depends on the threads.
#include "cpu/conv2d/backward_weight_plan.h"

#include <algorithm>

#include "cpu/primitives.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

constexpr int64_t kBandPixels = 1024;     // of a band: enough for the accumulators to be read rarely ...
constexpr int64_t kLeastPixels = 256;     // ... and where they are in level 2 anyway
constexpr int64_t kShortRow = 16;         // columns for which setting up a segment costs as much as its sums
constexpr int64_t kFewBlocks = 8;         // of the accumulators: too few for workers to share them
constexpr int64_t kGroupedChannels = 32;  // of groups that are worked on together
constexpr int64_t kSameSets = 1024;       // elements after which addresses fall into the same sets of level 1

// The side with fewer channels is the one to transpose: rows where images are channels last, columns where
// they are channel first. At one tap the sides may change places.
bool is_swapped(const Conv2dShape& s) {
  const bool pointwise = s.kernel_height == 1 && s.kernel_width == 1 && s.stride_height == 1 &&
                         s.stride_width == 1 && s.pad_height == 0 && s.pad_width == 0;
  return pointwise && (s.channels_last ? s.in_channels > s.out_channels : s.in_channels < s.out_channels);
}

// Small groups whose outputs fit into one panel together cost no more than one of them.
int64_t merged_groups(const Conv2dShape& s) {
  const int64_t channels = s.in_channels / s.groups, outputs = s.out_channels / s.groups;
  for (int64_t merged = std::min(kGroupedChannels / channels, kPanel / outputs); merged > 1; --merged) {
    if (s.groups % merged == 0) return merged;
  }
  return 1;
}

template <class T>
void choose_bands(WeightPlan& plan) {
  const Conv2dShape& s = plan.shape;
  const int64_t fit = level2_cache_bytes() / 2 / static_cast<int64_t>(sizeof(T));
  int64_t pixels = kBandPixels;
  if (plan.group_channels * plan.taps * plan.columns < fit)
    pixels = std::clamp(fit / (plan.group_channels + plan.columns), kLeastPixels, kBandPixels);
  plan.images = 1;
  plan.out_rows = std::clamp<int64_t>(pixels / s.out_width, 1, s.out_height);
  plan.bands = (s.out_height + plan.out_rows - 1) / plan.out_rows;
  plan.out_rows = (s.out_height + plan.bands - 1) / plan.bands;
  plan.bands = (s.out_height + plan.out_rows - 1) / plan.out_rows;
  if (plan.bands == 1) plan.images = std::clamp<int64_t>(pixels / (s.out_height * s.out_width), 1, s.batch);
  plan.image_groups = (s.batch + plan.images - 1) / plan.images;
  plan.images = (s.batch + plan.image_groups - 1) / plan.image_groups;
  plan.image_groups = (s.batch + plan.images - 1) / plan.images;
}

void measure_planes(WeightPlan& plan) {
  const Conv2dShape& s = plan.shape;
  const int64_t area = s.in_height * s.in_width;
  plan.copied = s.kernel_width > 1 && s.out_width < kShortRow;
  plan.in_place = !s.channels_last && !plan.copied && s.stride_height == 1 && s.stride_width == 1 &&
                  s.pad_height == 0 && s.pad_width == 0 && area % kSameSets != 0;
  const int64_t row_residues = s.kernel_height > 1 ? s.stride_height : 1;
  const int64_t column_residues = s.kernel_width > 1 ? s.stride_width : 1;
  plan.pitch = s.out_width + (plan.copied ? 0 : (s.kernel_width - 1) * s.dilation_width / s.stride_width);
  plan.phase_rows = plan.out_rows + (s.kernel_height - 1) * s.dilation_height / s.stride_height;
  plan.sub_size = row_residues * plan.phase_rows * plan.pitch;
  plan.image_size =
      plan.in_place ? s.in_channels * area : (plan.copied ? s.kernel_width : column_residues) * plan.sub_size;
  plan.plane = plan.in_place ? area : apart(plan.images * plan.image_size);
}

// How the channels on either side are shared by the workers.
void share_channels(WeightPlan& plan, int64_t threads, int64_t tile_rows) {
  const Conv2dShape& s = plan.shape;
  plan.groups_at_once = std::clamp<int64_t>(kGroupedChannels / plan.group_channels, 1, s.groups);
  const int64_t row_blocks = std::max<int64_t>(1, plan.group_channels / tile_rows);
  const int64_t blocks = (s.groups + plan.groups_at_once - 1) / plan.groups_at_once * row_blocks *
                         ((plan.columns / kPanel + 1) / 2);
  plan.parts = std::clamp<int64_t>(kFewBlocks / blocks, 1, plan.image_groups * plan.bands);
  plan.one_band = plan.image_groups * plan.bands == 1;

  plan.groups_at_once = std::min(plan.groups_at_once, (s.groups + threads - 1) / threads);
  plan.group_blocks = (s.groups + plan.groups_at_once - 1) / plan.groups_at_once;
  plan.channel_splits = plan.output_splits = 1;
  if (plan.groups_at_once > 1 || plan.merged > 1) return;
  const int64_t wanted = (threads + plan.parts * plan.group_blocks - 1) / (plan.parts * plan.group_blocks);
  plan.channel_splits = std::min(wanted, row_blocks);
  plan.output_splits =
      std::min((wanted + plan.channel_splits - 1) / plan.channel_splits, plan.columns / kPanel);
}

// Channels whose planes, and their accumulators where these are not kept, fill half of level 2.
template <class T>
int64_t block_of_channels(const WeightPlan& plan, int64_t tile_rows) {
  const int64_t most = (plan.group_channels - 1) / plan.channel_splits + 1;
  if (plan.groups_at_once > 1 || plan.merged > 1) return most;
  const int64_t fit = level2_cache_bytes() / 2 / static_cast<int64_t>(sizeof(T));
  const int64_t pixels = plan.in_place ? plan.images * plan.out_rows * plan.pitch : plan.plane;
  int64_t block = fit / pixels;
  if (plan.one_band) block = std::min(block, fit / (plan.taps * plan.columns));
  return std::min(most, std::max(block / tile_rows, int64_t{1}) * tile_rows);
}

}  // namespace

template <class T>
WeightPlan make_weight_plan(const Conv2dShape& shape, int64_t threads, int64_t tile_rows) {
  WeightPlan plan{};
  Conv2dShape& s = plan.shape = shape;
  plan.swapped = is_swapped(shape);
  if (plan.swapped) std::swap(s.in_channels, s.out_channels);
  plan.merged = merged_groups(s);
  s.groups /= plan.merged;
  plan.group_channels = s.in_channels / s.groups;
  plan.group_outputs = s.out_channels / s.groups;
  plan.taps = s.kernel_height * s.kernel_width;
  plan.columns = (plan.group_outputs + kPanel - 1) / kPanel * kPanel;
  choose_bands<T>(plan);
  measure_planes(plan);
  share_channels(plan, threads, tile_rows);
  plan.block = block_of_channels<T>(plan, tile_rows);

  const int64_t pixels = plan.images * plan.out_rows * s.out_width;
  const int64_t output_panels = (plan.columns / kPanel - 1) / plan.output_splits + 1;
  const int64_t in_rows =
      (plan.out_rows - 1) * s.stride_height + (s.kernel_height - 1) * s.dilation_height + 1;
  plan.part_size = plan.one_band ? 0 : s.in_channels * plan.taps * plan.columns;
  plan.sums_size = plan.one_band ? plan.block * plan.groups_at_once * plan.taps * plan.columns : 0;
  plan.planes_size = plan.in_place ? 0 : plan.block * plan.groups_at_once * plan.plane;
  plan.panels_size = plan.groups_at_once * output_panels * apart(pixels * kPanel);
  plan.staged_size = s.channels_last ? kPanel * apart(std::min(in_rows, s.in_height) * s.in_width) : 0;
  return plan;
}

WeightUnit weight_unit(const WeightPlan& plan, int64_t index) {
  WeightUnit u{};
  const int64_t outputs = index % plan.output_splits;
  index /= plan.output_splits;
  const int64_t channels = index % plan.channel_splits;
  index /= plan.channel_splits;
  u.group = index % plan.group_blocks * plan.groups_at_once;
  u.groups = std::min(plan.groups_at_once, plan.shape.groups - u.group);
  u.part = index / plan.group_blocks;
  u.channel = plan.group_channels * channels / plan.channel_splits;
  u.channels = plan.group_channels * (channels + 1) / plan.channel_splits - u.channel;
  const int64_t output_panels = plan.columns / kPanel;
  u.output = output_panels * outputs / plan.output_splits * kPanel;
  u.outputs =
      std::min(plan.group_outputs, output_panels * (outputs + 1) / plan.output_splits * kPanel) - u.output;
  return u;
}

WeightBand weight_band(const WeightPlan& plan, int64_t index) {
  const Conv2dShape& s = plan.shape;
  const int64_t image = index / plan.bands * plan.images, first = index % plan.bands * plan.out_rows;
  return {image, std::min(plan.images, s.batch - image), first,
          std::min(plan.out_rows, s.out_height - first)};
}

template WeightPlan make_weight_plan<float>(const Conv2dShape&, int64_t, int64_t);
template WeightPlan make_weight_plan<double>(const Conv2dShape&, int64_t, int64_t);

}  // namespace cnnkern
