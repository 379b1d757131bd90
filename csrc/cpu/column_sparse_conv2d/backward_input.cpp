// The gradient of a column-sparse convolution's input: for a band of output pixels, the gradients of the kept
// values of their patches, which are a dense product, added to the pixels of the image that they came from.
// The product has a row for each pixel of a channels-last image, and a row for each column of a channel-first
// one, where adjacent pixels are adjacent in memory too.
//
// An item of work is one image's channels of one chunk, which nobody else writes.
#include <algorithm>

#include "cpu/column_sparse_conv2d/backward_plan.h"
#include "cpu/parallel.h"

namespace cnnkern {
namespace {

// Elements of one worker's scratch, in this order.
struct Sizes {
  int64_t weight_pitch;  // channel first: of a column's weights
  int64_t packed;  // of one chunk's weights, (panels(columns), K / G, kPanel) or (columns, weight_pitch);
                   // shared by the workers
  int64_t pitch;   // of a row of products; channel first: of gradients too
  int64_t rows, products;
  int64_t worker() const { return rows + products; }
};

Sizes sizes_of(const BackwardPlan& plan, const Conv2dShape& s) {
  Sizes sizes{};
  const int64_t outputs = s.out_channels / s.groups;
  if (s.channels_last) {
    sizes.packed = panels(plan.columns) * outputs * kPanel;
    sizes.pitch = round_up(plan.columns, kPanel);
    sizes.products = plan.pixels * sizes.pitch;
  } else {
    sizes.weight_pitch = round_up(outputs, kPanel) | kPanel;
    sizes.packed = round_up(plan.columns * sizes.weight_pitch, kPanel);
    sizes.pitch = round_up(plan.pixels, kPanel) | kPanel;
    sizes.rows = outputs * sizes.pitch;
    sizes.products = plan.columns * sizes.pitch;
  }
  return sizes;
}

// The weights of a chunk with k running over output channels, columns in the order of its patches.
template <class T>
void pack_chunk(const ColumnSparseConv2dBackwardParams<T>& p, const Chunk& chunk, const Patches& patches,
                int64_t weight_pitch, T* packed) {
  const int64_t outputs = p.shape.out_channels / p.shape.groups, kept = p.kept.count;
  const T* const weight = p.weight + chunk.group * outputs * kept + chunk.column;
  if (!p.shape.channels_last) {
    for (int64_t k = 0; k < chunk.count; ++k) {
      for (int64_t o = 0; o < outputs; ++o)
        packed[k * weight_pitch + o] = weight[o * kept + patches.column[k]];
    }
    return;
  }
  for (int64_t first = 0; first < chunk.count; first += kPanel) {
    const int64_t valid = std::min(kPanel, chunk.count - first);
    for (int64_t o = 0; o < outputs; ++o, packed += kPanel) {
      for (int64_t k = 0; k < valid; ++k) packed[k] = weight[o * kept + patches.column[first + k]];
      std::fill(packed + valid, packed + kPanel, T(0));
    }
  }
}

template <class T>
void clear_channels(const Conv2dShape& s, const Chunk& chunk, T* image) {
  const int64_t area = s.in_height * s.in_width;
  const int64_t channel = chunk.group * (s.in_channels / s.groups) + chunk.channel;
  if (!s.channels_last) {
    std::fill_n(image + channel * area, chunk.channels * area, T(0));
    return;
  }
  for (int64_t i = 0; i < area; ++i) std::fill_n(image + i * s.in_channels + channel, chunk.channels, T(0));
}

// Adds the gradients of the patches of `pixels` output pixels from `first` on.
template <class T>
void add_patches(const Conv2dShape& s, const Patches& patches, const T* products, int64_t pitch,
                 int64_t first, int64_t pixels, T* grad_x) {
  const ImageSteps steps = steps_of(s);
  OutputPixel pixel(s, first);
  for (int64_t p = 0; p < pixels; ++p, products += pitch, pixel.advance(s, 1)) {
    const int64_t base = pixel.base(s, steps);
    const TapRange rows = taps_inside(pixel.top(s), s.in_height, s.kernel_height, s.dilation_height);
    const TapRange columns = taps_inside(pixel.left(s), s.in_width, s.kernel_width, s.dilation_width);
    const auto add = [&](int64_t first_tap, int64_t end_tap) {
      const int64_t end = patches.begin[end_tap];
      for (int64_t k = patches.begin[first_tap]; k < end; ++k)
        grad_x[base + patches.offset[k]] += products[k];
    };
    if (columns.end - columns.begin == s.kernel_width) {
      add(rows.begin * s.kernel_width, rows.end * s.kernel_width);
    } else {
      for (int64_t i = rows.begin; i < rows.end; ++i)
        add(i * s.kernel_width + columns.begin, i * s.kernel_width + columns.end);
    }
  }
}

// The same from products of which a row, a column's, has adjacent pixels.
template <class T>
void add_rows(const Conv2dShape& s, const Patches& patches, const T* products, int64_t pitch, int64_t first,
              int64_t pixels, T* grad_x) {
  const ImageSteps steps = steps_of(s);
  const int64_t stride = s.stride_width;
  OutputPixel pixel(s, first);
  while (pixels > 0) {
    const int64_t count = std::min(pixels, s.out_width - pixel.column), base = pixel.base(s, steps);
    const TapRange rows = taps_inside(pixel.top(s), s.in_height, s.kernel_height, s.dilation_height);
    for (int64_t tap = rows.begin * s.kernel_width; tap < rows.end * s.kernel_width; ++tap) {
      const int64_t left = pixel.left(s) + tap % s.kernel_width * s.dilation_width;
      const int64_t begin = left >= 0 ? 0 : (stride - 1 - left) / stride;
      const int64_t end = left >= s.in_width ? 0 : std::min(count, (s.in_width - 1 - left) / stride + 1);
      for (int64_t k = patches.begin[tap]; k < patches.begin[tap + 1]; ++k) {
        const T* const from = products + k * pitch;
        T* const to = grad_x + base + patches.offset[k];
        if (stride == 1) {
          for (int64_t i = begin; i < end; ++i) to[i] += from[i];
        } else {
          for (int64_t i = begin; i < end; ++i) to[i * stride] += from[i];
        }
      }
    }
    products += count;
    pixels -= count;
    pixel.advance(s, count);
  }
}

// One image's channels of one chunk.
template <class T>
void compute(const Primitives<T>& kernels, const ColumnSparseConv2dBackwardParams<T>& p,
             const BackwardPlan& plan, const Sizes& sizes, int64_t index, int64_t image, const T* packed,
             T* rows) {
  const Conv2dShape& s = p.shape;
  const Chunk& chunk = *plan.chunk(p.scratch, index);
  const Patches patches = plan.patches(p.scratch, s, index, kernels.window);
  const int64_t area = s.out_height * s.out_width, outputs = s.out_channels / s.groups;
  T* const products = rows + sizes.rows;
  clear_channels(s, chunk, p.grad_x + image * s.in_channels * s.in_height * s.in_width);
  if (chunk.count == 0) return;
  Gemm<T> gemm{};
  gemm.lines = 1;
  gemm.patch = Patch::line(outputs);
  gemm.c = products;
  gemm.c_pixel = sizes.pitch;
  gemm.c_panel = kPanel;
  for (int64_t first = 0; first < area; first += plan.pixels) {
    const int64_t pixels = std::min(plan.pixels, area - first), pixel = image * area + first;
    if (s.channels_last) {
      gemm.a = p.grad + pixel * s.out_channels + chunk.group * outputs;
      gemm.a_pixel = s.out_channels;
      gemm.pixels = pixels;
      gemm.b = packed;
      gemm.b_panel = outputs * kPanel;
      gemm.b_step = kPanel;
      gemm.columns = chunk.count;
      kernels.gemm(gemm);
      add_patches(s, patches, products, sizes.pitch, pixel, pixels, p.grad_x);
    } else {
      const T* const from = p.grad + (image * s.out_channels + chunk.group * outputs) * area + first;
      for (int64_t o = 0; o < outputs; ++o) std::copy_n(from + o * area, pixels, rows + o * sizes.pitch);
      gemm.a = packed;
      gemm.a_pixel = sizes.weight_pitch;
      gemm.pixels = chunk.count;
      gemm.b = rows;
      gemm.b_panel = kPanel;
      gemm.b_step = sizes.pitch;
      gemm.columns = pixels;
      kernels.gemm(gemm);
      add_rows(s, patches, products, sizes.pitch, pixel, pixels, p.grad_x);
    }
  }
}

}  // namespace

template <class T>
int64_t column_sparse_backward_input_scratch(const BackwardPlan& plan, const Conv2dShape& s,
                                             int64_t threads) {
  const Sizes sizes = sizes_of(plan, s);
  return s.groups * plan.chunks * sizes.packed + threads * sizes.worker();
}

template <class T>
void column_sparse_backward_input(const BackwardPlan& plan, const ColumnSparseConv2dBackwardParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const Sizes sizes = sizes_of(plan, p.shape);
  const int64_t chunks = p.shape.groups * plan.chunks;
  T* const packed = p.scratch + plan.tables_size;
  parallel(p.threads, [&](const Worker& me) {
    const auto [first, last] = me.share(chunks);
    for (int64_t i = first; i < last; ++i)
      pack_chunk(p, *plan.chunk(p.scratch, i), plan.patches(p.scratch, p.shape, i, kernels.window),
                 sizes.weight_pitch, packed + i * sizes.packed);
    me.barrier();
    T* const rows = packed + chunks * sizes.packed + me.index * sizes.worker();
    const auto [begin, end] = me.share(p.shape.batch * chunks);
    for (int64_t i = begin; i < end; ++i)
      compute(kernels, p, plan, sizes, i % chunks, i / chunks, packed + i % chunks * sizes.packed, rows);
  });
}

template int64_t column_sparse_backward_input_scratch<float>(const BackwardPlan&, const Conv2dShape&,
                                                             int64_t);
template int64_t column_sparse_backward_input_scratch<double>(const BackwardPlan&, const Conv2dShape&,
                                                              int64_t);
template void column_sparse_backward_input(const BackwardPlan&,
                                           const ColumnSparseConv2dBackwardParams<float>&);
template void column_sparse_backward_input(const BackwardPlan&,
                                           const ColumnSparseConv2dBackwardParams<double>&);

}  // namespace cnnkern
