// What driver.cpp runs of the int8 convolution: every sum must be exact, and every output the formula's.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "cuda/int8_conv2d/int8_conv2d.h"
#include "driver_case.h"

namespace cnnkern::cuda {

// Bytes in memory of exactly their size, so that a step beyond it is noticed.
inline std::unique_ptr<unsigned char[]> random_bytes(int64_t size) {
  static uint32_t state = 7;
  std::unique_ptr<unsigned char[]> bytes(new unsigned char[size]);
  for (int64_t i = 0; i < size; ++i) {
    state = state * 1664525u + 1013904223u;
    bytes[i] = static_cast<unsigned char>(state >> 24);
  }
  return bytes;
}

class Int8Run {
 public:
  Int8Run(const Conv2dShape& s, bool x_signed)
      : s_(s),
        signed_(x_signed),
        taps_(s.in_channels / s.groups * s.kernel_height * s.kernel_width),
        x_(random_bytes(s.batch * s.in_channels * s.in_height * s.in_width)),
        weight_(random_bytes(s.out_channels * taps_)),
        scales_(new float[s.out_channels]),
        bias_(new float[s.out_channels]) {
    for (int64_t k = 0; k < s.out_channels; ++k) {
      scales_[k] = 0.01f * static_cast<float>(k % 7 + 1);
      bias_[k] = static_cast<float>(k % 11) - 5;
    }
  }

  std::string run(const Device& device) {
    const Int8Packing packing(s_);
    const auto packed = random_bytes(packing.size);
    const int64_t group_channels = s_.in_channels / s_.groups, tap = s_.kernel_height * s_.kernel_width;
    const int64_t sizes[] = {s_.out_channels, group_channels, s_.kernel_height, s_.kernel_width};
    const int64_t strides[] = {taps_, tap, s_.kernel_width, 1};
    auto* const to = reinterpret_cast<int8_t*>(packed.get());
    const cudaError_t error = int8_conv2d_pack(reinterpret_cast<const int8_t*>(weight_.get()), sizes, strides,
                                               s_.groups, to, nullptr);
    if (error != cudaSuccess) return cudaGetErrorString(error);
    const std::string wrong = compare(to, Int8Output::s32, device);
    return wrong.empty() ? compare(to, signed_ ? Int8Output::s8 : Int8Output::u8, device) : wrong;
  }

 private:
  int32_t zero_point() const { return signed_ ? -5 : 131; }

  int32_t exact(int64_t n, int64_t k, int64_t oy, int64_t ox) const {
    const int64_t group_in = s_.in_channels / s_.groups, first = k / (s_.out_channels / s_.groups) * group_in;
    int32_t sum = 0;
    for (int64_t c = 0; c < group_in; ++c)
      for (int64_t i = 0; i < s_.kernel_height; ++i)
        for (int64_t j = 0; j < s_.kernel_width; ++j) {
          const int64_t y = oy * s_.stride_height - s_.pad_height + i * s_.dilation_height;
          const int64_t x = ox * s_.stride_width - s_.pad_width + j * s_.dilation_width;
          if (y < 0 || y >= s_.in_height || x < 0 || x >= s_.in_width) continue;
          const unsigned char byte =
              x_[at(s_.channels_last, s_.in_channels, s_.in_height, s_.in_width, n, first + c, y, x)];
          const int32_t value = signed_ ? static_cast<int8_t>(byte) : byte;
          const auto weight =
              static_cast<int8_t>(weight_[((k * group_in + c) * s_.kernel_height + i) * s_.kernel_width + j]);
          sum += (value - zero_point()) * weight;
        }
    return sum;
  }

  std::string compare(const int8_t* packed, Int8Output output, const Device& device) const {
    constexpr double kScale = 0.5, kOutScale = 30;
    constexpr int32_t kOutZeroPoint = 9;
    const bool sums = output == Int8Output::s32;
    const auto y = random_bytes(s_.batch * s_.out_channels * s_.out_height * s_.out_width * (sums ? 4 : 1));
    const auto scratch = random_bytes(4 * int8_conv2d_scratch(s_, device));
    Int8Conv2dParams p{};
    p.shape = s_;
    p.x = x_.get();
    p.packed = packed;
    p.weight_scale = sums ? nullptr : scales_.get();
    p.bias = sums ? nullptr : bias_.get();
    p.y = y.get();
    p.scratch = scratch.get();
    p.x_scale = kScale;
    p.out_scale = kOutScale;
    p.x_zero_point = zero_point();
    p.out_zero_point = kOutZeroPoint;
    p.output = output;
    p.x_signed = signed_;
    if (const cudaError_t error = int8_conv2d(p, device, nullptr)) return cudaGetErrorString(error);
    for (int64_t n = 0; n < s_.batch; ++n)
      for (int64_t k = 0; k < s_.out_channels; ++k)
        for (int64_t oy = 0; oy < s_.out_height; ++oy)
          for (int64_t ox = 0; ox < s_.out_width; ++ox) {
            const int64_t index =
                at(s_.channels_last, s_.out_channels, s_.out_height, s_.out_width, n, k, oy, ox);
            int32_t expected = exact(n, k, oy, ox), got;
            if (sums) {
              std::memcpy(&got, y.get() + 4 * index, 4);
            } else {
              const auto multiplier = static_cast<float>(kScale * double{scales_[k]} / kOutScale);
              const volatile float scaled = static_cast<float>(expected) * multiplier;
              const float value = scaled + static_cast<float>(double{bias_[k]} / kOutScale);
              const int32_t least = signed_ ? -128 : 0;
              const double rounded = std::nearbyint(value) + kOutZeroPoint;
              expected = static_cast<int32_t>(std::fmin(std::fmax(rounded, least), least + 255));
              got = signed_ ? static_cast<int8_t>(y[index]) : y[index];
            }
            if (got == expected) continue;
            return differs("y", index, got, expected);
          }
    return "";
  }

  Conv2dShape s_;
  bool signed_;
  int64_t taps_;
  std::unique_ptr<unsigned char[]> x_, weight_;
  std::unique_ptr<float[]> scales_, bias_;
};

inline std::string run_int8_conv2d(const Case& c, const Device& device) {
  return Int8Run(c.shape, c.arithmetic == "int8").run(device);
}

}  // namespace cnnkern::cuda
