// The gradients of a perforated convolution from those of its kept outputs alone.
#pragma once
#include "cpu/conv2d/backward.h"
#include "cpu/perforated_conv2d/perforated_conv2d.h"

namespace cnnkern {

template <class T>
struct PerforatedConv2dBackwardParams {
  Conv2dShape shape;
  Perforation perforation;
  const T* grad;    // of y, dense, in the shape's layout; the caller's
  const T* x;       // dense, in the shape's layout; read for grad_weight alone; the caller's
  const T* weight;  // (K, C/G, kH, kW), contiguous; read for grad_x alone; the caller's
  T* grad_x;        // dense, in the shape's layout, or null where not asked for; the caller's
  T* grad_weight;   // (K, C/G, kH, kW), contiguous, or null; the caller's
  T* grad_bias;     // (K) or null; the caller's
  T* scratch;       // perforated_conv2d_backward_scratch values, 64-byte aligned; the caller's
  int64_t threads;
};

// Whether it costs less than the gradients of the dense convolution: channels are counted in whole panels.
bool saves_backward(const Conv2dShape& shape, int64_t kept);

template <class T>
int64_t perforated_conv2d_backward_scratch(const Conv2dShape& shape, int64_t kept, GradientsAsked asked,
                                           int64_t threads);  // in elements

// The bits do not depend on the number of threads. `kept` is not 0.
template <class T>
void perforated_conv2d_backward(const PerforatedConv2dBackwardParams<T>& params);

}  // namespace cnnkern
