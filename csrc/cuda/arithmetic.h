// What a call computes with: the numbers in memory, and whether float32 may go through TF32 tensor cores.
#pragma once
#include <cstdint>

namespace cnnkern::cuda {

enum class Arithmetic : int32_t { kFloat32, kTf32, kFloat16, kBfloat16 };

constexpr int64_t bytes_of(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::kFloat32 || arithmetic == Arithmetic::kTf32 ? 4 : 2;
}

}  // namespace cnnkern::cuda
