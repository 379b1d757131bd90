// The part of CUDA's language and runtime that the project's kernels use, for a CPU: see block.h.
//
// EMULATOR_SEED=n shuffles the schedule of threads, EMULATOR_EAGER=1 makes asynchronous copies happen at
// once, and matrix products of a warpgroup too. EMULATOR_MULTIPROCESSORS, EMULATOR_SHARED_BYTES and
// EMULATOR_CAPABILITY=80 describe another GPU to the plans. EMULATOR_WITHOUT=mma or wgmma refuses these
// instructions.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <tuple>

#include "block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#define threadIdx (::emulator::block().current().index)
#define blockIdx (::emulator::block().index)

inline void __syncthreads() { emulator::block().synchronize(); }
[[noreturn]] inline void __trap() { emulator::fail("a trap"); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
// Each rounds by itself: nothing is fused, whatever the compiler may do elsewhere.
inline float __fadd_rn(float a, float b) {
  const volatile float sum = a + b;
  return sum;
}
inline float __fmul_rn(float a, float b) {
  const volatile float product = a * b;
  return product;
}
inline float __fdiv_rn(float a, float b) {
  const volatile float quotient = a / b;
  return quotient;
}
inline int __float2int_rn(float value) { return static_cast<int>(std::nearbyint(value)); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
using std::max;
using std::min;

using cudaStream_t = struct CUstream_st*;
enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorLaunchFailure = 719,
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace emulator {

// What cudaGetErrorString adds to the last error.
std::string& last_message();
cudaError_t set_shared_limit(const void* kernel, int bytes);
// Runs body(argument) as every thread of the launch.
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, void (*body)(void*), void* argument);

}  // namespace emulator

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
  struct Call {
    void (*kernel)(Parameters...);
    std::tuple<std::decay_t<Parameters>...> arguments;
  } call{kernel, {arguments...}};
  return emulator::launch(
      *config, reinterpret_cast<const void*>(kernel),
      [](void* given) {
        auto* const call = static_cast<Call*>(given);
        std::apply(call->kernel, call->arguments);
      },
      &call);
}
template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute, int bytes) {
  return emulator::set_shared_limit(reinterpret_cast<const void*>(kernel), bytes);
}
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
const char* cudaGetErrorString(cudaError_t error);
