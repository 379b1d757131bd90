// The gradient of a column-sparse convolution's kept weights: for a band of output pixels, the product of the
// output's gradient, transposed so that a row is an output channel, with the gathered patches.
//
// A unit of work is a chunk's columns for a range of output channels, over all pixels: nobody else adds to
// its sums, and the bands depend on the shape alone.
#include <algorithm>

#include "cpu/column_sparse_conv2d/backward_plan.h"
#include "cpu/parallel.h"

namespace cnnkern {
namespace {

struct Sizes {
  int64_t splits;   // of a group's output channels
  int64_t outputs;  // of a split, at most
  int64_t bands;    // of all pixels
  // Elements of one worker's scratch, in this order.
  int64_t grad_pitch, grad;  // (outputs, pixels)
  int64_t patches;           // (pixels, pitch)
  int64_t sums_pitch, sums;  // (outputs, columns)
  int64_t worker() const { return grad + patches + sums; }
};

Sizes sizes_of(const BackwardPlan& plan, const Conv2dShape& s, int64_t threads) {
  Sizes sizes{};
  const int64_t outputs = s.out_channels / s.groups, chunks = s.groups * plan.chunks;
  sizes.splits = std::min(panels(outputs), (threads + chunks - 1) / chunks);
  sizes.outputs = (outputs + sizes.splits - 1) / sizes.splits;
  sizes.bands = (s.batch * s.out_height * s.out_width + plan.pixels - 1) / plan.pixels;
  sizes.grad_pitch = round_up(plan.pixels, kPanel) + kPanel;
  sizes.grad = sizes.outputs * sizes.grad_pitch;
  sizes.sums_pitch = round_up(plan.columns, kPanel);
  sizes.patches = plan.pixels * (sizes.sums_pitch + kPanel);
  sizes.sums = sizes.outputs * sizes.sums_pitch;
  return sizes;
}

// Output channels [channel, channel + outputs) of the gradient of `pixels` pixels from `first` on, one row a
// channel.
template <class T>
void gather_gradient(const Primitives<T>& kernels, const Conv2dShape& s, const T* grad, int64_t channel,
                     int64_t outputs, int64_t first, int64_t pixels, T* to, int64_t pitch) {
  if (s.channels_last) {
    kernels.transpose(grad + first * s.out_channels + channel, s.out_channels, pixels, outputs, to, pitch);
    return;
  }
  const int64_t area = s.out_height * s.out_width, end = first + pixels;
  for (int64_t at = first; at < end;) {
    const int64_t image = at / area, last = std::min(end, (image + 1) * area);
    const T* const from = grad + (image * s.out_channels + channel) * area + at % area;
    for (int64_t row = 0; row < outputs; ++row)
      std::copy_n(from + row * area, last - at, to + row * pitch + at - first);
    at = last;
  }
}

// A chunk's columns, for output channels [first, first + outputs) of its group.
template <class T>
void compute(const Primitives<T>& kernels, const ColumnSparseConv2dBackwardParams<T>& p,
             const BackwardPlan& plan, const Sizes& sizes, int64_t index, int64_t first, int64_t outputs,
             T* grad) {
  const Conv2dShape& s = p.shape;
  const Chunk& chunk = *plan.chunk(p.scratch, index);
  const Patches patches = plan.patches(p.scratch, s, index, kernels.window);
  const int64_t channel = chunk.group * (s.out_channels / s.groups) + first;
  const int64_t pixels = s.batch * s.out_height * s.out_width;
  T* const gathered = grad + sizes.grad;
  T* const sums = gathered + sizes.patches;
  Gemm<T> gemm{};
  gemm.a = grad;
  gemm.a_pixel = sizes.grad_pitch;
  gemm.pixels = outputs;
  gemm.lines = 1;
  gemm.b = gathered;
  gemm.b_panel = kPanel;
  gemm.b_step = round_up(chunk.count, kPanel) + kPanel;
  gemm.c = sums;
  gemm.c_pixel = sizes.sums_pitch;
  gemm.c_panel = kPanel;
  gemm.columns = chunk.count;
  for (int64_t band = 0; band < sizes.bands; ++band) {
    const int64_t begin = pixels * band / sizes.bands, end = pixels * (band + 1) / sizes.bands;
    gather_gradient(kernels, s, p.grad, channel, outputs, begin, end - begin, grad, sizes.grad_pitch);
    gather_rows(kernels, s, patches, {chunk.count, 1}, 0, p.x, begin, end - begin, gathered, gemm.b_step);
    gemm.patch = Patch::line(end - begin);
    gemm.accumulate = band > 0;
    kernels.gemm(gemm);
  }
  for (int64_t row = 0; row < outputs; ++row) {
    T* const to = p.grad_weight + (channel + row) * p.kept.count + chunk.column;
    for (int64_t k = 0; k < chunk.count; ++k) to[patches.column[k]] = sums[row * sizes.sums_pitch + k];
  }
}

}  // namespace

template <class T>
int64_t column_sparse_backward_weight_scratch(const BackwardPlan& plan, const Conv2dShape& s,
                                              int64_t threads) {
  return threads * sizes_of(plan, s, threads).worker();
}

template <class T>
void column_sparse_backward_weight(const BackwardPlan& plan, const ColumnSparseConv2dBackwardParams<T>& p) {
  const Primitives<T>& kernels = primitives<T>();
  const Sizes sizes = sizes_of(plan, p.shape, p.threads);
  const int64_t outputs = p.shape.out_channels / p.shape.groups;
  parallel(p.threads, [&](const Worker& me) {
    T* const scratch = p.scratch + plan.tables_size + me.index * sizes.worker();
    const auto [begin, end] = me.share(p.shape.groups * plan.chunks * sizes.splits);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t split = i % sizes.splits, first = outputs * split / sizes.splits;
      const int64_t last = outputs * (split + 1) / sizes.splits;
      compute(kernels, p, plan, sizes, i / sizes.splits, first, last - first, scratch);
    }
  });
}

template int64_t column_sparse_backward_weight_scratch<float>(const BackwardPlan&, const Conv2dShape&,
                                                              int64_t);
template int64_t column_sparse_backward_weight_scratch<double>(const BackwardPlan&, const Conv2dShape&,
                                                               int64_t);
template void column_sparse_backward_weight(const BackwardPlan&,
                                            const ColumnSparseConv2dBackwardParams<float>&);
template void column_sparse_backward_weight(const BackwardPlan&,
                                            const ColumnSparseConv2dBackwardParams<double>&);

}  // namespace cnnkern
