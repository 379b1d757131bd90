// Which instructions of the tensor cores compute matrix products: those of a warp, mma.sync, or those of a
// warpgroup, wgmma, which need compute capability 9.0. One choice for the process, made by CNNKERN_CUDA_CORE
// or by `cnnkern._C.set_cuda_core`.
#pragma once
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace cnnkern::cuda {

enum class Core : int32_t { kMma, kWgmma };
constexpr int32_t kCoreCount = 2;
constexpr const char* kCoreNames[kCoreCount] = {"mma", "wgmma"};

// The one that CNNKERN_CUDA_CORE names, else mma.
inline Core preferred_core() {
  const char* const asked = std::getenv("CNNKERN_CUDA_CORE");
  for (int32_t i = 0; i < kCoreCount; ++i)
    if (asked && std::strcmp(asked, kCoreNames[i]) == 0) return static_cast<Core>(i);
  return Core::kMma;
}

inline std::atomic<Core>& chosen_core() {
  static std::atomic<Core> core{preferred_core()};
  return core;
}

}  // namespace cnnkern::cuda
