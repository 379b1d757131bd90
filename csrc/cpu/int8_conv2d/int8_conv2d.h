// int8 convolution on the CPU, exact in s32; a matrix product is one of 1 x 1 kernels, and a convolution
// whose weight matrix has kept columns alone is one more source of patches. No call allocates; the caller
// asks for sizes first.
#pragma once
#include "cpu/int8_primitives.h"

namespace cnnkern {

// A weight as it is packed. Depthwise, a panel has output channels of several groups.
struct Int8Weight {
  int64_t out_channels;
  int64_t group_channels;
  int64_t kernel_height;
  int64_t kernel_width;
  int64_t groups;
  bool depthwise;

  // Of a dense convolution, (K, C/G, kH, kW).
  static Int8Weight dense(int64_t out_channels, int64_t group_channels, int64_t kernel_height,
                          int64_t kernel_width, int64_t groups) {
    return {out_channels, group_channels, kernel_height,
            kernel_width, groups,         group_channels == 1 && groups > 1};
  }
  // A matrix for each group, (K, depth).
  static Int8Weight matrices(int64_t out_channels, int64_t depth, int64_t groups) {
    return {out_channels, depth, 1, 1, groups, false};
  }
  static Int8Weight of(const Conv2dShape& s, const KeptColumns* kept) {
    if (kept) return matrices(s.out_channels, kept->count, s.groups);
    return dense(s.out_channels, s.in_channels / s.groups, s.kernel_height, s.kernel_width, s.groups);
  }
};

// Where the parts of a packed weight lie, in bytes from its start; unaligned.
struct Int8Packing {
  int64_t run;      // bytes of a kernel row: kW * C/G, up to whole quads, or the kept columns
  int64_t panel;    // bytes of a panel of output channels
  int64_t panels;   // of all groups
  int64_t extreme;  // (panels) bytes: nonzero where a weight of the panel is -128
  int64_t sums;     // (K) s32: the sum of an output channel's weights
  int64_t size;
};

// Weights (groups, panels, kH, run / 4, kPanel, 4); depthwise (panels of K, kH * kW, kPanel).
Int8Packing int8_packing(const Int8Weight& weight);

// `values` is (K, C/G, kH, kW) with element strides `stride` (4).
void int8_conv2d_pack(const int8_t* values, const int64_t* stride, const Int8Weight& weight, int8_t* packed,
                      int64_t threads);

// In bytes, for these kernels.
int64_t int8_conv2d_scratch(const Int8Primitives& kernels, const Conv2dShape& shape, const KeptColumns* kept,
                            bool x_signed, Int8Output output, int64_t threads);

void int8_conv2d(const Int8Primitives& kernels, const Int8Conv2dParams& params);

}  // namespace cnnkern
