// CPUID says what the CPU can do, XGETBV which registers the operating system saves.
#include "cpu/features.h"

#include <cstdint>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace cnnkern {
namespace {

// Linux gives tile registers only to processes that have asked.
bool may_use_tiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

CpuFeatures detect() {
  CpuFeatures cpu;
#if defined(__x86_64__)
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return cpu;
  uint32_t saved, high;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  const bool ymm = (saved & 0x6) == 0x6, zmm = (saved & 0xE6) == 0xE6;
  cpu.fma = ymm && (c & bit_FMA);
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return cpu;
  cpu.avx2 = ymm && (b & bit_AVX2);
  cpu.avx512f = zmm && (b & bit_AVX512F);
  cpu.avx512dq = zmm && (b & bit_AVX512DQ);
  cpu.avx512bw = zmm && (b & bit_AVX512BW);
  cpu.avx512vl = zmm && (b & bit_AVX512VL);
  cpu.avx512_vnni = zmm && (c & bit_AVX512VNNI);
  cpu.amx_int8 = (saved & 0x60000) == 0x60000 && (d & 1u << 24) && (d & 1u << 25) && may_use_tiles();
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) cpu.avx_vnni = ymm && (a & (1u << 4));
#endif
  return cpu;
}

}  // namespace

const CpuFeatures& cpu_features() {
  static const CpuFeatures cpu = detect();
  return cpu;
}

}  // namespace cnnkern
