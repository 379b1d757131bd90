// int8 convolution on CUDA, exact in s32, with what becomes of the sums in the same kernel: an implicit
// matrix product as in conv2d/conv2d.h, of u8 or s8 and s8, or, where every output channel reads one input
// channel, sums over the window alone. A matrix product is a convolution with 1 x 1 kernels.
//
// Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
// CVPR 2018.
#pragma once
#include "cuda/conv2d/conv2d.h"
#include "params/int8_conv2d.h"

namespace cnnkern::cuda {

// Where the parts of a packed weight lie, in bytes: the weight (K, kH, kW, C/G rounded up to whole chunks of
// 16), zeros where rounded, then the sum of each output channel's weights, (K) s32. A depthwise one is
// (kH, kW, K rounded up) and has no sums.
struct Int8Packing {
  bool depthwise;
  int64_t sums, size;

  constexpr Int8Packing(int64_t out_channels, int64_t group_channels, int64_t kernel_height,
                        int64_t kernel_width, int64_t groups)
      : depthwise(group_channels == 1 && groups > 1),
        sums(depthwise ? conv2d_packed_size(1, out_channels, kernel_height, kernel_width, 1)
                       : conv2d_packed_size(out_channels, group_channels, kernel_height, kernel_width, 1)),
        size(sums + (depthwise ? 0 : out_channels * 4)) {}
  explicit constexpr Int8Packing(const Conv2dShape& s)
      : Int8Packing(s.out_channels, s.in_channels / s.groups, s.kernel_height, s.kernel_width, s.groups) {}
};

// `weight` is (K, C/G, kH, kW) with element strides `strides`.
cudaError_t int8_conv2d_pack(const int8_t* weight, const int64_t (&sizes)[4], const int64_t (&strides)[4],
                             int64_t groups, int8_t* packed, cudaStream_t stream);

// 32-bit words that a call needs, for partial sums.
int64_t int8_conv2d_scratch(const Conv2dShape& shape, const Device& device);
cudaError_t int8_conv2d(const Int8Conv2dParams& params, const Device& device, cudaStream_t stream);

}  // namespace cnnkern::cuda
