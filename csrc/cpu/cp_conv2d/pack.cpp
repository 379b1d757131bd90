// The four factors into panels, group by group.
#include <algorithm>

#include "cpu/cp_conv2d/cp_conv2d.h"
#include "cpu/registry.h"

namespace cnnkern {
template <class T>
void pack_rows(const Primitives<T>& kernels, const Factor<T>& factor, int64_t first, int64_t rows,
               int64_t depth, int64_t full_depth, T* to) {
  for (int64_t panel = 0; panel < rows; panel += kPanel, to += full_depth * kPanel) {
    const int64_t valid = std::min(kPanel, rows - panel);
    const T* const from = factor.data + (first + panel) * factor.stride[0];
    if (valid < kPanel) std::fill_n(to, depth * kPanel, T(0));
    if (factor.stride[1] == 1) {
      kernels.transpose(from, factor.stride[0], valid, depth, to, kPanel);
    } else {
      for (int64_t d = 0; d < depth; ++d) {
        for (int64_t lane = 0; lane < valid; ++lane)
          to[d * kPanel + lane] = from[lane * factor.stride[0] + d * factor.stride[1]];
      }
    }
    std::fill_n(to + depth * kPanel, (full_depth - depth) * kPanel, T(0));
  }
}

template <class T>
void cp_conv2d_pack(const CpFactors<T>& factors, int64_t rank, int64_t group_channels, int64_t out_channels,
                    int64_t kernel_height, int64_t kernel_width, int64_t groups, T* packed) {
  const int64_t group_rank = rank / groups, group_outputs = out_channels / groups;
  const PackedFactors at(group_rank, group_channels, group_outputs, kernel_height, kernel_width);
  const Primitives<T>& kernels = primitives<T>();
  for (int64_t g = 0; g < groups; ++g, packed += at.size) {
    pack_rows(kernels, factors.c, g * group_rank, group_rank, group_channels, group_channels,
              packed + at.factor_c);
    pack_rows(kernels, factors.h, g * group_rank, group_rank, kernel_height, kernel_height,
              packed + at.factor_h);
    pack_rows(kernels, factors.w, g * group_rank, group_rank, kernel_width, kernel_width,
              packed + at.factor_w);
    pack_rows(kernels, factors.k, g * group_outputs, group_outputs, group_rank, group_rank,
              packed + at.factor_k);
  }
}

template void pack_rows(const Primitives<float>&, const Factor<float>&, int64_t, int64_t, int64_t, int64_t,
                        float*);
template void pack_rows(const Primitives<double>&, const Factor<double>&, int64_t, int64_t, int64_t, int64_t,
                        double*);
template void cp_conv2d_pack(const CpFactors<float>&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                             float*);
template void cp_conv2d_pack(const CpFactors<double>&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                             double*);

}  // namespace cnnkern
