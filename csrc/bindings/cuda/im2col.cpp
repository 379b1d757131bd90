// im2col on CUDA.
#include "cuda/im2col/im2col.h"

#include "bindings/cuda/call.h"

namespace cnnkern::cuda {
namespace {

using Ints = std::vector<int64_t>;

Tensor im2col_cuda(const Tensor& x, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                   const Ints& dilation) {
  const Call call(x);
  const Arithmetic arithmetic = arithmetic_of(x);
  const Image image = as_image(x);
  check(kernel_size.size() == 2, "kernel_size: expected two numbers");
  const Conv2dShape s =
      conv2d_shape(image, 1, kernel_size[0], kernel_size[1], geometry_of(stride, padding, dilation, 1));
  const int64_t rows = s.in_channels * s.kernel_height * s.kernel_width, columns = s.out_height * s.out_width;
  Tensor y = empty_tensor({s.batch, rows, columns}, {rows * columns, columns, 1}, x);
  if (s.batch == 0) return y;
  check_launch("im2col", im2col(s, bytes_of(arithmetic), image.tensor.const_data_ptr(), y.mutable_data_ptr(),
                                call.stream()));
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(CNNKERN_CUDA_LIBRARY, CNNKERN_CUDA_KEY, m) {
  m.impl("im2col", TORCH_BOX(&im2col_cuda));
}

}  // namespace cnnkern::cuda
