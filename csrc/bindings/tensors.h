// What every binding does with its tensors: checks for memory safety, layouts, allocation. The complete
// checks, with the better messages, are in cnnkern/ops; these repeat them for callers of torch.ops.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <vector>

#include "params/conv2d.h"

namespace cnnkern {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Throws std::invalid_argument, which is a ValueError in Python, with the parts of the message put together.
template <class... Parts>
void check(bool holds, const Parts&... parts) {
  if (holds) return;
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

template <class T>
constexpr ScalarType kScalarType = ScalarType::Float;
template <>
inline constexpr ScalarType kScalarType<double> = ScalarType::Double;

// Calls `body(T{})` with the C++ type of a floating-point tensor.
template <class Body>
auto with_float_type(const Tensor& x, const Body& body) {
  if (x.scalar_type() == ScalarType::Double) return body(double{});
  check(x.scalar_type() == ScalarType::Float, "x: expected float32 or float64 on the CPU");
  return body(float{});
}

// Dispatch picked the kernel by one of the tensors: the others must not be elsewhere.
bool on_same_device(const Tensor& a, const Tensor& b);

inline void check_operand(const char* name, const Tensor& tensor, int64_t dims, const Tensor& like) {
  check(tensor.dim() == dims, name, ": expected ", dims, " dimensions, got ", tensor.dim());
  check(tensor.scalar_type() == like.scalar_type(), name, ": expected the dtype of x");
  check(on_same_device(tensor, like), name, ": expected a tensor on the device of x");
}

inline void check_size(const char* name, const Tensor& tensor, int64_t dim, int64_t expected) {
  check(tensor.size(dim) == expected, name, ": expected size ", expected, " in dimension ", dim, ", got ",
        tensor.size(dim));
}

// A dense (N, C, H, W) tensor and how it lies in memory.
struct Image {
  Tensor tensor;
  bool channels_last;
};

// x itself where it is dense in its memory format, else a dense copy.
Image as_image(const Tensor& x);

// The gradient of an output of `sizes` (N, K, oH, oW), dense in the memory format of `x`.
Tensor as_gradient(const Tensor& grad, const std::vector<int64_t>& sizes, const Image& x);

// Uninitialized, on the CPU.
Tensor empty_tensor(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType dtype);
Tensor empty_image(int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last, ScalarType dtype);
Tensor empty_vector(int64_t size, ScalarType dtype);

// Uninitialized, with the device and, unless another is named, the dtype of `like`; a scratch is float32.
Tensor empty_tensor(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                    const Tensor& like);
Tensor empty_tensor(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType dtype,
                    const Tensor& like);
Tensor empty_image(int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last, const Tensor& like);
Tensor empty_image(int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last, ScalarType dtype,
                   const Tensor& like);
Tensor empty_scratch(int64_t size, const Tensor& like);

// x itself where its elements fill its memory, its axes in any order; else such a copy, in the order that
// torch's own operations on single elements give.
Tensor as_filled(const Tensor& x);
// Uninitialized, with the sizes, strides and device of `x`, which fills its memory.
Tensor empty_alike(const Tensor& x, ScalarType dtype);
// x itself where its elements lie as those of `like` do, which fills its memory and has x's sizes; else a
// copy.
Tensor in_order_of(const Tensor& like, const Tensor& x);

// A bias of K values, made contiguous, or nothing.
std::optional<Tensor> as_bias(const std::optional<Tensor>& bias, int64_t channels, const Tensor& like);

// Two numbers from `least` to 2^31 - 1: what kernels make of them, such as a dilation times the taps, stays
// within 64 bits.
void check_pair(const char* name, int64_t vertical, int64_t horizontal, int64_t least);

// How a kernel moves over an image, height before width.
struct Geometry {
  int64_t stride[2], padding[2], dilation[2], groups;
};
Geometry geometry_of(const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                     const std::vector<int64_t>& dilation, int64_t groups);

// The one list of a packed operation, since each list costs a call a microsecond: `size` numbers about the
// weight, then stride, padding and dilation as pairs, then groups.
Geometry geometry_after(size_t size, const std::vector<int64_t>& list);

// A packed weight is one row of `size` elements.
void check_packed(const Tensor& packed, int64_t size);

// The shape of a convolution of `x` (N, C, H, W); checks every number that addresses depend on.
Conv2dShape conv2d_shape(const Image& x, int64_t out_channels, int64_t kernel_height, int64_t kernel_width,
                         const Geometry& geometry);

// The same from the one list of a packed operation whose weight is (K, C/G, kH, kW).
Conv2dShape packed_conv2d_shape(const Image& x, const std::vector<int64_t>& list);

// torch's thread count, less for work of so few multiply-adds that waking threads would cost more than they
// save.
int64_t threads_for(double multiply_adds);

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}
template <class T>
const T* const_data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
const T* const_data(const std::optional<Tensor>& tensor) {
  return tensor ? const_data<T>(*tensor) : nullptr;
}

}  // namespace cnnkern
