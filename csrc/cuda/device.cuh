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

// Of the values of all lanes of a warp.
__device__ __forceinline__ int32_t sum_of_warp(int32_t value) { return __reduce_add_sync(~0u, value); }

__device__ __forceinline__ float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ __forceinline__ uint16_t float_to_half(float value) {
  return __half_as_ushort(__float2half_rn(value));
}
__device__ __forceinline__ float bfloat16_to_float(uint16_t bits) {
  return __bfloat162float(__ushort_as_bfloat16(bits));
}
__device__ __forceinline__ uint16_t float_to_bfloat16(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

}  // namespace cnnkern::cuda
