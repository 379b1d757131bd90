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

// The outer factors the other way round, for gradients, group by group: factor_k as (panels of R/G, K/G,
// kPanel), then factor_c as (panels of C/G, R/G, kPanel), both with zeros up to whole panels in depth too.
struct TransposedFactors {
  int64_t factor_k;
  int64_t factor_c;
  int64_t size;

  TransposedFactors(int64_t group_rank, int64_t group_channels, int64_t group_outputs)
      : factor_k(0),
        factor_c(round_up(group_rank, kPanel) * round_up(group_outputs, kPanel)),
        size(factor_c + round_up(group_channels, kPanel) * round_up(group_rank, kPanel)) {}
};

template <class T>
void cp_conv2d_pack_transposed(const CpFactors<T>& factors, int64_t rank, int64_t group_channels,
                               int64_t out_channels, int64_t groups, T* packed);

template <class T>
int64_t cp_conv2d_backward_scratch(const Conv2dShape& shape, int64_t rank, int64_t threads);  // in elements

template <class T>
void cp_conv2d_backward(const CpConv2dBackwardParams<T>& params);

}  // namespace cnnkern
