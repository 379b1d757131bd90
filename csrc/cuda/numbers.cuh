// The numbers in memory and the arithmetic on them. Sums are float32, and int32 of integers.
#pragma once
#include "cuda/arithmetic.h"
#include "cuda/device.cuh"

namespace cnnkern::cuda {

struct Half {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(Half value) { return half_to_float(value.bits); }
__device__ __forceinline__ float to_float(Bfloat16 value) { return bfloat16_to_float(value.bits); }

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float(float value) {
  return value;
}
template <>
__device__ __forceinline__ Half from_float(float value) {
  return {float_to_half(value)};
}
template <>
__device__ __forceinline__ Bfloat16 from_float(float value) {
  return {float_to_bfloat16(value)};
}

// `kCount` neighbours in memory that are loaded or stored by one instruction.
template <class T, int kCount>
struct alignas(kCount * sizeof(T)) Together {
  T numbers[kCount];
};

// What a matrix product is computed with. `mma` is one tensor-core instruction on fragments whose rows are 32
// bytes; `wgmma` is that of a warpgroup.

// float32 exactly: FFMA.
struct Float32Math {
  using Number = float;
  using Sum = float;
  static constexpr bool kTensorCores = false;
};

// Tensor cores read the upper 19 bits of a float32: a relative error below 2^-10 of each factor.
struct Tf32Math {
  using Number = float;
  using Sum = float;
  static constexpr bool kTensorCores = true;
  static __device__ __forceinline__ void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    mma_tf32(sums, a, b0, b1);
  }
  template <int kFragments>
  static __device__ __forceinline__ void wgmma(float (&sums)[kFragments][4], uint64_t a, uint64_t b) {
    wgmma_tf32(sums, a, b);
  }
};

struct Float16Math {
  using Number = Half;
  using Sum = float;
  static constexpr bool kTensorCores = true;
  static __device__ __forceinline__ void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    mma_float16(sums, a, b0, b1);
  }
  template <int kFragments>
  static __device__ __forceinline__ void wgmma(float (&sums)[kFragments][4], uint64_t a, uint64_t b) {
    wgmma_float16(sums, a, b);
  }
};

struct Bfloat16Math {
  using Number = Bfloat16;
  using Sum = float;
  static constexpr bool kTensorCores = true;
  static __device__ __forceinline__ void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    mma_bfloat16(sums, a, b0, b1);
  }
  template <int kFragments>
  static __device__ __forceinline__ void wgmma(float (&sums)[kFragments][4], uint64_t a, uint64_t b) {
    wgmma_bfloat16(sums, a, b);
  }
};

// Exactly: u8 times s8, and s8 times s8.
struct Uint8Math {
  using Number = uint8_t;
  using Sum = int32_t;
  static constexpr bool kTensorCores = true;
  static __device__ __forceinline__ void mma(int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    mma_uint8(sums, a, b0, b1);
  }
  template <int kFragments>
  static __device__ __forceinline__ void wgmma(int32_t (&sums)[kFragments][4], uint64_t a, uint64_t b) {
    wgmma_uint8(sums, a, b);
  }
};

struct Int8Math {
  using Number = int8_t;
  using Sum = int32_t;
  static constexpr bool kTensorCores = true;
  static __device__ __forceinline__ void mma(int32_t (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
    mma_int8(sums, a, b0, b1);
  }
  template <int kFragments>
  static __device__ __forceinline__ void wgmma(int32_t (&sums)[kFragments][4], uint64_t a, uint64_t b) {
    wgmma_int8(sums, a, b);
  }
};

}  // namespace cnnkern::cuda
