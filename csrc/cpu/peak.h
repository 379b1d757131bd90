// What this machine can do at best, measured: the yardstick of reports.
#pragma once
#include <cstdint>

namespace cnnkern {

double measure_fma_peak(int64_t threads, double seconds);  // float32 GFLOP/s, best instruction set
double measure_memory_bandwidth(int64_t threads,
                                double seconds);  // GB/s read, from memory larger than the caches

}  // namespace cnnkern
