// The four factors into panels, group by group.
#include <algorithm>

#include "cpu/cp_conv2d/cp_conv2d.h"

namespace cnnkern {
namespace {

// Rows [first, first + rows) of a (rows, depth) factor into (panels, full_depth, kPanel), with zeros after
// the last.
template <class T>
void pack_rows(const Factor<T>& factor, int64_t first, int64_t rows, int64_t depth, int64_t full_depth,
               T* to) {
  for (int64_t panel = 0; panel < rows; panel += kPanel) {
    const int64_t valid = std::min(kPanel, rows - panel);
    const T* const from = factor.data + (first + panel) * factor.stride[0];
    for (int64_t d = 0; d < depth; ++d, to += kPanel) {
      for (int64_t lane = 0; lane < valid; ++lane)
        to[lane] = from[lane * factor.stride[0] + d * factor.stride[1]];
      std::fill(to + valid, to + kPanel, T(0));
    }
    std::fill_n(to, (full_depth - depth) * kPanel, T(0));
    to += (full_depth - depth) * kPanel;
  }
}

}  // namespace

template <class T>
void cp_conv2d_pack(const CpFactors<T>& factors, int64_t rank, int64_t group_channels, int64_t out_channels,
                    int64_t kernel_height, int64_t kernel_width, int64_t groups, T* packed) {
  const int64_t group_rank = rank / groups, group_outputs = out_channels / groups;
  const PackedFactors at(group_rank, group_channels, group_outputs, kernel_height, kernel_width);
  for (int64_t g = 0; g < groups; ++g, packed += at.size) {
    pack_rows(factors.c, g * group_rank, group_rank, group_channels, group_channels, packed + at.factor_c);
    pack_rows(factors.h, g * group_rank, group_rank, kernel_height, kernel_height, packed + at.factor_h);
    pack_rows(factors.w, g * group_rank, group_rank, kernel_width, kernel_width, packed + at.factor_w);
    pack_rows(factors.k, g * group_outputs, group_outputs, group_rank, group_rank, packed + at.factor_k);
  }
}

template <class T>
void cp_conv2d_pack_transposed(const CpFactors<T>& factors, int64_t rank, int64_t group_channels,
                               int64_t out_channels, int64_t groups, T* packed) {
  const int64_t group_rank = rank / groups, group_outputs = out_channels / groups;
  const TransposedFactors at(group_rank, group_channels, group_outputs);
  for (int64_t g = 0; g < groups; ++g, packed += at.size) {
    // Row r of factor_k's transpose is a column of the group's rows, and row c of factor_c's one of its
    // rows'.
    const Factor<T> k{factors.k.data + g * group_outputs * factors.k.stride[0],
                      {factors.k.stride[1], factors.k.stride[0]}};
    const Factor<T> c{factors.c.data + g * group_rank * factors.c.stride[0],
                      {factors.c.stride[1], factors.c.stride[0]}};
    pack_rows(k, 0, group_rank, group_outputs, round_up(group_outputs, kPanel), packed + at.factor_k);
    pack_rows(c, 0, group_channels, group_rank, round_up(group_rank, kPanel), packed + at.factor_c);
  }
}

template void cp_conv2d_pack_transposed(const CpFactors<float>&, int64_t, int64_t, int64_t, int64_t, float*);
template void cp_conv2d_pack_transposed(const CpFactors<double>&, int64_t, int64_t, int64_t, int64_t,
                                        double*);
template void cp_conv2d_pack(const CpFactors<float>&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                             float*);
template void cp_conv2d_pack(const CpFactors<double>&, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                             double*);

}  // namespace cnnkern
