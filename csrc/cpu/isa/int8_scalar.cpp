// The int8 inner loops for any CPU: what the others must agree with to the last bit.
#include "cpu/isa/isa.h"

namespace cnnkern::scalar {
namespace {
#include "cpu/isa/prelude.inc"

// The compiler must not fuse the product with the sum that follows it, which other CPUs do not.
INLINE float rounded(float product) {
  __asm__("" : "+m"(product));
  return product;
}

// Rounded to nearest, ties to even: adding 1.5 * 2^23 leaves no bits for a fraction. |value| < 2^22.
INLINE int32_t nearest_even(float value) {
  constexpr float kNoFraction = 12582912.0f;
  return static_cast<int32_t>(rounded(value + kNoFraction) - kNoFraction);
}

// The sums of one pixel's first `columns` columns of a panel to `c`, whose element 0 is the panel's first.
void finish(const Int8Epilogue& e, int64_t column, const uint32_t* sum, int64_t columns, void* c,
            int64_t at) {
  for (int64_t j = 0; j < columns; ++j) {
    const int32_t exact = static_cast<int32_t>(sum[j] - static_cast<uint32_t>(e.correction[column + j]));
    if (e.output == Int8Output::s32) {
      static_cast<int32_t*>(c)[at + j] = exact;
      continue;
    }
    const float scaled = rounded(static_cast<float>(exact) * e.multiplier[column + j]);
    const float value = scaled + e.offset[column + j];
    const float above = value < e.low ? e.low : value;
    if (e.output == Int8Output::f32) {
      static_cast<float*>(c)[at + j] = above;
    } else {
      const int32_t q = nearest_even(above < e.high ? above : e.high) + e.zero_point;
      static_cast<uint8_t*>(c)[at + j] = static_cast<uint8_t>(q);
    }
  }
}

void gemm(const Int8Gemm& g) {
  const int64_t b_panel = g.runs * g.quads * kPanel * kQuad;
  for (int64_t column = 0; column < g.columns; column += kPanel) {
    const int64_t columns = g.columns - column < kPanel ? g.columns - column : kPanel;
    for (int64_t p = 0; p < g.planes * g.lines * g.pixels; ++p) {
      const int64_t x = p % g.pixels, line = p / g.pixels % g.lines, plane = p / g.pixels / g.lines;
      const uint8_t* a = g.a + plane * g.a_plane + line * g.a_line + x * g.a_pixel;
      const int8_t* b = g.b + column / kPanel * b_panel;
      uint32_t sum[kPanel] = {};
      for (int64_t run = 0; run < g.runs; ++run, a += g.a_run) {
        for (int64_t k = 0; k < g.quads * kQuad; k += kQuad, b += kPanel * kQuad) {
          for (int64_t j = 0; j < kPanel; ++j) {
            int32_t products = 0;
            for (int64_t i = 0; i < kQuad; ++i) products += a[k + i] * b[j * kQuad + i];
            sum[j] += static_cast<uint32_t>(products);
          }
        }
      }
      finish(g.epilogue, column, sum, columns, g.c,
             plane * g.c_plane + line * g.c_line + x * g.c_pixel + column / kPanel * g.c_panel);
    }
  }
}

void depthwise_line(const Int8DepthwiseLine& d) {
  for (int64_t x = 0; x < d.out_width; ++x) {
    uint32_t sum[kPanel] = {};
    for (int64_t t = 0; t < d.taps; ++t) {
      const uint8_t* const from = d.x + x * d.x_pixel + d.tap_offset[t];
      for (int64_t j = 0; j < kPanel; ++j)
        sum[j] += static_cast<uint32_t>(from[j] * d.weight[t * kPanel + j]);
    }
    finish(d.epilogue, 0, sum, d.channels, d.out, x * d.out_pixel);
  }
}

void transpose(const uint8_t* from, int64_t from_stride, int64_t rows, int64_t columns, uint8_t* to,
               int64_t to_stride) {
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = 0; i < rows; ++i) to[j * to_stride + i] = from[i * from_stride + j];
  }
}

void transpose_rows(const uint8_t* from, const int64_t* row, int64_t rows, int64_t columns, uint8_t* to,
                    int64_t to_stride) {
  for (int64_t j = 0; j < columns; ++j) {
    for (int64_t i = 0; i < rows; ++i) to[j * to_stride + i] = from[row[i] + j];
  }
}

void quantize(const float* from, int64_t pixels, uint8_t* to, int64_t to_pixel, int64_t) {
  for (int64_t x = 0; x < pixels; ++x, from += kPanel, to += to_pixel) {
    for (int64_t j = 0; j < kPanel; ++j) {
      const float above = from[j] < -127.0f ? -127.0f : from[j];
      to[j] = static_cast<uint8_t>(nearest_even(above < 127.0f ? above : 127.0f) + 128);
    }
  }
}

// The values of a type of 8 bits, less a zero point.
struct Limits {
  float low, high;
  Limits(int32_t zero_point, bool is_signed) {
    const int32_t least = is_signed ? -128 : 0;
    low = static_cast<float>(least - zero_point);
    high = static_cast<float>(least + 255 - zero_point);
  }
};

INLINE uint8_t clamped(float steps, const Limits& limits, int32_t zero_point) {
  const float above = steps > limits.low ? steps : limits.low;
  return static_cast<uint8_t>(nearest_even(above < limits.high ? above : limits.high) + zero_point);
}

void quantize_elements(const Int8QuantizeParams& p, int64_t begin, int64_t end) {
  const Limits limits(p.zero_point, p.is_signed);
  for (int64_t i = begin; i < end; ++i) {
    const float steps = p.x[i] / p.scale;
    p.y[i] = steps == steps ? clamped(steps, limits, p.zero_point) : 0;
  }
}

void add_elements(const Int8AddParams& p, int64_t begin, int64_t end) {
  Limits limits(p.out_zero_point, p.is_signed);
  if (p.relu) limits.low = 0;
  const auto integer = [&](uint8_t value) -> int32_t {
    return p.is_signed ? static_cast<int32_t>(static_cast<int8_t>(value)) : value;
  };
  for (int64_t i = begin; i < end; ++i) {
    const float a = rounded(static_cast<float>(integer(p.a[i]) - p.a_zero_point) * p.a_multiplier);
    const float b = rounded(static_cast<float>(integer(p.b[i]) - p.b_zero_point) * p.b_multiplier);
    p.y[i] = clamped(a + b, limits, p.out_zero_point);
  }
}

INLINE uint8_t greater(uint8_t a, uint8_t b, uint8_t flipped) {
  return (a ^ flipped) > (b ^ flipped) ? a : b;
}

void max_line(const Int8MaxLine& l) {
  const uint8_t flipped = l.is_signed ? 0x80 : 0;
  for (int64_t p = 0; p < l.pixels; ++p) {
    const uint8_t* const from = l.x + p * l.x_pixel;
    uint8_t* const to = l.y + p * l.y_pixel;
    for (int64_t i = 0; i < l.count; ++i) to[i] = from[l.offset[0] + i];
    for (int64_t t = 1; t < l.taps; ++t) {
      for (int64_t i = 0; i < l.count; ++i) to[i] = greater(to[i], from[l.offset[t] + i], flipped);
    }
  }
}

void split_columns(const Int8SplitColumns& s) {
  for (int64_t r = 0; r < s.rows; ++r) {
    for (int64_t p = 0; p < s.phases; ++p) {
      const uint8_t* const from = s.from + r * s.from_row + p;
      uint8_t* const to = s.to + p * s.to_phase + r * s.to_row;
      for (int64_t i = 0; i < s.count; ++i) to[i] = from[i * s.stride];
    }
  }
}
}  // namespace

const Int8Primitives kInt8Primitives = {"scalar",
                                        1,
                                        false,
                                        gemm,
                                        depthwise_line,
                                        transpose,
                                        transpose_rows,
                                        quantize,
                                        quantize_elements,
                                        add_elements,
                                        max_line,
                                        split_columns};
}  // namespace cnnkern::scalar
