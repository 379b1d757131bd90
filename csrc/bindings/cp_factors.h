// What the bindings of the fused CP convolutions share.
#pragma once
#include "bindings/tensors.h"

namespace cnnkern {

struct FactorSize {
  int64_t out_channels, rank, group_channels, kernel_height, kernel_width;
};

inline double cp_multiply_adds(const Conv2dShape& s, int64_t rank) {
  const auto in_pixels = static_cast<double>(s.batch * s.in_height * s.in_width);
  const auto out_pixels = static_cast<double>(s.batch * s.out_height * s.out_width);
  return static_cast<double>(rank) *
         (in_pixels * static_cast<double>(s.in_channels / s.groups) +
          out_pixels * static_cast<double>(s.out_channels / s.groups + s.kernel_height + s.kernel_width));
}

inline void check_rank(const FactorSize& f, int64_t groups) {
  check(f.rank > 0 && groups > 0 && f.rank % groups == 0, "factor_c: expected a positive rank that ", groups,
        " groups divide, got ", f.rank);
  check(f.out_channels > 0 && f.out_channels % groups == 0, "groups: expected a divisor of ", f.out_channels,
        " output channels, got ", groups);
}

}  // namespace cnnkern
