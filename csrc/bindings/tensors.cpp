// See tensors.h.
#include "bindings/tensors.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>

namespace cnnkern {
namespace {

// torch's own rule for which memory format a tensor suggests, so that ambiguous shapes come out as torch has
// them.
bool suggests_channels_last(const Tensor& x) {
  int64_t least = 0;
  if (x.stride(1) == 0) return false;
  for (const int64_t d : {1, 3, 2, 0}) {
    const int64_t size = x.size(d), stride = x.stride(d);
    if (size == 0 || stride < least) return false;
    // (N, 1, 1, 1) and its like: contiguous unless the strides say otherwise.
    if (d == 0 && least == x.stride(1)) return false;
    least = size > 1 ? stride * size : stride;
  }
  return true;
}

bool is_dense(const Tensor& x, const std::array<int64_t, 4>& inner_to_outer) {
  int64_t expected = 1;
  for (const int64_t d : inner_to_outer) {
    if (x.size(d) != 1 && x.stride(d) != expected) return false;
    expected *= x.size(d);
  }
  return true;
}

// x itself where it is dense in that memory format, else a copy.
Tensor as_dense(const Tensor& x, bool channels_last) {
  if (is_dense(x, channels_last ? std::array<int64_t, 4>{1, 3, 2, 0} : std::array<int64_t, 4>{3, 2, 1, 0}))
    return x;
  using torch::headeronly::MemoryFormat;
  return torch::stable::contiguous(x, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

int32_t device_type(const Tensor& tensor) {
  int32_t type;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  return type;
}

// What is too large for malloc to keep is mapped anew by every call, and finding pages of 4 KiB for it takes
// the system several times as long as writing them takes us. Where huge pages may be asked for, this asks.
void prefer_huge_pages(const Tensor& tensor) {
  constexpr size_t kNeverKept = 32 << 20;  // glibc's DEFAULT_MMAP_THRESHOLD_MAX
  const size_t bytes = static_cast<size_t>(tensor.numel()) * tensor.element_size();
  if (bytes < kNeverKept) return;
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t memory = reinterpret_cast<uintptr_t>(tensor.mutable_data_ptr());
  const uintptr_t begin = (memory + page - 1) / page * page, end = (memory + bytes) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // a refusal changes nothing
}

}  // namespace

bool on_same_device(const Tensor& a, const Tensor& b) {
  return device_type(a) == device_type(b) && a.get_device_index() == b.get_device_index();
}

Image as_image(const Tensor& x) {
  check(x.dim() == 4, "x: expected 4 dimensions (N, C, H, W), got ", x.dim());
  check(x.is_cpu() || x.is_cuda(), "x: expected a tensor on the CPU or on a GPU");
  const bool last = suggests_channels_last(x);
  return {as_dense(x, last), last};
}

Tensor as_gradient(const Tensor& grad, const std::vector<int64_t>& sizes, const Image& x) {
  check_operand("grad", grad, 4, x.tensor);
  for (int64_t d = 0; d < 4; ++d) check_size("grad", grad, d, sizes[static_cast<size_t>(d)]);
  return as_dense(grad, x.channels_last);
}

namespace {

int32_t dtype_code(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte:
      return aoti_torch_dtype_uint8();
    case ScalarType::Char:
      return aoti_torch_dtype_int8();
    case ScalarType::Int:
      return aoti_torch_dtype_int32();
    case ScalarType::Long:
      return aoti_torch_dtype_int64();
    case ScalarType::Double:
      return aoti_torch_dtype_float64();
    case ScalarType::Half:
      return aoti_torch_dtype_float16();
    case ScalarType::BFloat16:
      return aoti_torch_dtype_bfloat16();
    default:
      return aoti_torch_dtype_float32();
  }
}

Tensor allocate(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType dtype,
                int32_t device_type, int32_t device) {
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                                  strides.data(), dtype_code(dtype), device_type, device,
                                                  &handle));
  return Tensor(handle);
}

std::vector<int64_t> image_strides(int64_t c, int64_t h, int64_t w, bool channels_last) {
  if (channels_last) return {h * w * c, 1, w * c, c};
  return {c * h * w, h * w, w, 1};
}

}  // namespace

Tensor empty_tensor(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                    ScalarType dtype) {
  Tensor tensor = allocate(sizes, strides, dtype, aoti_torch_device_type_cpu(), 0);
  prefer_huge_pages(tensor);
  return tensor;
}

Tensor empty_image(int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last, ScalarType dtype) {
  return empty_tensor({n, c, h, w}, image_strides(c, h, w, channels_last), dtype);
}

Tensor empty_tensor(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
                    const Tensor& like) {
  return empty_tensor(sizes, strides, like.scalar_type(), like);
}

Tensor empty_tensor(const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides, ScalarType dtype,
                    const Tensor& like) {
  return allocate(sizes, strides, dtype, device_type(like), like.get_device_index());
}

Tensor empty_image(int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last, const Tensor& like) {
  return empty_image(n, c, h, w, channels_last, like.scalar_type(), like);
}

Tensor empty_image(int64_t n, int64_t c, int64_t h, int64_t w, bool channels_last, ScalarType dtype,
                   const Tensor& like) {
  return empty_tensor({n, c, h, w}, image_strides(c, h, w, channels_last), dtype, like);
}

Tensor empty_scratch(int64_t size, const Tensor& like) {
  return allocate({size}, {1}, ScalarType::Float, device_type(like), like.get_device_index());
}

Tensor empty_vector(int64_t size, ScalarType dtype) { return empty_tensor({size}, {1}, dtype); }

namespace {

// Axes of one element may have any stride.
bool fills_memory(const Tensor& x) {
  if (x.is_contiguous()) return true;
  std::vector<std::array<int64_t, 2>> axes;  // stride and size
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (x.size(d) != 1) axes.push_back({x.stride(d), x.size(d)});
  }
  std::sort(axes.begin(), axes.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : axes) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

Tensor copied(const Tensor& x, Tensor to) {
  torch::stable::copy_(to, x);
  return to;
}

}  // namespace

Tensor as_filled(const Tensor& x) { return fills_memory(x) ? x : copied(x, torch::stable::empty_like(x)); }

Tensor empty_alike(const Tensor& x, ScalarType dtype) {
  std::vector<int64_t> sizes, strides;
  for (int64_t d = 0; d < x.dim(); ++d) {
    sizes.push_back(x.size(d));
    strides.push_back(x.stride(d));
  }
  return x.is_cpu() ? empty_tensor(sizes, strides, dtype) : empty_tensor(sizes, strides, dtype, x);
}

Tensor in_order_of(const Tensor& like, const Tensor& x) {
  for (int64_t d = 0; d < x.dim(); ++d) {
    if (x.size(d) != 1 && x.stride(d) != like.stride(d)) return copied(x, empty_alike(like, x.scalar_type()));
  }
  return x;
}

std::optional<Tensor> as_bias(const std::optional<Tensor>& bias, int64_t channels, const Tensor& like) {
  if (!bias) return std::nullopt;
  check_operand("bias", *bias, 1, like);
  check_size("bias", *bias, 0, channels);
  return torch::stable::contiguous(*bias);
}

Geometry geometry_of(const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                     const std::vector<int64_t>& dilation, int64_t groups) {
  for (const auto* pair : {&stride, &padding, &dilation})
    check(pair->size() == 2, "stride, padding, dilation: expected two numbers each");
  return {{stride[0], stride[1]}, {padding[0], padding[1]}, {dilation[0], dilation[1]}, groups};
}

Geometry geometry_after(size_t size, const std::vector<int64_t>& list) {
  check(list.size() == size + 7, "geometry: expected ", size + 7, " numbers, got ", list.size());
  const int64_t* const at = list.data() + size;
  return {{at[0], at[1]}, {at[2], at[3]}, {at[4], at[5]}, at[6]};
}

void check_pair(const char* name, int64_t vertical, int64_t horizontal, int64_t least) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 1;
  check(std::min(vertical, horizontal) >= least && std::max(vertical, horizontal) <= kMost, name,
        ": expected numbers from ", least, " to ", kMost, ", got ", vertical, ", ", horizontal);
}

Conv2dShape conv2d_shape(const Image& image, int64_t out_channels, int64_t kernel_height,
                         int64_t kernel_width, const Geometry& geometry) {
  const auto& [stride, padding, dilation, groups] = geometry;
  const Tensor& x = image.tensor;
  check_pair("stride", stride[0], stride[1], 1);
  check_pair("padding", padding[0], padding[1], 0);
  check_pair("dilation", dilation[0], dilation[1], 1);
  check_pair("kernel_size", kernel_height, kernel_width, 1);
  check(std::min(x.size(2), x.size(3)) > 0, "x: expected an image of at least 1 x 1, got ", x.size(2), " x ",
        x.size(3));
  check(out_channels > 0 && x.size(1) > 0, "weight: expected at least one channel on either side");
  check(groups > 0 && x.size(1) % groups == 0 && out_channels % groups == 0, "groups: expected a divisor of ",
        x.size(1), " input and ", out_channels, " output channels, got ", groups);
  const auto out_size = [&](int64_t in, int64_t kernel, int d) {
    const int64_t room = in + 2 * padding[d] - dilation[d] * (kernel - 1) - 1;
    check(room >= 0, "x: the kernel covers ", dilation[d] * (kernel - 1) + 1,
          " values, the padded input has ", in + 2 * padding[d]);
    return room / stride[d] + 1;
  };
  return {x.size(0),
          x.size(1),
          x.size(2),
          x.size(3),
          out_channels,
          out_size(x.size(2), kernel_height, 0),
          out_size(x.size(3), kernel_width, 1),
          kernel_height,
          kernel_width,
          stride[0],
          stride[1],
          padding[0],
          padding[1],
          dilation[0],
          dilation[1],
          groups,
          image.channels_last};
}

void check_packed(const Tensor& packed, int64_t size) {
  check_size("packed", packed, 0, size);
  check(packed.is_contiguous(), "packed: expected a contiguous tensor");
}

Conv2dShape packed_conv2d_shape(const Image& x, const std::vector<int64_t>& list) {
  const Geometry geometry = geometry_after(4, list);
  const Conv2dShape shape = conv2d_shape(x, list[0], list[2], list[3], geometry);
  check(list[1] == shape.in_channels / shape.groups, "geometry: expected ", shape.in_channels / shape.groups,
        " input channels a group, got ", list[1]);
  return shape;
}

int64_t threads_for(double multiply_adds) {
  constexpr double kWorthAThread = 400e3;  // about 10 us
  const double worth = std::max(1.0, multiply_adds / kWorthAThread);
  return static_cast<int64_t>(std::min<double>(torch::stable::get_num_threads(), worth));
}

}  // namespace cnnkern
