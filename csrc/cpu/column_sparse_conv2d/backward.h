// The gradients of a column-sparse convolution on the CPU: of its input, its kept weights and its bias, each
// only where asked for. The bits do not depend on the number of threads. No call allocates; the caller asks
// for the scratch size first.
#pragma once
#include "cpu/conv2d/backward.h"
#include "params/column_sparse_conv2d.h"

namespace cnnkern {

template <class T>
int64_t column_sparse_conv2d_backward_scratch(const Conv2dShape& shape, int64_t kept, GradientsAsked asked,
                                              int64_t threads);  // in elements

template <class T>
void column_sparse_conv2d_backward(const ColumnSparseConv2dBackwardParams<T>& params);

}  // namespace cnnkern
