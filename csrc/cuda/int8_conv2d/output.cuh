// What becomes of s32 sums: themselves, real numbers, or integers of 8 bits again, with the bits that the
// kernels of the CPU give (cpu/int8_primitives.h).
#pragma once
#include <limits>

#include "cuda/gemm/output.cuh"
#include "params/int8_conv2d.h"

namespace cnnkern::cuda {

// Of one output channel.
struct Int8Column {
  int32_t correction;  // what the activations' zero point contributes to the products
  float multiplier, offset;
};

struct Requantization {
  const int32_t* weight_sums;  // (K), or null where the sums are of activations less their zero point
  const float* weight_scale;   // (K), or null where s32 comes out
  const float* bias;           // (K), or null
  double x_scale, out_scale;
  float low, high;
  int32_t x_zero_point, out_zero_point;

  Requantization(const Int8Conv2dParams& p, const int32_t* weight_sums)
      : weight_sums(weight_sums),
        weight_scale(p.weight_scale),
        bias(p.bias),
        x_scale(p.x_scale),
        out_scale(1),
        low(p.relu ? 0 : -std::numeric_limits<float>::infinity()),
        high(0),
        x_zero_point(p.x_zero_point),
        out_zero_point(0) {
    if (p.output != Int8Output::u8 && p.output != Int8Output::s8) return;
    const int32_t least = p.output == Int8Output::s8 ? -128 : 0;
    out_scale = p.out_scale;
    out_zero_point = p.out_zero_point;
    low = static_cast<float>(p.relu ? 0 : least - out_zero_point);
    high = static_cast<float>(least + 255 - out_zero_point);
  }

  __device__ __forceinline__ Int8Column column(int64_t channel) const {
    Int8Column c{weight_sums ? x_zero_point * weight_sums[channel] : 0, 0, 0};
    if (weight_scale) c.multiplier = static_cast<float>(x_scale * double{weight_scale[channel]} / out_scale);
    if (bias) c.offset = static_cast<float>(double{bias[channel]} / out_scale);
    return c;
  }
  // T is the bits of s32 or float32, or of u8 or s8. No product is fused with the sum that follows it.
  template <class T>
  __device__ __forceinline__ T finished(int32_t sum, const Int8Column& c) const {
    const int32_t exact = sum - c.correction;
    if (sizeof(T) == 4 && !weight_scale) return static_cast<T>(exact);
    const float value = __fadd_rn(__fmul_rn(static_cast<float>(exact), c.multiplier), c.offset);
    const float above = value < low ? low : value;
    if constexpr (sizeof(T) == 4)
      return __float_as_uint(above);
    else
      return static_cast<T>(__float2int_rn(above < high ? above : high) + out_zero_point);
  }
};

// As Output, of integers; T is as above.
template <class T>
struct Int8Target : Target<T> {
  using Sum = int32_t;
  static constexpr int kColumnBytes = sizeof(Int8Column);

  Requantization numbers;
  int32_t* partial;  // (splits, elements of y), or null where the sum is not split

  Int8Target(const Int8Conv2dParams& p, int64_t groups, const int32_t* weight_sums)
      : Target<T>(static_cast<T*>(p.y), p.shape.batch, p.shape.out_height * p.shape.out_width,
                  p.shape.out_channels, groups, p.shape.channels_last,
                  p.shape.out_height * p.shape.out_width),
        numbers(p, weight_sums),
        partial(nullptr) {}

  __device__ __forceinline__ T finished(int32_t sum, int64_t channel) const {
    return numbers.template finished<T>(sum, numbers.column(channel));
  }
  template <class Tile>
  __device__ auto finisher(int group, int first_column, int32_t* memory) const {
    auto* const columns = reinterpret_cast<Int8Column*>(memory);
    static_assert(Tile::kThreads >= Tile::kN, "a thread for each column");
    const auto i = static_cast<int>(threadIdx.x);
    if (i < Tile::kN && first_column + i < this->group_channels)
      columns[i] = numbers.column(int64_t{group} * this->group_channels + first_column + i);
    return [this, columns, first_column](int32_t sum, int column) {
      return numbers.template finished<T>(sum, columns[column - first_column]);
    };
  }
};

}  // namespace cnnkern::cuda
