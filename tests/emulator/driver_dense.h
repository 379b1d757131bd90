// What driver.cpp runs of the dense convolution, its gradients and im2col.
#pragma once
#include <cmath>
#include <cstdint>
#include <string>

#include "cuda/conv2d/backward.h"
#include "cuda/conv2d/conv2d.h"
#include "cuda/im2col/im2col.h"
#include "driver_case.h"
#include "driver_gradients.h"

namespace cnnkern::cuda {

// A random weight (K, C/G, kH, kW), packed for the convolution or for the gradient of x.
struct DenseWeight {
  int64_t sizes[4], strides[4];
  Memory values;

  DenseWeight(const Conv2dShape& s, Arithmetic arithmetic)
      : sizes{s.out_channels, s.in_channels / s.groups, s.kernel_height, s.kernel_width},
        strides{sizes[1] * sizes[2] * sizes[3], sizes[2] * sizes[3], sizes[3], 1},
        values(Memory::random(sizes[0] * strides[0], arithmetic)) {}

  Memory pack(const WeightLayout& layout, Arithmetic arithmetic, cudaError_t& error) const {
    const int64_t bytes = bytes_of(arithmetic);
    Memory packed(
        conv2d_packed_size(layout.rows, layout.channels, layout.kernel_height, layout.kernel_width, bytes),
        arithmetic);
    error = conv2d_pack(values.data(), layout, bytes, packed.data(), nullptr);
    return packed;
  }
  Weight operator()(int64_t k, int64_t channel, int64_t i, int64_t j) const {
    const double value = values.at(k * strides[0] + channel * strides[1] + i * strides[2] + j);
    return {value, std::abs(value)};
  }
};

inline std::string run_conv2d(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const DenseWeight weight(s, arithmetic);
  const Memory bias = Memory::random(s.out_channels, arithmetic);
  const Memory y(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const Memory scratch(conv2d_scratch(s, arithmetic, device), Arithmetic::kFloat32);
  cudaError_t error;
  const Memory packed = weight.pack(WeightLayout::forward(weight.sizes, weight.strides), arithmetic, error);
  if (error == cudaSuccess)
    error = conv2d({s, arithmetic, x.data(), packed.data(), bias.data(), y.data(),
                    static_cast<float*>(scratch.data()), false},
                   device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return compare(s, x, bias, y, rounding(arithmetic, weight.strides[0] + 1), weight);
}

inline std::string run_conv2d_backward(const Case& c, const Device& device) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const Memory grad = Memory::random(s.batch * s.out_channels * s.out_height * s.out_width, arithmetic);
  const DenseWeight weight(s, arithmetic);
  const Memory of_x(x.size(), arithmetic), of_weight(weight.values.size(), arithmetic),
      of_bias(s.out_channels, arithmetic);
  cudaError_t error;
  const Memory packed =
      weight.pack(WeightLayout::transposed(weight.sizes, weight.strides, s.groups), arithmetic, error);
  Conv2dBackwardCall call{s,           arithmetic,       grad.data(),    x.data(), packed.data(),
                          of_x.data(), of_weight.data(), of_bias.data(), nullptr};
  const Memory scratch(conv2d_backward_scratch(call, device), Arithmetic::kFloat32);
  call.scratch = static_cast<float*>(scratch.data());
  if (error == cudaSuccess) error = conv2d_backward(call, device, nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return DenseGradients(s, grad, x, weight)
      .compare(of_x, of_weight, of_bias, rounding(arithmetic, grad.size()));
}

// y: (N, C kH kW, oH oW), copies of x.
inline std::string run_im2col(const Case& c, const Device&) {
  const Conv2dShape& s = c.shape;
  const Arithmetic arithmetic = arithmetic_of(c.arithmetic);
  const Memory x = Memory::random(s.batch * s.in_channels * s.in_height * s.in_width, arithmetic);
  const int64_t taps = s.kernel_height * s.kernel_width, pixels = s.out_height * s.out_width;
  const Memory y(s.batch * s.in_channels * taps * pixels, arithmetic);
  const cudaError_t error = im2col(s, bytes_of(arithmetic), x.data(), y.data(), nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  for (int64_t index = 0; index < y.size(); ++index) {
    const int64_t pixel = index % pixels, tap = index / pixels % taps;
    const int64_t channel = index / pixels / taps % s.in_channels, n = index / pixels / taps / s.in_channels;
    const int64_t iy =
        pixel / s.out_width * s.stride_height - s.pad_height + tap / s.kernel_width * s.dilation_height;
    const int64_t ix =
        pixel % s.out_width * s.stride_width - s.pad_width + tap % s.kernel_width * s.dilation_width;
    const bool inside = iy >= 0 && iy < s.in_height && ix >= 0 && ix < s.in_width;
    const double expected =
        inside ? x.at(at(s.channels_last, s.in_channels, s.in_height, s.in_width, n, channel, iy, ix)) : 0;
    if (y.at(index) != expected) return differs("y", index, y.at(index), expected);
  }
  return "";
}

}  // namespace cnnkern::cuda
