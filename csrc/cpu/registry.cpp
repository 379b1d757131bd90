// See registry.h. The CPU is asked once, when the library is loaded.
#include "cpu/registry.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "cpu/features.h"
#include "cpu/isa/isa.h"

namespace cnnkern {
namespace {

constexpr const char* kNames[kIsaCount] = {"scalar", "avx2", "avxvnni", "avx512"};

const Primitives<float>* table_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx2 || isa == Isa::avxvnni) return &avx2::kPrimitives;
  if (isa == Isa::avx512) return &avx512::kPrimitives;
#endif
  return isa == Isa::scalar ? &scalar::kPrimitives : nullptr;
}

Isa preferred() {
  Isa best = Isa::scalar;
  const char* asked = std::getenv("CNNKERN_CPU_ISA");
  for (int32_t i = 0; i < kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (!isa_available(isa)) continue;
    if (asked && std::strcmp(asked, kNames[i]) == 0) return isa;
    best = isa;
  }
  return best;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{preferred()};
  return isa;
}

}  // namespace

const char* isa_name(Isa isa) { return kNames[static_cast<int32_t>(isa)]; }

bool isa_compiled(Isa isa) { return table_of(isa) != nullptr; }

bool isa_available(Isa isa) {
  if (!isa_compiled(isa)) return false;
  const CpuFeatures& cpu = cpu_features();
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return cpu.avx2 && cpu.fma;
    case Isa::avxvnni:
#if defined(CNNKERN_SIMDE)
      return cpu.avx2 && cpu.fma;
#else
      return cpu.avx2 && cpu.fma && cpu.avx_vnni;
#endif
    case Isa::avx512:
#if defined(CNNKERN_SIMDE)
      return true;
#else
      return cpu.avx2 && cpu.fma && cpu.avx512f && cpu.avx512dq && cpu.avx512bw && cpu.avx512vl;
#endif
  }
  return false;
}

Isa current_isa() { return chosen().load(std::memory_order_relaxed); }

bool set_isa(Isa isa) {
  if (!isa_available(isa)) return false;
  chosen().store(isa, std::memory_order_relaxed);
  return true;
}

void reset_isa() { chosen().store(preferred(), std::memory_order_relaxed); }

const Primitives<float>& primitives_of(Isa isa) { return *table_of(isa); }

template <>
const Primitives<float>& primitives<float>() {
  return *table_of(current_isa());
}

template <>
const Primitives<double>& primitives<double>() {
  return scalar::kPrimitivesDouble;
}

const Int8Primitives& int8_primitives() {
#if defined(__x86_64__)
#if defined(CNNKERN_SIMDE)
  constexpr bool vnni = true;
#else
  const bool vnni = cpu_features().avx512_vnni;
#endif
  const Isa isa = current_isa();
  if (isa == Isa::avx512 && vnni) return avx512vnni::kInt8Primitives;
  if (isa == Isa::avxvnni) return avxvnni::kInt8Primitives;
  if (isa != Isa::scalar) return avx2::kInt8Primitives;
#endif
  return scalar::kInt8Primitives;
}

int64_t level2_cache_bytes() {
  static const int64_t bytes = [] {
    int64_t found = 0;
#if defined(_SC_LEVEL2_CACHE_SIZE)
    found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    return found > 0 ? found : int64_t{512} * 1024;
  }();
  return bytes;
}

}  // namespace cnnkern
