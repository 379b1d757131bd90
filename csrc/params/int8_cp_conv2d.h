// What one call of the fused CP convolution of 8-bit integers is given.
#pragma once
#include "params/int8_conv2d.h"

namespace cnnkern {

struct Int8CpConv2dParams {
  Conv2dShape shape;            // of the convolution that the four stages stand for
  int64_t rank;                 // R, of all groups together
  const uint8_t* x;             // u8, or the bytes of s8; dense, in the shape's layout; the caller's
  const int8_t* packed;         // the factors by int8_cp_conv2d_pack; any alignment; the caller's
  const float* factor_c_scale;  // (R); the caller's
  const float* factor_k_scale;  // (K); the caller's
  const float* bias;            // (K) or null, real numbers; the caller's
  void* y;                      // dense, in the shape's layout; the caller's
  uint8_t* scratch;             // int8_cp_conv2d_scratch(...) bytes, 64-byte aligned; the caller's
  double x_scale;
  double out_scale;  // of u8 and s8
  int32_t x_zero_point;
  int32_t out_zero_point;  // of u8 and s8
  int64_t threads;
  Int8Output output;  // f32, u8 or s8
  bool x_signed;
  bool relu;
};

}  // namespace cnnkern
