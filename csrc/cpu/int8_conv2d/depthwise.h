// Depthwise int8 convolution: one input channel for each output channel, or for several of them.
#pragma once
#include "cpu/int8_conv2d/int8_conv2d.h"

namespace cnnkern {

int64_t int8_depthwise_scratch(const Conv2dShape& shape, Int8Output output, int64_t threads);
void int8_depthwise(const Int8Primitives& kernels, const Int8Conv2dParams& params);

}  // namespace cnnkern
