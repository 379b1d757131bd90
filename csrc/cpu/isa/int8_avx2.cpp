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

#include "cpu/isa/int8_ymm.inc"

struct Vec : Ymm {
  struct Quad {
    __m256i value, magnitude;
  };
  static constexpr bool kMagnitudes = true;
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
};

constexpr int kTilePixels = 4;
constexpr int kTileVectors = 2;

#include "cpu/isa/int8_elementwise.inc"
#include "cpu/isa/int8_gemm.inc"
#include "cpu/isa/int8_max_pool.inc"
#include "cpu/isa/int8_transpose.inc"
}  // namespace

const Int8Primitives kInt8Primitives = {
    "avx2",   kTilePixels,       true,         gemm,     depthwise_line, transpose, transpose_rows,
    quantize, quantize_elements, add_elements, max_line, split_columns};
}  // namespace cnnkern::avx2
#endif
