// Convolution where every output channel reads one input channel (groups == C), which is no matrix product.
#pragma once
#include "params/conv2d.h"

namespace cnnkern {

template <class T>
int64_t depthwise_scratch(const Conv2dShape& shape, int64_t threads);  // in elements

template <class T>
void depthwise(const Conv2dParams<T>& params);

}  // namespace cnnkern
