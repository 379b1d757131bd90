// int8 inner loops for x86-64 with AVX2 and AVX-VNNI: vpdpbusd on registers of 256 bits multiplies four u8
// with four s8 and adds the products to an s32 without saturation. A GEMM tile of 6 pixels by 16 columns.
#include "cpu/isa/isa.h"

#if defined(__x86_64__)
#include <immintrin.h>
#if defined(CNNKERN_SIMDE)  // test builds run this file on CPUs that lack the instruction
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx2,fma,avxvnni")
#endif

namespace cnnkern::avxvnni {
namespace {
#include "cpu/isa/prelude.inc"

#include "cpu/isa/int8_ymm.inc"

struct Vec : Ymm {
  using Quad = __m256i;
  static constexpr bool kMagnitudes = false;
  static INLINE Quad load_quad(const uint8_t* p, int64_t) { return four(p); }
  template <bool>
  static INLINE Reg dot(Reg sum, Quad values, Weights weights) {
#if defined(CNNKERN_SIMDE)  // even and odd bytes, in 16 bits
    const __m256i even = _mm256_madd_epi16(_mm256_and_si256(values, _mm256_set1_epi16(0xFF)),
                                           _mm256_srai_epi16(_mm256_slli_epi16(weights, 8), 8));
    const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(values, 8), _mm256_srai_epi16(weights, 8));
    return add(sum, add(even, odd));
#else
    return _mm256_dpbusd_avx_epi32(sum, values, weights);
#endif
  }
};

constexpr int kTilePixels = 6;
constexpr int kTileVectors = 2;

#include "cpu/isa/int8_elementwise.inc"
#include "cpu/isa/int8_gemm.inc"
#include "cpu/isa/int8_max_pool.inc"
#include "cpu/isa/int8_transpose.inc"
}  // namespace

const Int8Primitives kInt8Primitives = {"avxvnni",         kTilePixels,  false,          gemm,
                                        depthwise_line,    transpose,    transpose_rows, quantize,
                                        quantize_elements, add_elements, max_line,       split_columns};
}  // namespace cnnkern::avxvnni
#endif
