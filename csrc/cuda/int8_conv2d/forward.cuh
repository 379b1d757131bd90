// The int8 convolution for one type of activations.
#pragma once
#include "cuda/conv2d/forward.cuh"
#include "cuda/int8_conv2d/depthwise.cuh"
#include "cuda/int8_conv2d/kernels.h"
#include "cuda/int8_conv2d/padded_patches.cuh"

namespace cnnkern::cuda {

// T: see output.cuh.
template <class Math, class T>
cudaError_t int8_forward_to(const Int8Conv2dParams& p, const Conv2dPlan& plan, cudaStream_t stream) {
  using Number = typename Math::Number;
  const Conv2dShape& s = p.shape;
  if (is_depthwise(s)) return int8_depthwise<Number, T>(p, stream);
  const PaddedPatches<Number> patches(s, reinterpret_cast<const Number*>(p.x), p.x_zero_point);
  const Matrix<int8_t> weight{p.packed, s.out_channels / s.groups, patches.chunks(s)};
  Int8Target<T> target(p, s.groups, reinterpret_cast<const int32_t*>(p.packed + Int8Packing(s).sums));
  if (plan.splits > 1) target.partial = reinterpret_cast<int32_t*>(p.scratch);
  return multiply_patches<Math>(patches, weight, target, s.groups, plan, stream);
}

template <class Math>
cudaError_t int8_forward(const Int8Conv2dParams& p, const Conv2dPlan& plan, cudaStream_t stream) {
  const bool words = p.output == Int8Output::s32 || p.output == Int8Output::f32;
  return words ? int8_forward_to<Math, uint32_t>(p, plan, stream)
               : int8_forward_to<Math, uint8_t>(p, plan, stream);
}

}  // namespace cnnkern::cuda
