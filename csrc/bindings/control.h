// How `cnnkern._C` reaches the registry that lives in `cnnkern._ops`: a table of functions in a capsule, so
// that the process has one registry although it has two extension modules.
#pragma once
#include <cstdint>

#include "cpu/features.h"

namespace cnnkern {

constexpr const char* kControlCapsule = "cnnkern._ops._control";

struct Control {
  int32_t isa_count;
  const char* (*isa_name)(int32_t isa);
  bool (*isa_compiled)(int32_t isa);
  bool (*isa_available)(int32_t isa);
  int32_t (*current_isa)();
  bool (*set_isa)(int32_t isa);
  void (*reset_isa)();
  const char* (*int8_kernel)();
  double (*fma_peak)(int64_t threads, double seconds);
  double (*memory_bandwidth)(int64_t threads, double seconds);
  const CpuFeatures& (*cpu_features)();
  int32_t cuda_core_count;
  const char* (*cuda_core_name)(int32_t core);
  int32_t (*cuda_core)();
  void (*set_cuda_core)(int32_t core);
  void (*reset_cuda_core)();
};

}  // namespace cnnkern
