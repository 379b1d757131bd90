// What driver.cpp runs of the int8 operations on single elements and of max pooling. All of it is exact.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>

#include "cuda/int8_elementwise/int8_elementwise.h"
#include "cuda/int8_max_pool2d/int8_max_pool2d.h"
#include "driver_case.h"
#include "driver_int8.h"

namespace cnnkern::cuda {

inline int32_t number_of(const Case& c, unsigned char byte) {
  return c.arithmetic == "int8" ? static_cast<int8_t>(byte) : byte;
}
// The nearest step of the grid, clamped.
inline int32_t rounded(const Case& c, float steps, int32_t zero_point) {
  const double least = c.arithmetic == "int8" ? -128 : 0;
  return static_cast<int32_t>(std::clamp(double{std::nearbyint(steps)} + zero_point, least, least + 255));
}
inline int64_t size_of(const Case& c) {
  return c.shape.batch * c.shape.in_channels * c.shape.in_height * c.shape.in_width;
}
constexpr int32_t kZeroPoint = 3;

inline std::string run_int8_quantize(const Case& c, const Device&) {
  constexpr float kScale = 0.007f;
  const int64_t size = size_of(c);
  const Memory x = Memory::random(size, Arithmetic::kFloat32);
  const auto y = random_bytes(size);
  const cudaError_t error = int8_quantize(
      {static_cast<const float*>(x.data()), y.get(), size, kScale, kZeroPoint, c.arithmetic == "int8"},
      nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  for (int64_t i = 0; i < size; ++i) {
    const int32_t expected = rounded(c, static_cast<float>(x.at(i)) / kScale, kZeroPoint);
    if (number_of(c, y[i]) != expected) return differs("y", i, number_of(c, y[i]), expected);
  }
  return "";
}

inline std::string run_int8_add(const Case& c, const Device&) {
  constexpr float kScaleOfA = 0.75f, kScaleOfB = 0.375f;  // their products are exact, and so is the sum
  const int64_t size = size_of(c);
  const auto a = random_bytes(size), b = random_bytes(size), y = random_bytes(size);
  const cudaError_t error = int8_add({a.get(), b.get(), y.get(), size, kScaleOfA, kScaleOfB, 5, 7, kZeroPoint,
                                      c.arithmetic == "int8", false},
                                     nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  for (int64_t i = 0; i < size; ++i) {
    const float steps = static_cast<float>(number_of(c, a[i]) - 5) * kScaleOfA +
                        static_cast<float>(number_of(c, b[i]) - 7) * kScaleOfB;
    const int32_t expected = rounded(c, steps, kZeroPoint);
    if (number_of(c, y[i]) != expected) return differs("y", i, number_of(c, y[i]), expected);
  }
  return "";
}

inline std::string run_int8_max_pool2d(const Case& c, const Device&) {
  const Conv2dShape& s = c.shape;
  const PoolAxis down{s.in_height,     s.out_height, s.kernel_height,
                      s.stride_height, s.pad_height, s.dilation_height};
  const PoolAxis along{s.in_width,     s.out_width, s.kernel_width,
                       s.stride_width, s.pad_width, s.dilation_width};
  const auto x = random_bytes(size_of(c));
  const auto y = random_bytes(s.batch * s.in_channels * s.out_height * s.out_width);
  const cudaError_t error = int8_max_pool2d(
      {s.batch, s.in_channels, down, along, s.channels_last, c.arithmetic == "int8", x.get(), y.get()},
      nullptr);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t channel = 0; channel < s.in_channels; ++channel)
      for (int64_t oy = 0; oy < s.out_height; ++oy)
        for (int64_t ox = 0; ox < s.out_width; ++ox) {
          int32_t most = c.arithmetic == "int8" ? -128 : 0;
          for (int64_t i = 0; i < s.kernel_height; ++i)
            for (int64_t j = 0; j < s.kernel_width; ++j) {
              const int64_t iy = oy * s.stride_height - s.pad_height + i * s.dilation_height;
              const int64_t ix = ox * s.stride_width - s.pad_width + j * s.dilation_width;
              if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) continue;
              const int64_t from =
                  at(s.channels_last, s.in_channels, s.in_height, s.in_width, n, channel, iy, ix);
              most = std::max(most, number_of(c, x[from]));
            }
          const int64_t to =
              at(s.channels_last, s.in_channels, s.out_height, s.out_width, n, channel, oy, ox);
          if (number_of(c, y[to]) != most) return differs("y", to, number_of(c, y[to]), most);
        }
  return "";
}

}  // namespace cnnkern::cuda
