// Column-sparse convolution of a channel-first image with a column of the product for each output pixel:
// adjacent pixels of a channel are adjacent in memory, and what is computed is y as it will lie.
#include <algorithm>

#include "cpu/column_sparse_conv2d/plan.h"

namespace cnnkern {
namespace {

// A band of output pixels, counted through all images, against a range of one group's output channels.
struct Item {
  int64_t pixel, pixels, group, column, columns;
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
          work.p.y + (image * s.out_channels + work.channel(item.group, item.column)) * area + first % area);
    first = last;
  }
}

template <class T>
void compute(const Work<T>& work, const Item& item) {
  const Conv2dShape& s = work.p.shape;
  const Patches patches = work.patches(item.group);
  const Blocks& blocks = work.plan.blocks;
  const int64_t area = s.out_height * s.out_width;
  const bool in_place = item.pixel % area + item.pixels <= area;
  auto* const inside = reinterpret_cast<uint32_t*>(work.terms());
  PixelGemm<T> gemm{};
  gemm.weight_panel = blocks.kept * kPanel;
  gemm.rows = item.columns;
  gemm.pixels = work.gathered();
  gemm.c_row = in_place ? area : round_up(item.pixels, kPanel);
  gemm.bias = work.bias(item.group, item.column);
  T* c = work.tile();
  if (in_place) for_images(work, item, [&](int64_t, int64_t, T* to) { c = to; });
  const int64_t all = panels(item.pixels), steps = (all + kPanelsAtOnce - 1) / kPanelsAtOnce;
  for (int64_t block = 0; block < blocks.count; ++block) {
    gemm.depth = blocks.end(block) - blocks.begin(block);
    gemm.weights = work.weights(item.group, item.column) + blocks.begin(block) * kPanel;
    gemm.accumulate = block > 0;
    for (int64_t step = 0; step < steps; ++step) {
      const int64_t first = all * step / steps * kPanel, last = all * (step + 1) / steps * kPanel;
      gemm.count = std::min(item.pixels, last) - first;
      gather_panels(work.kernels, s, patches, blocks, block, work.p.x, item.pixel + first, gemm.count, inside,
                    work.gathered());
      gemm.c = c + first;
      work.kernels.pixel_gemm(gemm);
    }
  }
  if (in_place) return;
  for_images(work, item, [&](int64_t at, int64_t count, T* to) {
    for (int64_t row = 0; row < item.columns; ++row)
      std::copy_n(work.tile() + row * gemm.c_row + at, count, to + row * area);
  });
}

}  // namespace

template <class T>
void compute_panels(const Work<T>& work, int64_t begin, int64_t end) {
  const Plan& plan = work.plan;
  const int64_t units = panels(plan.span), bands = plan.spans * plan.bands, most = panels(plan.group_columns);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t split = i / bands, span = i % bands / plan.bands, band = i % plan.bands;
    const int64_t first = units * band / plan.bands * kPanel;
    const int64_t last = std::min(plan.span, units * (band + 1) / plan.bands * kPanel);
    const int64_t column = most * split / plan.splits * kPanel;
    const int64_t column_end = std::min(plan.group_columns, most * (split + 1) / plan.splits * kPanel);
    for (int64_t group = 0; group < work.p.shape.groups; ++group)
      compute(work, {span * plan.span + first, last - first, group, column, column_end - column});
  }
}

template void compute_panels(const Work<float>&, int64_t, int64_t);
template void compute_panels(const Work<double>&, int64_t, int64_t);

}  // namespace cnnkern
