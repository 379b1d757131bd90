// Column-sparse convolution: the kept values of the patches are gathered into a small matrix, which meets the
// kept weights in a dense product. Nothing else of the input is read, and nothing is copied twice.
//
// A work item is a band of output pixels against a range of output channels. Pixels are counted through all
// images, so that small images fill the product's tile together. The sum over k is cut into blocks, small
// enough that what was gathered stays in cache while all the weights meet it.
//
// Where the image is channels last, a row of the product is a pixel and its columns are output channels.
// Where the patches of a tile fit into level 1 they are not even gathered, but for those at the image's
// border. Where the image is channel first, columns are pixels: adjacent pixels of a channel are adjacent in
// memory, and what is computed is y as it will lie. Only where pixels are too few to fill vectors, it is rows
// again.
#include "cpu/column_sparse_conv2d/column_sparse_conv2d.h"

#include <algorithm>

#include "cpu/column_sparse_conv2d/patches.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

constexpr int64_t kRowDepth = 512;        // of a gathered block of rows, which stays in level 2
constexpr int64_t kPanelDepth = 384;      // of a gathered block of panels, most of which stays in level 1
constexpr int64_t kPanelsAtOnce = 3;      // of pixels that meet all weights
constexpr int64_t kRowPixels = 384;       // of a band
constexpr int64_t kPanelPixels = 480;     // of a band
constexpr int64_t kGatherCost = 48;       // of a value in a row, in multiply-adds
constexpr int64_t kNearBytes = 40 << 10;  // of the patches of a tile, which level 1 holds beside weights

// How the patches become an operand of the product.
enum class Way {
  rows,     // gathered, a row for each pixel
  panels,   // gathered, a column for each pixel
  offsets,  // not at all where they are inside the image: the product reads them through a table of offsets
};

struct Plan {
  Way way;
  int64_t spans;          // ranges of pixels that bands do not cross: one, or the images
  int64_t span;           // pixels of one
  int64_t unit;           // pixels that bands are a multiple of
  int64_t bands;          // of a span
  int64_t pixels;         // of a band, at most
  int64_t splits;         // of a group's output channels
  Blocks blocks;          // of the sum
  int64_t group_columns;  // K / G
  // Elements that the workers share, and of one worker's scratch, in this order.
  int64_t table_words, tables_size, gathered_size, inside_size, tile_size;
  int64_t worker_size() const { return gathered_size + inside_size + tile_size; }
  int64_t units() const { return (span + unit - 1) / unit; }
};

// From one gathered row to the next: an odd number of cache lines, which do not fall into the same sets.
int64_t row_pitch(int64_t depth) { return round_up(depth, kPanel) | kPanel; }

// Whether the lanes that stay empty at the end of the pixels cost less than gathering value by value.
bool fills_panels(int64_t pixels, int64_t group_columns) {
  return (panels(pixels) * kPanel - pixels) * group_columns < pixels * kGatherCost;
}

// Whether reading a tile's patches again, for the next output channels, costs less than gathering them.
template <class T>
bool has_near_patches(const Conv2dShape& s) {
  const int64_t tile = primitives<T>().tile_pixels;
  const int64_t columns = (tile - 1) * s.stride_width + (s.kernel_width - 1) * s.dilation_width + 1;
  const int64_t values = s.kernel_height * columns * (s.in_channels / s.groups);
  return s.out_width >= tile && values * static_cast<int64_t>(sizeof(T)) <= kNearBytes;
}

// How many pixels make a band, and how the threads share them.
void choose_bands(Plan& plan, const Conv2dShape& s, int64_t kept, int64_t threads) {
  plan.unit = plan.way == Way::panels ? kPanel : plan.way == Way::offsets ? s.out_width : 1;
  const int64_t units = plan.units();
  const int64_t most_pixels = std::max(plan.unit, plan.way == Way::panels ? kPanelPixels : kRowPixels);
  plan.bands = (plan.span + most_pixels - 1) / most_pixels;
  plan.splits = 1;
  const int64_t bands = plan.spans * plan.bands;
  if (bands % threads != 0 && bands < 8 * threads) {
    // Too few to go round: share the channels where the weights are most of what is read, else the pixels.
    const bool heavy_weights = s.out_channels * kept > 2 * s.batch * s.in_height * s.in_width * s.in_channels;
    const int64_t most = panels(plan.group_columns);
    if (heavy_weights && most >= threads) {
      plan.splits = threads;
    } else {
      plan.bands = std::min(units, round_up(plan.bands, threads));
      plan.splits = std::min(most, (threads + plan.spans * plan.bands - 1) / (plan.spans * plan.bands));
    }
  }
  plan.pixels = (units + plan.bands - 1) / plan.bands * plan.unit;
}

template <class T>
Plan make_plan(const Conv2dShape& s, int64_t kept, int64_t threads) {
  Plan plan{};
  const int64_t area = s.out_height * s.out_width;
  plan.group_columns = s.out_channels / s.groups;
  const bool by_image = !s.channels_last && area >= kPanelPixels;
  plan.spans = by_image ? s.batch : 1;
  plan.span = by_image ? area : s.batch * area;
  plan.way = Way::rows;
  if (!s.channels_last && fills_panels(plan.span, plan.group_columns)) plan.way = Way::panels;
  if (s.channels_last && has_near_patches<T>(s)) plan.way = Way::offsets;
  const bool by_panels = plan.way == Way::panels;
  choose_bands(plan, s, kept, threads);

  const int64_t most = by_panels ? kPanelDepth : kRowDepth;
  plan.blocks = {kept, std::max<int64_t>(1, (kept + most - 1) / most)};
  const int64_t depth = (kept + plan.blocks.count - 1) / plan.blocks.count;
  plan.table_words = Patches::words(s, plan.blocks, primitives<T>().window);
  plan.tables_size =
      round_up(s.groups * plan.table_words * static_cast<int64_t>(sizeof(int64_t) / sizeof(T)), kPanel);
  plan.gathered_size = by_panels ? kPanelsAtOnce * kPanel * depth : plan.pixels * row_pitch(depth);
  plan.gathered_size = round_up(plan.gathered_size, kPanel);
  plan.inside_size = by_panels ? round_up(s.kernel_height + s.kernel_width, kPanel) : 0;
  const bool has_tile = !s.channels_last && !(by_panels && (by_image || s.batch == 1));
  plan.tile_size = has_tile ? round_up(plan.pixels, kPanel) * round_up(plan.group_columns, kPanel) : 0;
  return plan;
}

// A band of output pixels against a range of one group's output channels.
struct Item {
  int64_t pixel, pixels, group, column, columns;
};

// What one worker works with.
template <class T>
struct Work {
  const Primitives<T>& kernels;
  const ColumnSparseConv2dParams<T>& p;
  const Plan& plan;
  T* gathered;
  uint32_t* inside;  // of gather_panels
  T* tile;

  Patches patches(int64_t group) const {
    return Patches(reinterpret_cast<int64_t*>(p.scratch) + group * plan.table_words, p.shape, plan.blocks,
                   kernels.window);
  }
  int64_t channel(const Item& item) const { return item.group * plan.group_columns + item.column; }
  const T* bias(const Item& item) const { return p.bias ? p.bias + channel(item) : nullptr; }
  const T* weights(const Item& item) const {
    return p.packed +
           (item.group * panels(plan.group_columns) + item.column / kPanel) * p.kept.count * kPanel;
  }
};

// Calls `write(at, count, to)` for the pixels of an item image by image: `count` from the item's `at`-th on
// belong at `to`, which is in the item's first channel.
template <class T, class Write>
void for_images(const Work<T>& work, const Item& item, const Write& write) {
  const Conv2dShape& s = work.p.shape;
  const int64_t area = s.out_height * s.out_width, end = item.pixel + item.pixels;
  for (int64_t first = item.pixel; first < end;) {
    const int64_t image = first / area, last = std::min(end, (image + 1) * area);
    write(first - item.pixel, last - first,
          work.p.y + (image * s.out_channels + work.channel(item)) * area + first % area);
    first = last;
  }
}

// What products of rows have in common, whatever their first operand.
template <class T>
Gemm<T> gemm_of(const Work<T>& work, const Item& item) {
  const Conv2dShape& s = work.p.shape;
  Gemm<T> gemm{};
  gemm.lines = 1;
  gemm.b_panel = work.plan.blocks.kept * kPanel;
  gemm.b_step = kPanel;
  gemm.c = s.channels_last ? work.p.y + item.pixel * s.out_channels + work.channel(item) : work.tile;
  gemm.c_pixel = s.channels_last ? s.out_channels : round_up(item.columns, kPanel);
  gemm.c_panel = kPanel;
  gemm.columns = item.columns;
  gemm.bias = work.bias(item);
  return gemm;
}

template <class T>
void compute_rows(const Work<T>& work, const Item& item) {
  const Conv2dShape& s = work.p.shape;
  const Patches patches = work.patches(item.group);
  const Blocks& blocks = work.plan.blocks;
  Gemm<T> gemm = gemm_of(work, item);
  gemm.a = work.gathered;
  gemm.pixels = item.pixels;
  for (int64_t block = 0; block < blocks.count; ++block) {
    const int64_t depth = blocks.end(block) - blocks.begin(block);
    gemm.patch = Patch::line(depth);
    gemm.a_pixel = row_pitch(depth);
    gather_rows(work.kernels, s, patches, blocks, block, work.p.x, item.pixel, item.pixels, work.gathered,
                gemm.a_pixel);
    gemm.b = work.weights(item) + blocks.begin(block) * kPanel;
    gemm.accumulate = block > 0;
    work.kernels.gemm(gemm);
  }
  if (s.channels_last) return;
  for_images(work, item, [&](int64_t at, int64_t count, T* to) {
    work.kernels.transpose(work.tile + at * gemm.c_pixel, gemm.c_pixel, count, item.columns, to,
                           s.out_height * s.out_width);
  });
}

// The pixels of output column `column` in the item's rows, of which `item` has those of the first row.
template <class T>
void compute_column(const Work<T>& work, const Item& item, int64_t column) {
  const Conv2dShape& s = work.p.shape;
  const Patches patches = work.patches(item.group);
  const Blocks& blocks = work.plan.blocks;
  Gemm<T> gemm = gemm_of(work, item);
  gemm.a = work.gathered;
  gemm.pixels = item.pixels / s.out_width;
  gemm.c += column * s.out_channels;
  gemm.c_pixel = s.out_width * s.out_channels;
  for (int64_t block = 0; block < blocks.count; ++block) {
    const int64_t depth = blocks.end(block) - blocks.begin(block);
    gemm.patch = Patch::line(depth);
    gemm.a_pixel = row_pitch(depth);
    for (int64_t row = 0; row < gemm.pixels; ++row)
      gather_rows(work.kernels, s, patches, blocks, block, work.p.x, item.pixel + row * s.out_width + column,
                  1, work.gathered + row * gemm.a_pixel, gemm.a_pixel);
    gemm.b = work.weights(item) + blocks.begin(block) * kPanel;
    gemm.accumulate = block > 0;
    work.kernels.gemm(gemm);
  }
}

// Whole output rows of one image, all taps of which are inside it but for those of the first and last
// columns.
template <class T>
void compute_inside(const Work<T>& work, const Item& item, const Interior& columns) {
  const Conv2dShape& s = work.p.shape;
  const ImageSteps steps = steps_of(s);
  const Patches patches = work.patches(item.group);
  const Blocks& blocks = work.plan.blocks;
  Gemm<T> gemm = gemm_of(work, item);
  gemm.a = work.p.x + OutputPixel(s, item.pixel + columns.begin).base(s, steps);
  gemm.a_pixel = s.stride_width * steps.column;
  gemm.a_line = s.stride_height * steps.row;
  gemm.pixels = columns.end - columns.begin;
  gemm.lines = item.pixels / s.out_width;
  gemm.c += columns.begin * s.out_channels;
  gemm.c_line = s.out_width * s.out_channels;
  for (int64_t block = 0; block < blocks.count; ++block) {
    gemm.b = work.weights(item) + blocks.begin(block) * kPanel;
    gemm.accumulate = block > 0;
    work.kernels.gemm_by_offset(gemm, patches.offset + blocks.begin(block),
                                blocks.end(block) - blocks.begin(block));
  }
  for (int64_t column = 0; column < columns.begin; ++column) compute_column(work, item, column);
  for (int64_t column = columns.end; column < s.out_width; ++column) compute_column(work, item, column);
}

template <class T>
void compute_offsets(const Work<T>& work, const Item& item) {
  const Conv2dShape& s = work.p.shape;
  const Interior columns =
      interior(s.in_width, s.out_width, s.kernel_width, s.stride_width, s.pad_width, s.dilation_width);
  const Interior rows =
      interior(s.in_height, s.out_height, s.kernel_height, s.stride_height, s.pad_height, s.dilation_height);
  const int64_t last = (item.pixel + item.pixels) / s.out_width;
  for (int64_t row = item.pixel / s.out_width; row < last;) {
    // Rows of one image that are alike: inside, or before, or after.
    const int64_t image = row / s.out_height * s.out_height, within = row - image;
    const bool inside = within >= rows.begin && within < rows.end && columns.begin < columns.end;
    const int64_t until = within < rows.begin ? rows.begin : within < rows.end ? rows.end : s.out_height;
    const int64_t end = std::min(last, image + until);
    Item part = item;
    part.pixel = row * s.out_width;
    part.pixels = (end - row) * s.out_width;
    inside ? compute_inside(work, part, columns) : compute_rows(work, part);
    row = end;
  }
}

template <class T>
void compute_panels(const Work<T>& work, const Item& item) {
  const Conv2dShape& s = work.p.shape;
  const Patches patches = work.patches(item.group);
  const Blocks& blocks = work.plan.blocks;
  const int64_t area = s.out_height * s.out_width;
  const bool in_place = item.pixel % area + item.pixels <= area;
  PixelGemm<T> gemm{};
  gemm.weight_panel = blocks.kept * kPanel;
  gemm.rows = item.columns;
  gemm.pixels = work.gathered;
  gemm.c_row = in_place ? area : round_up(item.pixels, kPanel);
  gemm.bias = work.bias(item);
  T* c = work.tile;
  if (in_place) for_images(work, item, [&](int64_t, int64_t, T* to) { c = to; });
  const int64_t all = panels(item.pixels), steps = (all + kPanelsAtOnce - 1) / kPanelsAtOnce;
  for (int64_t block = 0; block < blocks.count; ++block) {
    gemm.depth = blocks.end(block) - blocks.begin(block);
    gemm.weights = work.weights(item) + blocks.begin(block) * kPanel;
    gemm.accumulate = block > 0;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t first = all * step / steps * kPanel, last = all * (step + 1) / steps * kPanel;
      gemm.count = std::min(item.pixels, last) - first;
      gather_panels(work.kernels, s, patches, blocks, block, work.p.x, item.pixel + first, gemm.count,
                    work.inside, work.gathered);
      gemm.c = c + first;
      work.kernels.pixel_gemm(gemm);
    }
  }
  if (in_place) return;
  for_images(work, item, [&](int64_t at, int64_t count, T* to) {
    for (int64_t row = 0; row < item.columns; ++row)
      std::copy_n(work.tile + row * gemm.c_row + at, count, to + row * area);
  });
}

template <class T>
void run(const Work<T>& work, const Worker& me) {
  const Plan& plan = work.plan;
  const int64_t unit = plan.unit, units = plan.units();
  const int64_t bands = plan.spans * plan.bands, most = panels(plan.group_columns);
  const auto [begin, end] = me.share(bands * plan.splits);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t split = i / bands, span = i % bands / plan.bands, band = i % plan.bands;
    const int64_t first = units * band / plan.bands * unit;
    const int64_t last = std::min(plan.span, units * (band + 1) / plan.bands * unit);
    const int64_t column = most * split / plan.splits * kPanel;
    const int64_t column_end = std::min(plan.group_columns, most * (split + 1) / plan.splits * kPanel);
    for (int64_t group = 0; group < work.p.shape.groups; ++group) {
      const Item item{span * plan.span + first, last - first, group, column, column_end - column};
      if (plan.way == Way::panels) compute_panels(work, item);
      if (plan.way == Way::offsets) compute_offsets(work, item);
      if (plan.way == Way::rows) compute_rows(work, item);
    }
  }
}

// What is left where there are no columns.
template <class T>
void write_bias(const ColumnSparseConv2dParams<T>& p) {
  const Conv2dShape& s = p.shape;
  const int64_t area = s.out_height * s.out_width;
  parallel(p.threads, [&](const Worker& me) {
    const auto [begin, end] = me.share(s.batch * area * s.out_channels);
    for (int64_t i = begin; i < end; ++i)
      p.y[i] = p.bias ? p.bias[(s.channels_last ? i : i / area) % s.out_channels] : T(0);
  });
}

}  // namespace

template <class T>
int64_t column_sparse_conv2d_scratch(const Conv2dShape& shape, int64_t kept, int64_t threads) {
  const Plan plan = make_plan<T>(shape, kept, threads);
  return plan.tables_size + threads * plan.worker_size();
}

template <class T>
void column_sparse_conv2d(const ColumnSparseConv2dParams<T>& p) {
  if (p.kept.count == 0) return write_bias(p);
  const Primitives<T>& kernels = primitives<T>();
  const Plan plan = make_plan<T>(p.shape, p.kept.count, p.threads);
  const Work<T> shared{kernels, p, plan, nullptr, nullptr, nullptr};
  for (int64_t g = 0; g < p.shape.groups; ++g)
    shared.patches(g).fill(p.shape, p.kept.index + g * p.kept.count, g, plan.blocks, kernels.window);
  parallel(p.threads, [&](const Worker& me) {
    T* const gathered = p.scratch + plan.tables_size + me.index * plan.worker_size();
    T* const inside = gathered + plan.gathered_size;
    run<T>({kernels, p, plan, gathered, reinterpret_cast<uint32_t*>(inside), inside + plan.inside_size}, me);
  });
}

template int64_t column_sparse_conv2d_scratch<float>(const Conv2dShape&, int64_t, int64_t);
template int64_t column_sparse_conv2d_scratch<double>(const Conv2dShape&, int64_t, int64_t);
template void column_sparse_conv2d(const ColumnSparseConv2dParams<float>&);
template void column_sparse_conv2d(const ColumnSparseConv2dParams<double>&);

}  // namespace cnnkern
