// Dense convolution on the CPU. No call allocates; the caller asks for sizes first.
#pragma once
#include "params/conv2d.h"

namespace cnnkern {

// Elements of the packed weight. (groups, panels, kH * kW * C/G, kPanel); depthwise (panels of K, kH * kW,
// kPanel).
int64_t conv2d_packed_size(int64_t out_channels, int64_t group_channels, int64_t kernel_height,
                           int64_t kernel_width, int64_t groups);

// `weight` is (K, C/G, kH, kW) with element strides `stride` (4).
template <class T>
void conv2d_pack(const T* weight, const int64_t* stride, int64_t out_channels, int64_t group_channels,
                 int64_t kernel_height, int64_t kernel_width, int64_t groups, T* packed, int64_t threads);

template <class T>
int64_t conv2d_scratch(const Conv2dShape& shape, int64_t threads);  // in elements

template <class T>
void conv2d(const Conv2dParams<T>& params);

}  // namespace cnnkern
