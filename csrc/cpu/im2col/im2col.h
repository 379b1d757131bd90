// The patch matrix of a convolution, written out: (N, C * kH * kW, oH * oW), as torch.nn.functional.unfold
// orders it.
#pragma once
#include "params/conv2d.h"

namespace cnnkern {

// `shape` says the patches (its groups and out_channels do not matter) and the layout of `x`; `y` is
// contiguous.
template <class T>
void im2col(const Conv2dShape& shape, const T* x, T* y, int64_t threads);

}  // namespace cnnkern
