// int8 inner loops for x86-64 with AVX-512 and its VNNI: vpdpbusd multiplies four u8 with four s8 and adds
// the products to an s32 without saturation.
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

#include "cpu/isa/int8_zmm.inc"
}  // namespace

const Int8Primitives kInt8Primitives = {"avx512vnni",      kTilePixels,  false,          gemm,
                                        depthwise_line,    transpose,    transpose_rows, quantize,
                                        quantize_elements, add_elements, max_line,       split_columns};
}  // namespace cnnkern::avx512vnni
#endif
