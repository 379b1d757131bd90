// int8 convolution on the CPU, exact in s32; a matrix product is one of 1 x 1 kernels. No call allocates; the
// caller asks for sizes first.
#pragma once
#include "cpu/int8_primitives.h"

namespace cnnkern {

// Where the parts of a packed weight lie, in bytes from its start; unaligned.
struct Int8Packing {
  int64_t run;      // bytes of a kernel row: kW * C/G, up to whole quads
  int64_t panel;    // bytes of a panel of output channels
  int64_t panels;   // of all groups
  int64_t extreme;  // (panels) bytes: nonzero where a weight of the panel is -128
  int64_t sums;     // (K) s32: the sum of an output channel's weights
  int64_t size;
};

// Weights (groups, panels, kH, run / 4, kPanel, 4); depthwise (panels of K, kH * kW, kPanel).
Int8Packing int8_packing(int64_t out_channels, int64_t group_channels, int64_t kernel_height,
                         int64_t kernel_width, int64_t groups);

// `weight` is (K, C/G, kH, kW) with element strides `stride` (4).
void int8_conv2d_pack(const int8_t* weight, const int64_t* stride, int64_t out_channels,
                      int64_t group_channels, int64_t kernel_height, int64_t kernel_width, int64_t groups,
                      int8_t* packed, int64_t threads);

// In bytes, for these kernels.
int64_t int8_conv2d_scratch(const Int8Primitives& kernels, const Conv2dShape& shape, bool x_signed,
                            Int8Output output, int64_t threads);

void int8_conv2d(const Int8Primitives& kernels, const Int8Conv2dParams& params);

}  // namespace cnnkern
