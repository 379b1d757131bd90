// Convolution with a weight of which most columns were pruned, on the CPU.
// Lebedev, Lempitsky: Fast ConvNets Using Group-wise Brain Damage, CVPR 2016.
//
// No call allocates; the caller asks for sizes first.
#pragma once
#include "params/column_sparse_conv2d.h"

namespace cnnkern {

// Elements of the packed weight, (groups, panels, kept, kPanel), k in the order of columns.h.
int64_t column_sparse_conv2d_packed_size(int64_t out_channels, int64_t kept, int64_t groups);

// `weight` is (K, kept) with element strides `stride` (2); `scratch` has taps + 1 + kept elements.
template <class T>
void column_sparse_conv2d_pack(const T* weight, const int64_t* stride, int64_t out_channels,
                               const KeptColumns& kept, int64_t taps, int64_t groups, T* packed,
                               int64_t* scratch);

template <class T>
int64_t column_sparse_conv2d_scratch(const Conv2dShape& shape, int64_t kept, int64_t threads);  // in elements

template <class T>
void column_sparse_conv2d(const ColumnSparseConv2dParams<T>& params);

}  // namespace cnnkern
