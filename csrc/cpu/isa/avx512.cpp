// Inner loops for x86-64 with AVX-512F: 32 registers of 16 floats, a GEMM tile of 14 pixels by 32 columns.
#include "cpu/isa/isa.h"

#if defined(__x86_64__)
#if defined(CNNKERN_SIMDE)  // test builds run this file on CPUs that lack the instructions
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/x86/fma.h>
#else
#include <immintrin.h>
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")
#endif

namespace cnnkern::avx512 {
namespace {
#include "cpu/isa/prelude.inc"

using T = float;

struct Vec {
  using Reg = __m512;
  static constexpr int64_t kLanes = 16;
  static INLINE Reg zero() { return _mm512_setzero_ps(); }
  static INLINE Reg load(const T* p) { return _mm512_loadu_ps(p); }
  static INLINE Reg broadcast(const T* p) { return _mm512_set1_ps(*p); }
  static INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  using Lanes = __m512i;
  static INLINE Lanes lanes(const int32_t* p) { return _mm512_loadu_si512(p); }
  // See GatherWindows.
  static INLINE Reg merge(Reg values, Reg window, Lanes lanes) {
    return _mm512_permutex2var_ps(values, lanes, window);
  }
  // NaN in `a` stays: maxps returns its second operand when either is NaN.
  static INLINE Reg max(Reg a, Reg b) { return _mm512_max_ps(b, a); }
  static INLINE void store(T* p, Reg v) { _mm512_storeu_ps(p, v); }
#if defined(CNNKERN_SIMDE)  // SIMDe's own read and write the lanes that the mask leaves out
  static INLINE Reg load(const T* p, int64_t lanes) {
    T all[kLanes] = {};
    for (int64_t i = 0; i < kLanes && i < lanes; ++i) all[i] = p[i];
    return load(all);
  }
  static INLINE void store(T* p, Reg v, int64_t lanes) {
    T all[kLanes];
    store(all, v);
    for (int64_t i = 0; i < kLanes && i < lanes; ++i) p[i] = all[i];
  }
  static INLINE Reg load_where(Reg other, const T* p, uint32_t bits) { return load_every(other, p, 1, bits); }
  static INLINE Reg load_even_where(Reg other, const T* p, uint32_t bits) {
    return load_every(other, p, 2, bits);
  }
  static INLINE Reg load_every(Reg other, const T* p, int64_t step, uint32_t bits) {
    T all[kLanes];
    store(all, other);
    for (int64_t i = 0; i < kLanes; ++i) {
      if (bits >> i & 1) all[i] = p[i * step];
    }
    return load(all);
  }
#else
  static INLINE Reg load_where(Reg other, const T* p, uint32_t bits) {
    return _mm512_mask_loadu_ps(other, static_cast<__mmask16>(bits), p);
  }
  // Lane i from p[2 * i].
  static INLINE Reg load_even_where(Reg other, const T* p, uint32_t bits) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512 low = _mm512_maskz_loadu_ps(spread(bits), p),
                 high = _mm512_maskz_loadu_ps(spread(bits >> 8), p + kLanes);
    return _mm512_mask_mov_ps(other, static_cast<__mmask16>(bits), _mm512_permutex2var_ps(low, even, high));
  }
  // Bit i of the low 8 becomes bit 2 * i.
  static INLINE __mmask16 spread(uint32_t bits) {
    bits &= 0xFF;
    bits = (bits | bits << 4) & 0x0F0F;
    bits = (bits | bits << 2) & 0x3333;
    return static_cast<__mmask16>((bits | bits << 1) & 0x5555);
  }
  static INLINE __mmask16 mask(int64_t lanes) {
    return static_cast<__mmask16>(lanes < kLanes ? (1u << lanes) - 1 : 0xFFFFu);
  }
  static INLINE Reg load(const T* p, int64_t lanes) { return _mm512_maskz_loadu_ps(mask(lanes), p); }
  static INLINE void store(T* p, Reg v, int64_t lanes) { _mm512_mask_storeu_ps(p, mask(lanes), v); }
#endif
};

constexpr int kTilePixels = 14;
constexpr int kTileVectors = 2;
constexpr int kOffsetTilePixels = 7;
constexpr int kOffsetTileVectors = 4;
// Weights of this depth stream from level 2; passes over less of it would load and store C more often.
constexpr int64_t kBlockK = 2048;
constexpr int kPixelTileRows = 8;
constexpr int kPixelTileVectors = 3;

#include "cpu/isa/depthwise.inc"
#include "cpu/isa/fma_loop.inc"
#include "cpu/isa/gathered.inc"
#include "cpu/isa/gemm.inc"
#include "cpu/isa/scattered.inc"
#include "cpu/isa/transpose_8x8.inc"
}  // namespace

const Primitives<float> kPrimitives = {.tile_pixels = kTilePixels,
                                       .gemms = gemms,
                                       .separable_line = separable_line,
                                       .depthwise_line = depthwise_line,
                                       .multiply_add_line = multiply_add_line,
                                       .dot_line = dot_line,
                                       .dot_lines = dot_lines,
                                       .transpose = transpose,
                                       .fma_loop = fma_loop,
                                       .gather_pixels = gather_pixels,
                                       .pixel_gemm = pixel_gemm,
                                       .gather_windows = gather_windows,
                                       .window = Vec::kLanes,
                                       .scattered_gemms = scattered_gemms,
                                       .transpose_rows = transpose_rows};
}  // namespace cnnkern::avx512
#endif
