// See call.h.
#include <Python.h>

#include "bindings/cuda/call.h"

#include <algorithm>

#ifndef CNNKERN_EMULATED
// Lives in libtorch_cuda, which a CPU-only torch does not have.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void**);
#endif

namespace cnnkern::cuda {
namespace {

// torch.backends.cudnn.conv.fp32_precision, which torch's own convolutions go by; the stable ABI has no word
// for it.
bool tf32_allowed() {
  const PyGILState_STATE state = PyGILState_Ensure();
  PyObject* const module = PyImport_ImportModule("torch._C");
  PyObject* const precision =
      module ? PyObject_CallMethod(module, "_get_fp32_precision_getter", "ss", "cuda", "conv") : nullptr;
  const bool known = precision != nullptr;
  const bool allowed = known && PyUnicode_CompareWithASCIIString(precision, "tf32") == 0;
  Py_XDECREF(precision);
  Py_XDECREF(module);
  if (!known) PyErr_Clear();
  PyGILState_Release(state);
  STD_TORCH_CHECK(known, "this torch does not tell whether TF32 is allowed in convolutions");
  return allowed;
}

}  // namespace

#ifdef CNNKERN_EMULATED
Call::Call(const Tensor&) {
  chosen_core() = preferred_core();  // the environment alone, which tests change
  check_launch("device", current_device(device_));
}
#else
Call::Call(const Tensor& x)
    : guard_((check(x.is_cuda(), "x: expected a CUDA tensor"), x.get_device_index())) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream &&
                      aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream) == AOTI_TORCH_SUCCESS,
                  "this torch has no CUDA streams");
  stream_ = static_cast<cudaStream_t>(stream);
  check_launch("device", current_device(device_));
}
#endif

void check_launch(const char* operation, cudaError_t error) {
  STD_TORCH_CHECK(error == cudaSuccess, operation, ": ", cudaGetErrorString(error));
}

Arithmetic arithmetic_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Half:
      return Arithmetic::kFloat16;
    case ScalarType::BFloat16:
      return Arithmetic::kBfloat16;
    default:
      check(x.scalar_type() == ScalarType::Float, "x: expected float32, float16 or bfloat16 on CUDA");
      return tf32_allowed() ? Arithmetic::kTf32 : Arithmetic::kFloat32;
  }
}

void check_extents(const Conv2dShape& s) {
  constexpr int64_t kMost = int64_t{1} << 29;
  check(s.in_height + 2 * s.pad_height < kMost && s.in_width + 2 * s.pad_width < kMost &&
            s.out_height < kMost / s.out_width && s.in_height < kMost / s.in_width,
        "x: expected images of fewer than 2^29 pixels on CUDA");
  check(std::max(s.in_channels, s.out_channels) < kMost &&
            s.kernel_height * s.kernel_width < kMost / std::max(s.in_channels, s.out_channels),
        "weight: expected fewer than 2^29 elements of a channel on CUDA");
}

Tensor aligned(const Tensor& tensor) {
  if (reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0) return tensor;
  Tensor copy = empty_tensor({tensor.numel()}, {1}, tensor);
  torch::stable::copy_(copy, tensor);
  return copy;
}

}  // namespace cnnkern::cuda
