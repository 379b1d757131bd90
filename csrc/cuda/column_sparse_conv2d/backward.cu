#include "cuda/column_sparse_conv2d/backward.h"

#include <algorithm>

#include "cuda/conv2d/backward.h"
#include "cuda/conv2d/gradient_sources.cuh"
#include "cuda/numbers.cuh"

namespace cnnkern::cuda {
namespace {

// The products of as many images as this many values hold stay in the second-level cache.
constexpr int64_t kGatheredValues = int64_t{8} << 20;

// What the kept columns give to the inputs that they read.
struct ColumnProducts {
  GradientPatches<float> products;  // of which each output pixel has `count` for each group
  const int32_t* index;             // (groups, count)
  int64_t inputs, in_pixels;
  int in_channels, group_channels, count, taps;
  bool channels_last;

  // `shape` of some images.
  ColumnProducts(const Conv2dShape& shape, const KeptColumns& kept, const float* products)
      : products(with_products(shape, kept.count), products),
        index(kept.index),
        inputs(shape.batch * shape.in_channels * shape.in_height * shape.in_width),
        in_pixels(shape.in_height * shape.in_width),
        in_channels(static_cast<int>(shape.in_channels)),
        group_channels(static_cast<int>(shape.in_channels / shape.groups)),
        count(static_cast<int>(kept.count)),
        taps(static_cast<int>(shape.kernel_height * shape.kernel_width)),
        channels_last(shape.channels_last) {}

  static Conv2dShape with_products(Conv2dShape shape, int64_t count) {
    shape.out_channels = shape.groups * std::max<int64_t>(1, count);  // where there are none, none are read
    return shape;
  }

  // The sum for channel `c` of group `group` of input pixel `pixel`, in the order of the columns.
  __device__ float sum(int64_t pixel, int group, int c) const {
    const GradientPatches<float> of_group = products.of_group(group);
    const auto row = of_group.row(pixel);
    const int32_t* const columns = index + int64_t{group} * count;
    float sum = 0;
    for (int i = first_of(columns, c); i < count; ++i) {
      const int tap = columns[i] - c * taps;
      if (tap < 0 || tap >= taps) break;
      int x;
      const int y = of_group.by_kernel_width.divide(tap, x) * of_group.dilation_height;
      if (const float* const given = of_group.find(row, {y, x * of_group.dilation_width, i})) sum += *given;
    }
    return sum;
  }
  // The first column that is not of a channel before `c`.
  __device__ int first_of(const int32_t* columns, int c) const {
    int first = 0, last = count;
    while (first < last) {
      const int middle = (first + last) / 2;
      if (columns[middle] < c * taps)
        first = middle + 1;
      else
        last = middle;
    }
    return first;
  }
};

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    gather_products(const __grid_constant__ ColumnProducts from, T* grad_x) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= from.inputs) return;
  const int64_t plane = from.channels_last ? i : i / from.in_pixels;
  const auto channel = static_cast<int>(plane % from.in_channels);
  const int64_t image_or_pixel = plane / from.in_channels;
  const int64_t pixel =
      from.channels_last ? image_or_pixel : image_or_pixel * from.in_pixels + i % from.in_pixels;
  const int group = channel / from.group_channels;
  grad_x[i] = from_float<T>(from.sum(pixel, group, channel - group * from.group_channels));
}

// The shape of the product for grad_x, a convolution with a kernel of 1 x 1: of some images of the gradient,
// a channel for each kept column.
Conv2dShape shape_of_products(const Conv2dShape& s, int64_t kept, int64_t images) {
  return {images,
          s.out_channels,
          s.out_height,
          s.out_width,
          s.groups * kept,
          s.out_height,
          s.out_width,
          1,
          1,
          1,
          1,
          0,
          0,
          1,
          1,
          s.groups,
          s.channels_last};
}

int64_t products_of_image(const Conv2dShape& s, int64_t kept) {
  return s.groups * kept * s.out_height * s.out_width;
}
// Images whose products are gathered at once.
int64_t images_at_once(const Conv2dShape& s, int64_t kept) {
  return std::clamp<int64_t>(kGatheredValues / std::max<int64_t>(1, products_of_image(s, kept)), 1, s.batch);
}

template <class T>
cudaError_t gradient_of_x(const ColumnSparseBackwardCall& call, const Device& device, cudaStream_t stream) {
  const Conv2dShape& s = call.shape;
  const int64_t of_grad = s.out_channels * s.out_height * s.out_width;
  const int64_t of_x = s.in_channels * s.in_height * s.in_width;
  const int64_t at_once = images_at_once(s, call.kept.count);
  for (int64_t image = 0; image < s.batch; image += at_once) {
    Conv2dShape some = s;
    some.batch = std::min(at_once, s.batch - image);
    if (call.kept.count > 0) {
      const Conv2dCall product{shape_of_products(s, call.kept.count, some.batch),
                               call.arithmetic,
                               static_cast<const T*>(call.grad) + image * of_grad,
                               call.packed,
                               nullptr,
                               nullptr,
                               call.scratch,
                               false};
      if (const cudaError_t error = conv2d_sums(product, device, stream)) return error;
    }
    const ColumnProducts products(some, call.kept, call.scratch);
    if (const cudaError_t error = launch_elements(gather_products<T>, products.inputs, stream, products,
                                                  static_cast<T*>(call.grad_x) + image * of_x))
      return error;
  }
  return cudaSuccess;
}

// The gradients that are those of a dense convolution with fewer columns.
Conv2dBackwardCall dense_gradients(const ColumnSparseBackwardCall& call) {
  return {call.shape, call.arithmetic,  call.grad,      call.x,       nullptr,
          nullptr,    call.grad_weight, call.grad_bias, call.scratch, call.kept};
}

}  // namespace

int64_t column_sparse_conv2d_backward_scratch(const ColumnSparseBackwardCall& call, const Device& device) {
  const int64_t kept = call.kept.count;
  const int64_t for_x =
      call.grad_x ? images_at_once(call.shape, kept) * products_of_image(call.shape, kept) : 0;
  return std::max(for_x, conv2d_backward_scratch(dense_gradients(call), device));
}

cudaError_t column_sparse_conv2d_backward(const ColumnSparseBackwardCall& call, const Device& device,
                                          cudaStream_t stream) {
  if (call.grad_x) {
    cudaError_t (*of_x)(const ColumnSparseBackwardCall&, const Device&, cudaStream_t) = gradient_of_x<float>;
    if (call.arithmetic == Arithmetic::kFloat16) of_x = gradient_of_x<Half>;
    if (call.arithmetic == Arithmetic::kBfloat16) of_x = gradient_of_x<Bfloat16>;
    if (const cudaError_t error = of_x(call, device, stream)) return error;
  }
  return conv2d_backward(dense_gradients(call), device, stream);
}

}  // namespace cnnkern::cuda
