// Inner loops for x86-64 with AVX2 and FMA: 16 registers of 8 floats, a GEMM tile of 6 pixels by 16 columns.
#include "cpu/isa/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#pragma GCC target("avx2,fma")

namespace cnnkern::avx2 {
namespace {
#include "cpu/isa/prelude.inc"

using T = float;

struct Vec {
  using Reg = __m256;
  static constexpr int64_t kLanes = 8;
  static INLINE __m256i mask(int64_t lanes) {
    const int count = lanes < kLanes ? static_cast<int>(lanes) : static_cast<int>(kLanes);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static INLINE Reg zero() { return _mm256_setzero_ps(); }
  static INLINE Reg load(const T* p) { return _mm256_loadu_ps(p); }
  static INLINE Reg load(const T* p, int64_t lanes) { return _mm256_maskload_ps(p, mask(lanes)); }
  static INLINE Reg broadcast(const T* p) { return _mm256_broadcast_ss(p); }
  static INLINE Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  using Lanes = __m256i;
  static INLINE Lanes lanes(const int32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  // See GatherWindows.
  static INLINE Reg merge(Reg values, Reg window, Lanes lanes) {
    const __m256 of_window = _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 28));  // the sign is the bit of 8
    return _mm256_blendv_ps(values, _mm256_permutevar8x32_ps(window, lanes), of_window);
  }
  static INLINE __m256i where(uint32_t bits) {
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(bits)), bit), bit);
  }
  static INLINE Reg load_where(Reg other, const T* p, uint32_t bits) {
    const __m256i mask = where(bits);
    return _mm256_blendv_ps(other, _mm256_maskload_ps(p, mask), _mm256_castsi256_ps(mask));
  }
  // Lane i from p[2 * i].
  static INLINE Reg load_even_where(Reg other, const T* p, uint32_t bits) {
    const __m256i mask = where(bits), zero = _mm256_setzero_si256();
    // The mask's lanes, each followed by one that is not wanted.
    const __m256i spread = _mm256_permute4x64_epi64(mask, 0xD8);
    const __m256 low = _mm256_maskload_ps(p, _mm256_unpacklo_epi32(spread, zero)),
                 high = _mm256_maskload_ps(p + kLanes, _mm256_unpackhi_epi32(spread, zero));
    const __m256d even = _mm256_castps_pd(_mm256_shuffle_ps(low, high, 0x88));
    return _mm256_blendv_ps(other, _mm256_castpd_ps(_mm256_permute4x64_pd(even, 0xD8)),
                            _mm256_castsi256_ps(mask));
  }
  // NaN in `a` stays: maxps returns its second operand when either is NaN.
  static INLINE Reg max(Reg a, Reg b) { return _mm256_max_ps(b, a); }
  static INLINE void store(T* p, Reg v) { _mm256_storeu_ps(p, v); }
  static INLINE void store(T* p, Reg v, int64_t lanes) { _mm256_maskstore_ps(p, mask(lanes), v); }
};

constexpr int kTilePixels = 6;
constexpr int kTileVectors = 2;
constexpr int kOffsetTilePixels = kTilePixels;
constexpr int kOffsetTileVectors = kTileVectors;
// Weights of this depth stream from level 2; passes over less of it would load and store C more often.
constexpr int64_t kBlockK = 2048;
constexpr int kPixelTileRows = 6;
constexpr int kPixelTileVectors = 2;

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
}  // namespace cnnkern::avx2
#endif
