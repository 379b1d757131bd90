// Fused CP convolution on the CPU (Lebedev et al. 2015). No call allocates; the caller asks for sizes first.
#pragma once
#include "cpu/primitives.h"
#include "params/cp_conv2d.h"

namespace cnnkern {

// Where a group's factors lie in the packed tensor, in elements from the group's beginning.
struct PackedFactors {
  int64_t factor_c;  // (panels of R/G, C/G, kPanel)
  int64_t factor_h;  // (panels of R/G, kH, kPanel)
  int64_t factor_w;  // (panels of R/G, kW, kPanel)
  int64_t factor_k;  // (panels of K/G, R/G, kPanel)
  int64_t size;

  PackedFactors(int64_t group_rank, int64_t group_channels, int64_t group_outputs, int64_t kernel_height,
                int64_t kernel_width)
      : factor_c(0),
        factor_h(round_up(group_rank, kPanel) * group_channels),
        factor_w(factor_h + round_up(group_rank, kPanel) * kernel_height),
        factor_k(factor_w + round_up(group_rank, kPanel) * kernel_width),
        size(factor_k + round_up(group_outputs, kPanel) * group_rank) {}
};

// A factor and its element strides.
template <class T>
struct Factor {
  const T* data;
  int64_t stride[2];
};

// Rows [first, first + rows) of a (rows, depth) factor into (panel, full_depth, kPanel), with zeros after the
// last row and after `depth`.
template <class T>
void pack_rows(const Primitives<T>& kernels, const Factor<T>& factor, int64_t first, int64_t rows,
               int64_t depth, int64_t full_depth, T* to);

template <class T>
struct CpFactors {
  Factor<T> c;  // (R, C/G)
  Factor<T> h;  // (R, kH)
  Factor<T> w;  // (R, kW)
  Factor<T> k;  // (K, R/G)
};

template <class T>
void cp_conv2d_pack(const CpFactors<T>& factors, int64_t rank, int64_t group_channels, int64_t out_channels,
                    int64_t kernel_height, int64_t kernel_width, int64_t groups, T* packed);

template <class T>
int64_t cp_conv2d_scratch(const Conv2dShape& shape, int64_t rank, int64_t threads);  // in elements

template <class T>
void cp_conv2d(const CpConv2dParams<T>& params);

template <class T>
int64_t cp_conv2d_backward_scratch(const Conv2dShape& shape, int64_t rank, int64_t threads);  // in elements

template <class T>
void cp_conv2d_backward(const CpConv2dBackwardParams<T>& params);

}  // namespace cnnkern
