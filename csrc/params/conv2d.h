// The shape of a convolution, and what one call of a kernel is given. Sizes are in elements.
#pragma once
#include <cstdint>

namespace cnnkern {

struct Conv2dShape {
  int64_t batch;         // N
  int64_t in_channels;   // C
  int64_t in_height;     // H
  int64_t in_width;      // W
  int64_t out_channels;  // K
  int64_t out_height;    // oH
  int64_t out_width;     // oW
  int64_t kernel_height;
  int64_t kernel_width;
  int64_t stride_height;
  int64_t stride_width;
  int64_t pad_height;
  int64_t pad_width;
  int64_t dilation_height;
  int64_t dilation_width;
  int64_t groups;
  bool channels_last;  // x and y are (N, H, W, C) in memory, else (N, C, H, W)
};

// Every output channel reads one of several input channels.
constexpr bool is_depthwise(const Conv2dShape& s) { return s.groups > 1 && s.groups == s.in_channels; }

template <class T>
struct Conv2dParams {
  Conv2dShape shape;
  const T* x;       // dense, in the shape's layout; the caller's
  const T* packed;  // the weight by conv2d_pack; the caller's
  const T* bias;    // (K) or null; the caller's
  T* y;             // dense, in the shape's layout; the caller's
  T* scratch;       // conv2d_scratch(shape, threads) values, 64-byte aligned; the caller's
  int64_t threads;
  bool relu;
};

template <class T>
struct Conv2dBackwardParams {
  Conv2dShape shape;
  const T* grad;    // of y, dense, in the shape's layout; the caller's
  const T* x;       // dense, in the shape's layout; read for grad_weight alone; the caller's
  const T* weight;  // (K, C/G, kH, kW), contiguous; read for grad_x alone; the caller's
  T* grad_x;        // dense, in the shape's layout, or null where not asked for; the caller's
  T* grad_weight;   // (K, C/G, kH, kW), contiguous, or null; the caller's
  T* grad_bias;     // (K) or null; the caller's
  T* scratch;       // conv2d_backward_scratch values, 64-byte aligned; the caller's
  int64_t threads;
};

}  // namespace cnnkern
