// The instructions that C++ has no words for, and nothing else: asynchronous copies, matrix fragments, tensor
// cores, 16-bit numbers, shared memory. The emulator of the tests has a file of the same name in its place,
// so that every other file under csrc/cuda compiles for a GPU and for the CPU as it is.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace cnnkern::cuda {

// The dynamic shared memory of the block, 1024-byte aligned.
__device__ __forceinline__ unsigned char* shared_memory() {
  extern __shared__ __align__(1024) unsigned char memory[];
  return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Starts a copy of 16 bytes from global to shared memory, both aligned to 16; zeros where not `present`, and
// then `from` is not read.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(present ? 16 : 0)
               : "memory");
}
// The copies that this thread started since the last commit become one group.
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kGroups of this thread's groups are under way.
template <int kGroups>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

// Four 8 x 16-byte matrices; lane i gives the address of row i % 8 of matrix i / 8, aligned to 16 bytes.
__device__ __forceinline__ void load_matrices(uint32_t (&fragments)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
               : "r"(shared_address(row))
               : "memory");
}

// sums += a · bᵀ of a 16 x 32-byte and an 8 x 32-byte fragment. Sums of integers are exact while s32 holds
// them.
#define CNNKERN_MMA(name, Sum, constraint, shape, types)                                                     \
  __device__ __forceinline__ void name(Sum(&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {    \
    asm volatile(                                                                                            \
        "mma.sync.aligned." shape ".row.col." types " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
        : "+" constraint(sums[0]), "+" constraint(sums[1]), "+" constraint(sums[2]), "+" constraint(sums[3]) \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                     \
  }
CNNKERN_MMA(mma_tf32, float, "f", "m16n8k8", "f32.tf32.tf32.f32")
CNNKERN_MMA(mma_float16, float, "f", "m16n8k16", "f32.f16.f16.f32")
CNNKERN_MMA(mma_bfloat16, float, "f", "m16n8k16", "f32.bf16.bf16.f32")
CNNKERN_MMA(mma_uint8, int32_t, "r", "m16n8k32", "s32.u8.s8.s32")
CNNKERN_MMA(mma_int8, int32_t, "r", "m16n8k32", "s32.s8.s8.s32")
#undef CNNKERN_MMA

// The matrix products of a warpgroup, four warps, which compute capability 9.0 alone has: asynchronous, and
// both operands stay in shared memory. Code for other GPUs has none of it.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool kWarpgroupCode = true;
#else
constexpr bool kWarpgroupCode = false;
#endif
// Whether this build has such code at all.
#ifdef CNNKERN_SM90A
constexpr bool kWarpgroupKernels = true;
#else
constexpr bool kWarpgroupKernels = false;
#endif

// Lets the products of whoever passes the next barrier with this thread see what it wrote to shared memory.
__device__ __forceinline__ void publish_shared_memory() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A chunk that a product is to read.
__device__ __forceinline__ void store_chunk(void* to, uint4 chunk) { *static_cast<uint4*>(to) = chunk; }

// The compiler neither moves a use of the number over this nor keeps it elsewhere meanwhile.
__device__ __forceinline__ void pin(float& number) { asm volatile("" : "+f"(number)::"memory"); }
__device__ __forceinline__ void pin(int32_t& number) { asm volatile("" : "+r"(number)::"memory"); }
template <class Sum, int kFragments>
__device__ __forceinline__ void pin(Sum (&sums)[kFragments][4]) {
#pragma unroll
  for (int i = 0; i < kFragments; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j) pin(sums[i][j]);
}

// Products may write to `sums` from here on.
template <class Sum, int kFragments>
__device__ __forceinline__ void begin_products(Sum (&sums)[kFragments][4]) {
  pin(sums);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Those that were started since become one group.
__device__ __forceinline__ void commit_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits for all groups; until then `sums` may not be touched.
template <class Sum, int kFragments>
__device__ __forceinline__ void wait_for_products(Sum (&sums)[kFragments][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  pin(sums);
}

// Starts sums += a · bᵀ of a 64 x 32-byte and a 64 or 128 x 32-byte matrix, each given by its descriptor. A
// warp has 16 rows of the sums, as fragments of eight columns that lie in the lanes as those of mma.sync do.
#define CNNKERN_SUMS(constraint, i)                                                   \
  "+" constraint(sums[i][0]), "+" constraint(sums[i][1]), "+" constraint(sums[i][2]), \
      "+" constraint(sums[i][3])
#define CNNKERN_SUMS_8(constraint, i)                                                                    \
  CNNKERN_SUMS(constraint, i), CNNKERN_SUMS(constraint, i + 1), CNNKERN_SUMS(constraint, i + 2),         \
      CNNKERN_SUMS(constraint, i + 3), CNNKERN_SUMS(constraint, i + 4), CNNKERN_SUMS(constraint, i + 5), \
      CNNKERN_SUMS(constraint, i + 6), CNNKERN_SUMS(constraint, i + 7)
#define CNNKERN_32                                                                                                 \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29," \
  "%30,%31"
#define CNNKERN_64                                                                                    \
  CNNKERN_32                                                                                          \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55," \
  "%56,%57,%58,%59,%60,%61,%62,%63"
#define CNNKERN_WGMMA(name, Sum, constraint, depth, types, scales)                      \
  __device__ __forceinline__ void name(Sum(&sums)[8][4], uint64_t a, uint64_t b) {      \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64" depth "." types " {" CNNKERN_32  \
                 "}, %32, %33, 1" scales ";"                                            \
                 : CNNKERN_SUMS_8(constraint, 0)                                        \
                 : "l"(a), "l"(b));                                                     \
  }                                                                                     \
  __device__ __forceinline__ void name(Sum(&sums)[16][4], uint64_t a, uint64_t b) {     \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128" depth "." types " {" CNNKERN_64 \
                 "}, %64, %65, 1" scales ";"                                            \
                 : CNNKERN_SUMS_8(constraint, 0), CNNKERN_SUMS_8(constraint, 8)         \
                 : "l"(a), "l"(b));                                                     \
  }
CNNKERN_WGMMA(wgmma_tf32, float, "f", "k8", "f32.tf32.tf32", ", 1, 1")
CNNKERN_WGMMA(wgmma_float16, float, "f", "k16", "f32.f16.f16", ", 1, 1, 0, 0")
CNNKERN_WGMMA(wgmma_bfloat16, float, "f", "k16", "f32.bf16.bf16", ", 1, 1, 0, 0")
CNNKERN_WGMMA(wgmma_uint8, int32_t, "r", "k32", "s32.u8.s8", "")
CNNKERN_WGMMA(wgmma_int8, int32_t, "r", "k32", "s32.s8.s8", "")
#undef CNNKERN_WGMMA
#undef CNNKERN_64
#undef CNNKERN_32
#undef CNNKERN_SUMS_8
#undef CNNKERN_SUMS

// Of the values of all lanes of a warp.
__device__ __forceinline__ int32_t sum_of_warp(int32_t value) { return __reduce_add_sync(~0u, value); }

__device__ __forceinline__ float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ __forceinline__ uint16_t float_to_half(float value) {
  return __half_as_ushort(__float2half_rn(value));
}
__device__ __forceinline__ float bfloat16_to_float(uint16_t bits) {
  return __bfloat162float(__ushort_as_bfloat16(bits));
}
// Of the second of two neighbours: one instruction, where taking it out first needs two.
__device__ __forceinline__ float upper_bfloat16_to_float(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
__device__ __forceinline__ uint16_t float_to_bfloat16(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

}  // namespace cnnkern::cuda
