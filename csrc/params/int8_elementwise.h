// What one call of the int8 operations on single elements is given. A quantized q stands for
// scale * (q - zero_point).
#pragma once
#include <cstdint>

namespace cnnkern {

// y = round(x / scale) + zero_point, clamped to the values of its type; 0 where x is NaN.
struct Int8QuantizeParams {
  const float* x;  // (size); the caller's
  uint8_t* y;      // (size) u8, or the bytes of s8; the caller's
  int64_t size;
  float scale;
  int32_t zero_point;
  bool is_signed;  // y is s8
};

// y = round((a - a_zero_point) * a_multiplier + (b - b_zero_point) * b_multiplier) + out_zero_point, clamped
// to the values of its type, or to those from out_zero_point on. Products and sum are float32, each rounded.
struct Int8AddParams {
  const uint8_t* a;  // (size) u8, or the bytes of s8; the caller's
  const uint8_t* b;  // the same
  uint8_t* y;        // the same
  int64_t size;
  float a_multiplier;  // the scale of a over that of y
  float b_multiplier;
  int32_t a_zero_point, b_zero_point, out_zero_point;
  bool is_signed;  // all three are s8
  bool relu;
};

}  // namespace cnnkern
