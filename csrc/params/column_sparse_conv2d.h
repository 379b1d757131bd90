// What one call of the column-sparse convolution is given. Sizes are in elements.
#pragma once
#include <cstdint>

#include "params/conv2d.h"

namespace cnnkern {

// Which columns of the weight matrix (K, C/G * kH * kW) are kept, in each group.
struct KeptColumns {
  int64_t count;         // of one group
  const int32_t* index;  // (groups, count): (c * kH + i) * kW + j, each row strictly increasing; the caller's
};

template <class T>
struct ColumnSparseConv2dParams {
  Conv2dShape shape;
  KeptColumns kept;
  const T* x;       // dense, in the shape's layout; the caller's
  const T* packed;  // the weight by column_sparse_conv2d_pack; the caller's
  const T* bias;    // (K) or null; the caller's
  T* y;             // dense, in the shape's layout; the caller's
  T* scratch;       // column_sparse_conv2d_scratch values, 64-byte aligned; the caller's
  int64_t threads;
};

template <class T>
struct ColumnSparseConv2dBackwardParams {
  Conv2dShape shape;
  KeptColumns kept;
  const T* grad;    // of y, dense, in the shape's layout; the caller's, like all below
  const T* x;       // dense, in the shape's layout; read for grad_weight alone
  const T* weight;  // (K, kept), contiguous; read for grad_x alone
  // Gradients; null where not asked for.
  T* grad_x;       // dense, in the shape's layout
  T* grad_weight;  // (K, kept), contiguous
  T* grad_bias;    // (K)
  T* scratch;      // column_sparse_conv2d_backward_scratch values, 64-byte aligned
  int64_t threads;
};

}  // namespace cnnkern
