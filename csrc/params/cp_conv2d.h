// What one call of the fused CP convolution is given. Sizes are in elements.
#pragma once
#include <cstdint>

#include "params/conv2d.h"

namespace cnnkern {

template <class T>
struct CpConv2dParams {
  Conv2dShape shape;  // of the convolution that the four stages stand for
  int64_t rank;       // R, of all groups together
  const T* x;         // dense, in the shape's layout; the caller's
  const T* packed;    // the factors by cp_conv2d_pack; the caller's
  const T* bias;      // (K) or null; the caller's
  T* y;               // dense, in the shape's layout; the caller's
  T* scratch;         // cp_conv2d_scratch(shape, rank, threads) values, 64-byte aligned; the caller's
  int64_t threads;
};

template <class T>
struct CpConv2dBackwardParams {
  Conv2dShape shape;
  int64_t rank;
  const T* grad;      // of y; dense, in the shape's layout; the caller's, like all below
  const T* x;         // dense, in the shape's layout
  const T* factor_c;  // (R, C/G)
  const T* factor_h;  // (R, kH)
  const T* factor_w;  // (R, kW)
  const T* factor_k;  // (K, R/G)
  // Gradients; null where not asked for.
  T* grad_x;     // dense, in the shape's layout
  T* grad_c;     // (R, C/G)
  T* grad_h;     // (R, kH)
  T* grad_w;     // (R, kW)
  T* grad_k;     // (K, R/G)
  T* grad_bias;  // (K)
  T* scratch;    // cp_conv2d_backward_scratch(shape, rank, threads) values, 64-byte aligned
  int64_t threads;
};

}  // namespace cnnkern
