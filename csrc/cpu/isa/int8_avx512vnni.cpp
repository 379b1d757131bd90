// int8 inner loops for x86-64 with AVX-512 and its VNNI: vpdpbusd multiplies four u8 with four s8 and adds
// the products to an s32 without saturation. A GEMM tile of 14 pixels by 32 columns.
#include "cpu/isa/isa.h"

#if defined(__x86_64__)
#if defined(CNNKERN_SIMDE)  // test builds run this file on CPUs that lack the instructions
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#else
#include <immintrin.h>
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma")
#endif

namespace cnnkern::avx512vnni {
namespace {
#include "cpu/isa/prelude.inc"

struct Vec {
  using Reg = __m512i;
  using Float = __m512;
  using Weights = __m512i;
  using Quad = __m512i;
  static constexpr int64_t kLanes = 16;
  static constexpr bool kMagnitudes = false;
  static INLINE Reg zero() { return _mm512_setzero_si512(); }
  static INLINE Weights load_weights(const int8_t* p) { return _mm512_loadu_si512(p); }
  static INLINE Quad load_quad(const uint8_t* p, int64_t) {
    int32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
  }
  template <bool>
  static INLINE Reg dot(Reg sum, Quad values, Weights weights) {
    return _mm512_dpbusd_epi32(sum, values, weights);
  }
  static INLINE Reg load_integers(const int32_t* p) { return _mm512_loadu_si512(p); }
  static INLINE Reg broadcast_integer(int32_t value) { return _mm512_set1_epi32(value); }
  static INLINE Reg add(Reg a, Reg b) { return _mm512_add_epi32(a, b); }
  static INLINE Reg magnitude(Reg v) { return _mm512_abs_epi32(v); }
  static INLINE Reg subtract(Reg a, Reg b) { return _mm512_sub_epi32(a, b); }
#if defined(CNNKERN_SIMDE)  // which has no such conversions
  template <class T>
  static INLINE Reg widened(const T* p) {
    int32_t all[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) all[i] = p[i];
    return _mm512_loadu_si512(all);
  }
  static INLINE Reg widen(const uint8_t* p) { return widened(p); }
  static INLINE Reg widen_signed(const int8_t* p) { return widened(p); }
#else
  static INLINE Reg widen(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static INLINE Reg widen_signed(const int8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
#endif
  // Products of numbers of 16 bits at most.
  static INLINE Reg multiply_add(Reg a, Reg b, Reg sum) { return add(sum, _mm512_madd_epi16(a, b)); }

  static INLINE Float load_floats(const float* p) { return _mm512_loadu_ps(p); }
  static INLINE Float broadcast(float value) { return _mm512_set1_ps(value); }
  static INLINE Float to_float(Reg v) { return _mm512_cvtepi32_ps(v); }
  // Rounded by itself: a compiler must not fuse it with the sum that follows.
  static INLINE Float product(Float a, Float b) {
    Float p = _mm512_mul_ps(a, b);
#if !defined(CNNKERN_SIMDE)  // which is compiled for a CPU without fused multiply-add
    __asm__("" : "+v"(p));
#endif
    return p;
  }
  static INLINE Float sum(Float a, Float b) { return _mm512_add_ps(a, b); }
  // NaN in `b` stays: both return their second operand when either is NaN.
  static INLINE Float max(Float a, Float b) { return _mm512_max_ps(a, b); }
  static INLINE Float min(Float a, Float b) { return _mm512_min_ps(a, b); }
  static INLINE Reg nearest(Float v) { return _mm512_cvtps_epi32(v); }

#if defined(CNNKERN_SIMDE)  // SIMDe's own read and write the lanes that the mask leaves out
  template <class T, class V>
  static INLINE void store_some(T* p, V v, int64_t lanes) {
    T all[kLanes];
    __builtin_memcpy(all, &v, sizeof all);
    for (int64_t i = 0; i < kLanes && i < lanes; ++i) p[i] = all[i];
  }
  static INLINE void store(int32_t* p, Reg v, int64_t lanes) { store_some(p, v, lanes); }
  static INLINE void store(float* p, Float v, int64_t lanes) { store_some(p, v, lanes); }
  static INLINE void store(uint8_t* p, Reg v, int64_t lanes) {
    int32_t all[kLanes];
    __builtin_memcpy(all, &v, sizeof all);
    for (int64_t i = 0; i < kLanes && i < lanes; ++i) p[i] = static_cast<uint8_t>(all[i]);
  }
#else
  static INLINE __mmask16 mask(int64_t lanes) {
    return static_cast<__mmask16>(lanes < kLanes ? (1u << lanes) - 1 : 0xFFFFu);
  }
  static INLINE void store(int32_t* p, Reg v, int64_t lanes) { _mm512_mask_storeu_epi32(p, mask(lanes), v); }
  static INLINE void store(float* p, Float v, int64_t lanes) { _mm512_mask_storeu_ps(p, mask(lanes), v); }
  static INLINE void store(uint8_t* p, Reg v, int64_t lanes) {
    _mm_mask_storeu_epi8(p, mask(lanes), _mm512_cvtepi32_epi8(v));
  }
#endif
};

constexpr int kTilePixels = 14;
constexpr int kTileVectors = 2;

#include "cpu/isa/int8_gemm.inc"
#include "cpu/isa/int8_transpose.inc"
}  // namespace

const Int8Primitives kInt8Primitives = {"avx512vnni",   kTilePixels, false,          gemm,
                                        depthwise_line, transpose,   transpose_rows, quantize};
}  // namespace cnnkern::avx512vnni
#endif
