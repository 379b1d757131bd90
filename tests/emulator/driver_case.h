// A line of driver.cpp's input, the memory of a call, and what a convolution is compared with.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "cuda/arithmetic.h"
#include "cuda/device.cuh"
#include "params/conv2d.h"

namespace cnnkern::cuda {

struct Case {
  std::string operation, arithmetic, layout;
  Conv2dShape shape;
  int64_t rank;
};

inline Arithmetic arithmetic_of(const std::string& name) {
  return name == "float32"   ? Arithmetic::kFloat32
         : name == "tf32"    ? Arithmetic::kTf32
         : name == "float16" ? Arithmetic::kFloat16
                             : Arithmetic::kBfloat16;
}

inline double operand_eps(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kFloat32:
      return 0;
    case Arithmetic::kBfloat16:
      return std::ldexp(1, -7);
    default:
      return std::ldexp(1, -10);
  }
}

// How far a sum of so many terms is rounded off at most, relative to the sum of their absolute values;
// operands of products are rounded, and so is the result.
inline double rounding(Arithmetic arithmetic, int64_t terms) {
  return static_cast<double>(terms) * std::ldexp(1, -23) + 3 * operand_eps(arithmetic);
}

inline std::string differs(const char* name, int64_t index, double got, double expected) {
  std::ostringstream message;
  message << name << "[" << index << "] is " << got << ", not " << expected;
  return message.str();
}

// Numbers of an arithmetic in memory of exactly their size, so that a step beyond it is noticed.
class Memory {
 public:
  Memory(int64_t size, Arithmetic arithmetic)
      : size_(size), arithmetic_(arithmetic), bytes_(new unsigned char[size * bytes_of(arithmetic)]) {
    std::memset(bytes_.get(), 0xFF, size * bytes_of(arithmetic));  // NaN
  }
  static Memory random(int64_t size, Arithmetic arithmetic) {
    static uint32_t state = 1;
    Memory memory(size, arithmetic);
    for (int64_t i = 0; i < size; ++i) {
      state = state * 1664525u + 1013904223u;
      memory.set(i, static_cast<float>(state >> 8 & 0xFFFF) / 32768 - 1);
    }
    return memory;
  }
  double at(int64_t i) const {
    if (bytes_of(arithmetic_) == 4) return reinterpret_cast<const float*>(bytes_.get())[i];
    const uint16_t bits = reinterpret_cast<const uint16_t*>(bytes_.get())[i];
    return arithmetic_ == Arithmetic::kFloat16 ? half_to_float(bits) : bfloat16_to_float(bits);
  }
  void* data() const { return bytes_.get(); }
  int64_t size() const { return size_; }

 private:
  void set(int64_t i, float value) {
    if (bytes_of(arithmetic_) == 4)
      reinterpret_cast<float*>(bytes_.get())[i] = value;
    else
      reinterpret_cast<uint16_t*>(bytes_.get())[i] =
          arithmetic_ == Arithmetic::kFloat16 ? float_to_half(value) : float_to_bfloat16(value);
  }

  int64_t size_;
  Arithmetic arithmetic_;
  std::unique_ptr<unsigned char[]> bytes_;
};

// Where element (n, c, y, x) of an image of `channels` x `height` x `width` lies.
inline int64_t at(bool channels_last, int64_t channels, int64_t height, int64_t width, int64_t n, int64_t c,
                  int64_t y, int64_t x) {
  return channels_last ? ((n * height + y) * width + x) * channels + c
                       : ((n * channels + c) * height + y) * width + x;
}

// The first element of y that is further from the convolution with weight(k, c, i, j) than rounding takes it.
// The weight comes with the sum of the absolute values that it is made of. shown(n, position) is the output
// that is to be seen there, or -1.
struct Weight {
  double value, magnitude;
};
template <class WeightOf, class Shown>
std::string compare(const Conv2dShape& s, const Memory& x, const Memory& bias, const Memory& y,
                    double relative, const WeightOf& weight, const Shown& shown) {
  const int64_t group_in = s.in_channels / s.groups, group_out = s.out_channels / s.groups;
  const auto sum_of = [&](int64_t n, int64_t k, int64_t output) {
    Weight sum{bias.at(k), std::abs(bias.at(k))};
    for (int64_t i = 0; i < s.kernel_height; ++i)
      for (int64_t j = 0; j < s.kernel_width; ++j) {
        const int64_t iy = output / s.out_width * s.stride_height - s.pad_height + i * s.dilation_height;
        const int64_t ix = output % s.out_width * s.stride_width - s.pad_width + j * s.dilation_width;
        if (iy < 0 || iy >= s.in_height || ix < 0 || ix >= s.in_width) continue;
        for (int64_t c = 0; c < group_in; ++c) {
          const Weight w = weight(k, c, i, j);
          const double value = x.at(at(s.channels_last, s.in_channels, s.in_height, s.in_width, n,
                                       k / group_out * group_in + c, iy, ix));
          sum.value += w.value * value, sum.magnitude += w.magnitude * std::abs(value);
        }
      }
    return sum;
  };
  for (int64_t n = 0; n < s.batch; ++n)
    for (int64_t k = 0; k < s.out_channels; ++k)
      for (int64_t position = 0; position < s.out_height * s.out_width; ++position) {
        const int64_t output = shown(n, position);
        const Weight sum = output < 0 ? Weight{0, 0} : sum_of(n, k, output);
        const int64_t place = at(s.channels_last, s.out_channels, s.out_height, s.out_width, n, k,
                                 position / s.out_width, position % s.out_width);
        if (!(std::abs(y.at(place) - sum.value) <= 2 * relative * sum.magnitude))
          return differs("y", place, y.at(place), sum.value);
      }
  return "";
}
template <class WeightOf>
std::string compare(const Conv2dShape& s, const Memory& x, const Memory& bias, const Memory& y,
                    double relative, const WeightOf& weight) {
  return compare(s, x, bias, y, relative, weight, [](int64_t, int64_t position) { return position; });
}

}  // namespace cnnkern::cuda
