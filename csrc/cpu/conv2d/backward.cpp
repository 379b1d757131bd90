// See backward.h.
#include "cpu/conv2d/backward.h"

#include <algorithm>

namespace cnnkern {

template <class T>
int64_t conv2d_backward_scratch(const Conv2dShape& s, GradientsAsked asked, int64_t threads) {
  const bool depthwise = is_depthwise(s);
  int64_t size = 0;
  if (asked.x)
    size =
        depthwise ? backward_depthwise_input_scratch<T>(s, threads) : backward_input_scratch<T>(s, threads);
  if (asked.weight)
    size = std::max(size, depthwise ? backward_depthwise_weight_scratch<T>(s, threads)
                                    : backward_weight_scratch<T>(s, threads));
  if (asked.bias) size = std::max(size, backward_bias_scratch<T>(s));
  return size;
}

template <class T>
void conv2d_backward(const Conv2dBackwardParams<T>& p) {
  const bool depthwise = is_depthwise(p.shape);
  if (p.grad_x) depthwise ? backward_depthwise_input(p) : backward_input(p);
  if (p.grad_weight) depthwise ? backward_depthwise_weight(p) : backward_weight(p);
  if (p.grad_bias) backward_bias(p);
}

template int64_t conv2d_backward_scratch<float>(const Conv2dShape&, GradientsAsked, int64_t);
template int64_t conv2d_backward_scratch<double>(const Conv2dShape&, GradientsAsked, int64_t);
template void conv2d_backward(const Conv2dBackwardParams<float>&);
template void conv2d_backward(const Conv2dBackwardParams<double>&);

}  // namespace cnnkern
