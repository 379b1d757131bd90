// See plan.h.
#include "cpu/column_sparse_conv2d/plan.h"

#include <algorithm>

#include "cpu/conv2d/rectangles.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

constexpr int64_t kRowDepth = 1024;            // of a gathered block of rows
constexpr int64_t kGatheredBytes = 512 << 10;  // of gathered rows, a quarter of level 2
constexpr int64_t kPanelDepth = 384;      // of a gathered block of panels, most of which stays in level 1
constexpr int64_t kPanelPixels = 480;     // of a band
constexpr int64_t kPixels = 512;          // of a band of several images
constexpr int64_t kNearBytes = 40 << 10;  // of the patches of a tile, which level 1 holds beside weights
// Measured: what makes gathering pay.
constexpr int64_t kFew = 3;            // of how many columns one is kept at most, for rows
constexpr int64_t kPassColumns = 128;  // output channels that use what was gathered, for rows
constexpr int64_t kTransposeCost = 2;  // of a value of the image or the output, in gathered values of panels
constexpr int64_t kEmptyLanesCost = 48;  // most multiply-adds of empty lanes a pixel

// Whether the patches of a tile fit into level 1 beside the weights, so that reading them again for the next
// output channels costs little.
template <class T>
bool has_near_patches(const Conv2dShape& s) {
  const int64_t tile = std::min(primitives<T>().tile_pixels, s.out_width);
  const int64_t columns = (tile - 1) * s.stride_width + (s.kernel_width - 1) * s.dilation_width + 1;
  const int64_t values = s.kernel_height * columns * (s.in_channels / s.groups);
  return values * static_cast<int64_t>(sizeof(T)) <= kNearBytes;
}

// Whether what has to be read are the weights.
bool heavy_weights(const Conv2dShape& s, int64_t kept) {
  return s.out_channels * kept > 2 * s.batch * s.in_height * s.in_width * s.in_channels;
}

// A channels-last image is read in place unless a product would read little of the cache lines that it
// touches, more often than level 1 keeps them. Few pixels are gathered at a time, and by every thread that
// has a share of the channels: their weights must come from level 2, and not be what is shared.
template <class T>
Way way_of_rows(const Conv2dShape& s, int64_t kept) {
  const int64_t all = s.in_channels / s.groups * s.kernel_height * s.kernel_width,
                columns = s.out_channels / s.groups;
  const bool pays = kFew * kept <= all && columns >= kPassColumns && !has_near_patches<T>(s);
  const bool near_weights = columns * kept * static_cast<int64_t>(sizeof(T)) <= level2_cache_bytes();
  return pays && near_weights && !heavy_weights(s, kept) ? Way::rows : Way::in_place;
}

// A channel-first image is gathered as panels unless making it channels last, and the output channel first
// again, is less work. A panel is gathered in as many steps as it has pieces of output rows.
Way way_of_panels(const Conv2dShape& s, int64_t kept) {
  const int64_t area = s.out_height * s.out_width, pixels = area >= kPanelPixels ? area : s.batch * area;
  const int64_t empty_lanes = panels(pixels) * kPanel - pixels;
  const int64_t gathered = area * kept * s.groups * (1 + (kPanel - 1) / s.out_width);
  const int64_t transposed = s.in_channels * s.in_height * s.in_width + s.out_channels * area;
  const bool fills = empty_lanes * (s.out_channels / s.groups) < pixels * kEmptyLanesCost;
  return fills && gathered <= kTransposeCost * transposed ? Way::panels : Way::in_place;
}

template <class T>
Way choose_way(const Conv2dShape& s, int64_t kept) {
  return s.channels_last ? way_of_rows<T>(s, kept) : way_of_panels(s, kept);
}

// As conv2d.cpp cuts its work, so that a band of the image stays in level 2; a gathered band does too.
template <class T>
void cut_rows(Plan& plan, const Conv2dShape& s, int64_t kept, int64_t threads) {
  const int64_t row_bytes = static_cast<int64_t>(sizeof(T)) * plan.pitch * s.stride_height;
  const int64_t fit = std::max<int64_t>(1, level2_cache_bytes() / 4 / row_bytes);
  int64_t bands = (s.out_height + fit - 1) / fit;
  const int64_t area = s.out_height * s.out_width;
  const int64_t image_bytes = row_bytes / s.stride_height * s.in_height;
  int64_t most_images =
      std::max<int64_t>(1, std::min(kPixels / area, level2_cache_bytes() / 2 / image_bytes));
  if (plan.way == Way::rows) {
    const int64_t depth = (kept + plan.blocks.count - 1) / plan.blocks.count;
    const int64_t pixels = kGatheredBytes / static_cast<int64_t>(sizeof(T)) / row_pitch(depth);
    bands = std::max(bands, (s.out_height * s.out_width + pixels - 1) / pixels);
    most_images = std::clamp<int64_t>(pixels / area, 1, most_images);
  }
  bands = std::min(bands, s.out_height);
  static_cast<Bands&>(plan) = cut_into_bands(s, bands, most_images, heavy_weights(s, kept), threads);
  plan.strip_rows = std::min(s.in_height, strip_rows(s, plan.out_rows));
}

void cut_panels(Plan& plan, const Conv2dShape& s, int64_t kept, int64_t threads) {
  const int64_t area = s.out_height * s.out_width;
  const bool by_image = area >= kPanelPixels;
  plan.spans = by_image ? s.batch : 1;
  plan.span = by_image ? area : s.batch * area;
  const int64_t units = panels(plan.span);
  plan.bands = (plan.span + kPanelPixels - 1) / kPanelPixels;
  plan.splits = 1;
  const int64_t bands = plan.spans * plan.bands;
  if (bands % threads != 0 && bands < 8 * threads) {
    const int64_t most = panels(plan.group_columns);
    if (heavy_weights(s, kept) && most >= threads) {
      plan.splits = threads;
    } else {
      plan.bands = std::min(units, round_up(plan.bands, threads));
      plan.splits = std::min(most, (threads + plan.spans * plan.bands - 1) / (plan.spans * plan.bands));
    }
  }
  plan.pixels = (units + plan.bands - 1) / plan.bands * kPanel;
}

template <class T>
int64_t elements_of(int64_t bytes) {
  return round_up((bytes + static_cast<int64_t>(sizeof(T)) - 1) / static_cast<int64_t>(sizeof(T)), kPanel);
}

}  // namespace

template <class T>
Plan make_plan(const Conv2dShape& s, int64_t kept, int64_t threads) {
  Plan plan{};
  plan.way = choose_way<T>(s, kept);
  plan.strip = !s.channels_last && plan.way != Way::panels;
  plan.group_columns = s.out_channels / s.groups;
  plan.pitch = s.in_width * s.in_channels;
  const int64_t most = plan.way == Way::panels ? kPanelDepth : plan.way == Way::rows ? kRowDepth : kept;
  plan.blocks = {kept, (kept + most - 1) / most};
  const int64_t depth = (kept + plan.blocks.count - 1) / plan.blocks.count;
  const int64_t word = static_cast<int64_t>(sizeof(int64_t));
  const Work<T> work{primitives<T>(), {s}, plan, nullptr};
  plan.table_words = Patches::words(work.table_shape(), plan.blocks, work.window());
  plan.tables_size = elements_of<T>(s.groups * plan.table_words * word);
  if (plan.way == Way::panels) {
    cut_panels(plan, s, kept, threads);
    plan.terms_size =
        elements_of<T>((s.kernel_height + s.kernel_width) * static_cast<int64_t>(sizeof(uint32_t)));
    plan.gathered_size = kPanelsAtOnce * kPanel * depth;
    const bool in_place = plan.span < s.batch * s.out_height * s.out_width || s.batch == 1;
    plan.tile_size = in_place ? 0 : round_up(plan.pixels, kPanel) * round_up(plan.group_columns, kPanel);
    return plan;
  }
  cut_rows<T>(plan, s, kept, threads);
  plan.columns_at_once = s.channels_last ? plan.group_columns : 2 * kPanel;
  const int64_t most_parts =
      vertical(s).most_stretches(plan.out_rows) * horizontal(s).most_stretches(s.out_width);
  plan.parts_size = elements_of<T>(most_parts * static_cast<int64_t>(sizeof(Gemm<T>)));
  plan.terms_size = elements_of<T>(most_parts * s.kernel_height * static_cast<int64_t>(sizeof(Terms)));
  const int64_t pixels = plan.images * plan.out_rows * s.out_width;
  if (plan.way == Way::rows) plan.gathered_size = pixels * row_pitch(depth);
  if (plan.strip) {
    plan.strip_size = round_up(plan.images * plan.strip_rows * plan.pitch, kPanel);
    plan.tile_size = pixels * round_up(std::min(plan.group_columns, plan.columns_at_once), kPanel);
  }
  return plan;
}

template Plan make_plan<float>(const Conv2dShape&, int64_t, int64_t);
template Plan make_plan<double>(const Conv2dShape&, int64_t, int64_t);

}  // namespace cnnkern
