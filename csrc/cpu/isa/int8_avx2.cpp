// int8 inner loops for x86-64 with AVX2. vpmaddubsw multiplies u8 with s8 and adds two neighbours in 16 bits,
// where 2 * 255 * 127 would saturate. So activations are taken as s8, x - 128 of a u8: their magnitudes, of
// at most 128, are the u8 operand, and the weights, with the activation's sign, the s8 one. 2 * 128 * 127
// fits. A weight of -128 has no negative and is taken as -127 and -1, in tiles of their own for panels that
// have one.
#include "cpu/isa/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("avx2,fma")

namespace cnnkern::avx2 {
namespace {
#include "cpu/isa/prelude.inc"

struct Vec {
  using Reg = __m256i;
  using Float = __m256;
  using Weights = __m256i;
  struct Quad {
    __m256i value, magnitude;
  };
  static constexpr int64_t kLanes = 8;
  static constexpr bool kMindsExtremes = true;
  static INLINE Reg zero() { return _mm256_setzero_si256(); }
  static INLINE Weights load_weights(const int8_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static INLINE __m256i four(const uint8_t* p) {
    int32_t bytes;
    __builtin_memcpy(&bytes, p, sizeof bytes);
    return _mm256_set1_epi32(bytes);
  }
  static INLINE Quad load_quad(const uint8_t* p, int64_t magnitude) { return {four(p), four(p + magnitude)}; }
  template <bool kExtreme>
  static INLINE Reg dot(Reg sum, Quad values, Weights weights) {
    if constexpr (kExtreme) {
      const Weights most = _mm256_max_epi8(weights, _mm256_set1_epi8(-127));
      sum = dot<false>(sum, values, _mm256_sub_epi8(weights, most));
      weights = most;
    }
    const __m256i products = _mm256_maddubs_epi16(values.magnitude, _mm256_sign_epi8(weights, values.value));
    return add(sum, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
  }
  static INLINE Reg load_integers(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static INLINE Reg broadcast_integer(int32_t value) { return _mm256_set1_epi32(value); }
  static INLINE Reg add(Reg a, Reg b) { return _mm256_add_epi32(a, b); }
  static INLINE Reg subtract(Reg a, Reg b) { return _mm256_sub_epi32(a, b); }
  static INLINE Reg widen(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static INLINE Reg widen_signed(const int8_t* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  // Products of numbers of 16 bits at most.
  static INLINE Reg multiply_add(Reg a, Reg b, Reg sum) { return add(sum, _mm256_madd_epi16(a, b)); }

  static INLINE Float load_floats(const float* p) { return _mm256_loadu_ps(p); }
  static INLINE Float broadcast(float value) { return _mm256_set1_ps(value); }
  static INLINE Float to_float(Reg v) { return _mm256_cvtepi32_ps(v); }
  // Rounded by itself: a compiler must not fuse it with the sum that follows.
  static INLINE Float product(Float a, Float b) {
    Float p = _mm256_mul_ps(a, b);
    __asm__("" : "+x"(p));
    return p;
  }
  static INLINE Float sum(Float a, Float b) { return _mm256_add_ps(a, b); }
  // NaN in `b` stays: both return their second operand when either is NaN.
  static INLINE Float max(Float a, Float b) { return _mm256_max_ps(a, b); }
  static INLINE Float min(Float a, Float b) { return _mm256_min_ps(a, b); }
  static INLINE Reg nearest(Float v) { return _mm256_cvtps_epi32(v); }

  static INLINE __m256i mask(int64_t lanes) {
    const int count = lanes < kLanes ? static_cast<int>(lanes) : static_cast<int>(kLanes);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static INLINE void store(int32_t* p, Reg v, int64_t lanes) {
    if (lanes >= kLanes) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
    _mm256_maskstore_epi32(p, mask(lanes), v);
  }
  static INLINE void store(float* p, Float v, int64_t lanes) {
    if (lanes >= kLanes) return _mm256_storeu_ps(p, v);
    _mm256_maskstore_ps(p, mask(lanes), v);
  }
  static INLINE void store(uint8_t* p, Reg v, int64_t lanes) {
    const __m256i low = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8,
                                         12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i bytes =
        _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(v, low), _mm256_setr_epi32(0, 4, 1, 1, 1, 1, 1, 1));
    int64_t eight = _mm_cvtsi128_si64(_mm256_castsi256_si128(bytes));
    __builtin_memcpy(p, &eight, static_cast<size_t>(lanes < kLanes ? lanes : kLanes));
  }
};

constexpr int kTilePixels = 4;
constexpr int kTileVectors = 2;

#include "cpu/isa/int8_gemm.inc"
#include "cpu/isa/int8_transpose.inc"
}  // namespace

const Int8Primitives kInt8Primitives = {"avx2", kTilePixels, true, gemm, depthwise_line, transpose};
}  // namespace cnnkern::avx2
#endif
