// What the CPU and the operating system offer.
#pragma once

namespace cnnkern {

struct CpuFeatures {
  bool avx2 = false;
  bool fma = false;
  bool avx512f = false;
  bool avx512dq = false;
  bool avx512bw = false;
  bool avx512vl = false;
  bool avx512_vnni = false;
  bool avx_vnni = false;
  bool amx_int8 = false;
};

const CpuFeatures& cpu_features();

}  // namespace cnnkern
