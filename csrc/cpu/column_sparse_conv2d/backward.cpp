// See backward.h and backward_plan.h.
#include "cpu/column_sparse_conv2d/backward.h"

#include <algorithm>

#include "cpu/column_sparse_conv2d/backward_plan.h"

namespace cnnkern {

void fill_chunks(const BackwardPlan& plan, const Conv2dShape& s, const KeptColumns& kept, int64_t window,
                 void* scratch) {
  const int64_t taps = s.kernel_height * s.kernel_width, channels = s.in_channels / s.groups;
  for (int64_t g = 0; g < s.groups; ++g) {
    const int32_t* const index = kept.index + g * kept.count;
    int64_t column = 0, channel = 0;
    for (int64_t i = 0; i < plan.chunks; ++i) {
      // Up to the end of the channel in which an even share of the columns ends.
      const int64_t share = kept.count * (i + 1) / plan.chunks;
      int64_t end = i + 1 == plan.chunks ? channels : channel, last = column;
      if (share > column) end = std::max<int64_t>(end, index[share - 1] / taps + 1);
      while (last < kept.count && index[last] < end * taps) ++last;
      *plan.chunk(scratch, g * plan.chunks + i) = {g, channel, end - channel, column, last - column};
      plan.patches(scratch, s, g * plan.chunks + i, window)
          .fill(s, index + column, g, {last - column, 1}, window);
      channel = end;
      column = last;
    }
  }
}

template <class T>
int64_t column_sparse_conv2d_backward_scratch(const Conv2dShape& s, int64_t kept, GradientsAsked asked,
                                              int64_t threads) {
  const BackwardPlan plan = make_backward_plan<T>(s, kept, threads);
  int64_t size = 0;
  if (asked.x) size = column_sparse_backward_input_scratch<T>(plan, s, threads);
  if (asked.weight) size = std::max(size, column_sparse_backward_weight_scratch<T>(plan, s, threads));
  return std::max(plan.tables_size + size, asked.bias ? backward_bias_scratch<T>(s) : 0);
}

template <class T>
void column_sparse_conv2d_backward(const ColumnSparseConv2dBackwardParams<T>& p) {
  if (p.grad_x || p.grad_weight) {
    const BackwardPlan plan = make_backward_plan<T>(p.shape, p.kept.count, p.threads);
    fill_chunks(plan, p.shape, p.kept, primitives<T>().window, p.scratch);
    if (p.grad_x) column_sparse_backward_input(plan, p);
    if (p.grad_weight) column_sparse_backward_weight(plan, p);
  }
  if (p.grad_bias)
    backward_bias<T>(
        {p.shape, p.grad, nullptr, nullptr, nullptr, nullptr, p.grad_bias, p.scratch, p.threads});
}

template int64_t column_sparse_conv2d_backward_scratch<float>(const Conv2dShape&, int64_t, GradientsAsked,
                                                              int64_t);
template int64_t column_sparse_conv2d_backward_scratch<double>(const Conv2dShape&, int64_t, GradientsAsked,
                                                               int64_t);
template void column_sparse_conv2d_backward(const ColumnSparseConv2dBackwardParams<float>&);
template void column_sparse_conv2d_backward(const ColumnSparseConv2dBackwardParams<double>&);

}  // namespace cnnkern
