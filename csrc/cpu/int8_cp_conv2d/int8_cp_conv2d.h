// Fused CP convolution with int8 activations and 1 x 1 factors, on the CPU. No call allocates; the caller
// asks for sizes first.
#pragma once
#include "cpu/cp_conv2d/cp_conv2d.h"
#include "cpu/int8_conv2d/int8_conv2d.h"
#include "params/int8_cp_conv2d.h"

namespace cnnkern {

// The weight of one of the two 1 x 1 stages: (R, C/G) or (K, R/G).
struct Int8Factor {
  const int8_t* data;
  int64_t stride[2];
};

// Where the factors lie in the packed tensor, in bytes from its start; unaligned.
struct Int8PackedFactors {
  Int8Weight c, k;   // packed as those of 1 x 1 convolutions
  int64_t factor_c;  // c
  int64_t factor_k;  // k
  int64_t factor_h;  // (groups, panels of R/G, kH, kPanel) float32
  int64_t factor_w;  // (groups, panels of R/G, kW, kPanel) float32
  int64_t size;

  Int8PackedFactors(int64_t rank, int64_t group_channels, int64_t out_channels, int64_t kernel_height,
                    int64_t kernel_width, int64_t groups)
      : c(Int8Weight::matrices(rank, group_channels, groups)),
        k(Int8Weight::matrices(out_channels, rank / groups, groups)),
        factor_c(0),
        factor_k(int8_packing(c).size),
        factor_h(factor_k + int8_packing(k).size),
        factor_w(factor_h + float_size(rank, kernel_height, groups)),
        size(factor_w + float_size(rank, kernel_width, groups)) {}

  static int64_t float_size(int64_t rank, int64_t taps, int64_t groups) {
    return groups * panels(rank / groups) * kPanel * taps * static_cast<int64_t>(sizeof(float));
  }
};

void int8_cp_conv2d_pack(const Int8Factor& c, const Factor<float>& h, const Factor<float>& w,
                         const Int8Factor& k, int64_t kernel_height, int64_t kernel_width,
                         const Int8PackedFactors& at, int8_t* packed, float* scratch, int64_t threads);

// In elements of float: what packing needs besides.
int64_t int8_cp_conv2d_pack_scratch(int64_t rank, int64_t kernel_height, int64_t kernel_width,
                                    int64_t groups);

// In bytes, for these kernels.
int64_t int8_cp_conv2d_scratch(const Int8Primitives& kernels, const Conv2dShape& shape, int64_t rank,
                               bool x_signed, Int8Output output, int64_t threads);

void int8_cp_conv2d(const Int8Primitives& kernels, const Int8CpConv2dParams& params);

}  // namespace cnnkern
