// Launching a kernel: errors come back as values, and nothing is allocated, so that a launch can be captured
// in a CUDA graph.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/core.h"

namespace cnnkern::cuda {

// What plans depend on. Queried once per launch: the driver keeps these numbers at hand.
struct Device {
  int64_t multiprocessors;
  int64_t shared_bytes;  // that one block can ask for
  Core core;             // the chosen one where the device has it, else mma
};

inline cudaError_t current_device(Device& device) {
  constexpr cudaDeviceAttr kAsked[] = {cudaDevAttrMultiProcessorCount,
                                       cudaDevAttrMaxSharedMemoryPerBlockOptin,
                                       cudaDevAttrComputeCapabilityMajor, cudaDevAttrComputeCapabilityMinor};
  int index = 0, found[4] = {};
  if (const cudaError_t error = cudaGetDevice(&index)) return error;
  for (int i = 0; i < 4; ++i)
    if (const cudaError_t error = cudaDeviceGetAttribute(&found[i], kAsked[i], index)) return error;
  const bool has_wgmma = found[2] == 9 && found[3] == 0;  // no other has these instructions
  device = {found[0], found[1], has_wgmma ? chosen_core().load(std::memory_order_relaxed) : Core::kMma};
  return cudaSuccess;
}

// `blocks` blocks of `threads` threads with `shared_bytes` of dynamic shared memory each.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
                   cudaStream_t stream, const Arguments&... arguments) {
  constexpr int64_t kMostBlocks = 2147483647;
  if (blocks > kMostBlocks) return cudaErrorInvalidConfiguration;
  if (const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                     static_cast<int>(shared_bytes)))
    return error;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// One thread for each of `elements` elements.
constexpr int kElementThreads = 256;
template <class... Parameters, class... Arguments>
cudaError_t launch_elements(void (*kernel)(Parameters...), int64_t elements, cudaStream_t stream,
                            const Arguments&... arguments) {
  return launch(kernel, (elements + kElementThreads - 1) / kElementThreads, kElementThreads, 0, stream,
                arguments...);
}

}  // namespace cnnkern::cuda
