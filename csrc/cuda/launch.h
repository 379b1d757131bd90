// Launching a kernel: errors come back as values, and nothing is allocated, so that a launch can be captured
// in a CUDA graph.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

namespace cnnkern::cuda {

// What plans depend on. Queried once per launch: the driver keeps both numbers at hand.
struct Device {
  int64_t multiprocessors;
  int64_t shared_bytes;  // that one block can ask for
};

inline cudaError_t current_device(Device& device) {
  int index = 0, multiprocessors = 0, shared_bytes = 0;
  if (const cudaError_t error = cudaGetDevice(&index)) return error;
  if (const cudaError_t error =
          cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index))
    return error;
  if (const cudaError_t error =
          cudaDeviceGetAttribute(&shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, index))
    return error;
  device = {multiprocessors, shared_bytes};
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
