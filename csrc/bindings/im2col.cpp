// im2col on the CPU.
#include "cpu/im2col/im2col.h"

#include <torch/csrc/stable/library.h>

#include "bindings/tensors.h"

namespace cnnkern {
namespace {

using Ints = std::vector<int64_t>;

Tensor im2col_cpu(const Tensor& x, const Ints& kernel_size, const Ints& stride, const Ints& padding,
                  const Ints& dilation) {
  const Image image = as_image(x);
  check(kernel_size.size() == 2, "kernel_size: expected two numbers");
  const Conv2dShape shape =
      conv2d_shape(image, 1, kernel_size[0], kernel_size[1], geometry_of(stride, padding, dilation, 1));
  const int64_t rows = shape.in_channels * shape.kernel_height * shape.kernel_width;
  const int64_t columns = shape.out_height * shape.out_width;
  Tensor y = empty_tensor({shape.batch, rows, columns}, {rows * columns, columns, 1}, x.scalar_type());
  const double values = static_cast<double>(shape.batch) * static_cast<double>(rows * columns);
  with_float_type(
      x, [&]<class T>(T) { im2col<T>(shape, const_data<T>(image.tensor), data<T>(y), threads_for(values)); });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnkern, CPU, m) { m.impl("im2col", TORCH_BOX(&im2col_cpu)); }

}  // namespace cnnkern
