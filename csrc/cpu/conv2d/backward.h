// The gradients of a dense convolution on the CPU: of its input, its weight and its bias, each only where
// asked for. The bits do not depend on the number of threads. No call allocates; the caller asks for the
// scratch size first.
#pragma once
#include "params/conv2d.h"

namespace cnnkern {

struct GradientsAsked {
  bool x, weight, bias;
};

template <class T>
int64_t conv2d_backward_scratch(const Conv2dShape& shape, GradientsAsked asked,
                                int64_t threads);  // in elements

template <class T>
void conv2d_backward(const Conv2dBackwardParams<T>& params);

// The parts of it. Each writes one gradient, with scratch of its own size.
template <class T>
int64_t backward_input_scratch(const Conv2dShape& shape, int64_t threads);
template <class T>
void backward_input(const Conv2dBackwardParams<T>& params);

// The same, for outputs that are much smaller than the input.
template <class T>
int64_t backward_input_sum_scratch(const Conv2dShape& shape, int64_t threads);
template <class T>
void backward_input_sum(const Conv2dBackwardParams<T>& params);

template <class T>
int64_t backward_weight_scratch(const Conv2dShape& shape, int64_t threads);
template <class T>
void backward_weight(const Conv2dBackwardParams<T>& params);

template <class T>
int64_t backward_bias_scratch(const Conv2dShape& shape);
template <class T>
void backward_bias(const Conv2dBackwardParams<T>& params);

// For is_depthwise(shape) only.
template <class T>
int64_t backward_depthwise_input_scratch(const Conv2dShape& shape, int64_t threads);
template <class T>
void backward_depthwise_input(const Conv2dBackwardParams<T>& params);

template <class T>
int64_t backward_depthwise_weight_scratch(const Conv2dShape& shape, int64_t threads);
template <class T>
void backward_depthwise_weight(const Conv2dBackwardParams<T>& params);

}  // namespace cnnkern
