// What the bindings of the column-sparse convolution share: its columns, as a kernel may trust them.
#pragma once
#include "bindings/tensors.h"
#include "params/column_sparse_conv2d.h"

namespace cnnkern {

// `columns` as contiguous int32: (count), or (groups, count).
struct Columns {
  Tensor tensor;
  KeptColumns kept;
};

// Checks every index: kernels read through them. `total` is C/G * kH * kW.
Columns as_columns(const Tensor& columns, int64_t groups, int64_t total);

double multiply_adds(const Conv2dShape& shape, int64_t kept);

}  // namespace cnnkern
