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
  // NaN in `a` stays: maxps returns its second operand when either is NaN.
  static INLINE Reg max(Reg a, Reg b) { return _mm256_max_ps(b, a); }
  static INLINE void store(T* p, Reg v) { _mm256_storeu_ps(p, v); }
  static INLINE void store(T* p, Reg v, int64_t lanes) { _mm256_maskstore_ps(p, mask(lanes), v); }
};

constexpr int kTilePixels = 6;
constexpr int kTileVectors = 2;
// Weights of this depth stream from level 2; passes over less of it would load and store C more often.
constexpr int64_t kBlockK = 2048;

#include "cpu/isa/depthwise.inc"
#include "cpu/isa/fma_loop.inc"
#include "cpu/isa/gemm.inc"
#include "cpu/isa/transpose_8x8.inc"
}  // namespace

const Primitives<float> kPrimitives = {kTilePixels,       gemms,    separable_line, depthwise_line,
                                       multiply_add_line, dot_line, transpose,      fma_loop};
}  // namespace cnnkern::avx2
#endif
