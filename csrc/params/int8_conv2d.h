// What one call of the int8 convolution is given: s8 weights, u8 or s8 activations, s32 sums.
#pragma once
#include <cstdint>

#include "params/column_sparse_conv2d.h"

namespace cnnkern {

// The longest sum that cannot leave s32: activations differ from their zero point by at most 255, weights
// from zero by at most 128. What a sum is on the way does not matter, since s32 addition wraps.
constexpr int64_t kInt8LongestSum = INT32_MAX / (255 * 128);

enum class Int8Output : int32_t { s32, f32, u8, s8 };

// Weights have a scale an output channel, activations one scale and one zero point.
struct Int8Conv2dParams {
  Conv2dShape shape;
  const KeptColumns* kept;    // of the weight matrix, or null where all columns are; the caller's
  const uint8_t* x;           // u8, or the bytes of s8; dense, in the shape's layout; the caller's
  const int8_t* packed;       // the weight by int8_conv2d_pack; aligned to 16 bytes on CUDA; the caller's
  const float* weight_scale;  // (K), or null where the output is s32; the caller's
  const float* bias;          // (K) or null, real numbers; the caller's
  void* y;                    // dense, in the shape's layout; the caller's
  uint8_t* scratch;           // int8_conv2d_scratch(...) bytes, 64-byte aligned; the caller's
  double x_scale;
  double out_scale;  // of u8 and s8
  int32_t x_zero_point;
  int32_t out_zero_point;  // of u8 and s8
  int64_t threads;         // of the CPU
  Int8Output output;
  bool x_signed;
  bool relu;
};

}  // namespace cnnkern
