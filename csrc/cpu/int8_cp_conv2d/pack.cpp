// The 1 x 1 factors as int8 weights, the depthwise ones as panels of float32.
#include <algorithm>
#include <cstring>

#include "cpu/int8_cp_conv2d/int8_cp_conv2d.h"
#include "cpu/registry.h"

namespace cnnkern {

int64_t int8_cp_conv2d_pack_scratch(int64_t rank, int64_t kernel_height, int64_t kernel_width,
                                    int64_t groups) {
  return groups * panels(rank / groups) * kPanel * std::max(kernel_height, kernel_width);
}

void int8_cp_conv2d_pack(const Int8Factor& c, const Factor<float>& h, const Factor<float>& w,
                         const Int8Factor& k, int64_t kernel_height, int64_t kernel_width,
                         const Int8PackedFactors& at, int8_t* packed, float* scratch, int64_t threads) {
  const auto integers = [&](const Int8Factor& factor, const Int8Weight& weight, int8_t* to) {
    const int64_t stride[] = {factor.stride[0], factor.stride[1], 0, 0};
    int8_conv2d_pack(factor.data, stride, weight, to, threads);
  };
  const auto reals = [&](const Factor<float>& factor, int64_t taps, int8_t* to) {
    const int64_t group_rank = at.c.out_channels / at.c.groups, group = panels(group_rank) * kPanel * taps;
    for (int64_t g = 0; g < at.c.groups; ++g)
      pack_rows(primitives<float>(), factor, g * group_rank, group_rank, taps, taps, scratch + g * group);
    std::memcpy(to, scratch, static_cast<size_t>(at.c.groups * group) * sizeof(float));
  };
  integers(c, at.c, packed + at.factor_c);
  integers(k, at.k, packed + at.factor_k);
  reals(h, kernel_height, packed + at.factor_h);
  reals(w, kernel_width, packed + at.factor_w);
}

}  // namespace cnnkern
