#include "cuda_runtime.h"

#include <cstdlib>
#include <cstring>
#include <map>

namespace emulator {
namespace {

std::map<const void*, int>& shared_limits() {
  static std::map<const void*, int> limits;
  return limits;
}

int64_t environment(const char* name, int64_t otherwise) {
  const char* const value = std::getenv(name);
  return value ? std::atoll(value) : otherwise;
}

cudaError_t refuse(cudaError_t error, const std::string& message) {
  last_message() = message;
  return error;
}

bool is_without(const char* instruction) {
  const char* const value = std::getenv("EMULATOR_WITHOUT");
  return value && std::strcmp(value, instruction) == 0;
}

int capability() { return static_cast<int>(environment("EMULATOR_CAPABILITY", 90)); }

int most_shared_bytes() {
  return static_cast<int>(environment("EMULATOR_SHARED_BYTES", static_cast<int64_t>(kMostSharedBytes)));
}

}  // namespace

std::string& last_message() {
  static std::string message;
  return message;
}

cudaError_t set_shared_limit(const void* kernel, int bytes) {
  if (bytes > most_shared_bytes())
    return refuse(cudaErrorInvalidValue, "more shared memory than a block can have");
  shared_limits()[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, void (*body)(void*),
                   void* argument) {
  const dim3 grid = config.gridDim, size = config.blockDim;
  const unsigned threads = size.x * size.y * size.z;
  if (block().running()) return refuse(cudaErrorLaunchFailure, "a launch within a kernel");
  if (!threads || threads > kMostThreads || size.z > 64)
    return refuse(cudaErrorInvalidConfiguration, "the size of a block");
  if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535)
    return refuse(cudaErrorInvalidConfiguration, "the number of blocks");
  const auto limit = shared_limits().find(kernel);
  const size_t most =
      limit == shared_limits().end() ? kUnaskedSharedBytes : static_cast<size_t>(limit->second);
  if (config.dynamicSmemBytes > most)
    return refuse(cudaErrorInvalidValue, "more shared memory than was asked for");
  const Schedule schedule{static_cast<uint64_t>(environment("EMULATOR_SEED", 0)),
                          environment("EMULATOR_EAGER", 0) != 0, !is_without("mma"),
                          !is_without("wgmma") && capability() == 90};
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        const std::string error =
            block().run(size, {x, y, z}, config.dynamicSmemBytes, schedule, body, argument);
        if (!error.empty()) return refuse(cudaErrorLaunchFailure, error);
      }
  return cudaSuccess;
}

}  // namespace emulator

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = static_cast<int>(emulator::environment("EMULATOR_MULTIPROCESSORS", 16));
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = emulator::capability() / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = emulator::capability() % 10;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = emulator::most_shared_bytes();
      break;
  }
  return cudaSuccess;
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaSuccess ? "no error" : emulator::last_message().c_str();
}
