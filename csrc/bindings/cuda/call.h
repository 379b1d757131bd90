// What the bindings of CUDA kernels share: the library and the dispatch key that they register for, device
// and stream of a call, and the arithmetic.
//
// The tests compile these files a second time, against an emulator: then they register the same host code for
// CPU tensors, in a library of its own (CNNKERN_EMULATED).
#pragma once
#include <torch/csrc/stable/library.h>

#include "bindings/tensors.h"
#include "cuda/arithmetic.h"
#include "cuda/launch.h"

#ifdef CNNKERN_EMULATED
#define CNNKERN_CUDA_LIBRARY cnnkern_emulated
#define CNNKERN_CUDA_KEY CPU
#else
#include <torch/csrc/stable/accelerator.h>
#define CNNKERN_CUDA_LIBRARY cnnkern
#define CNNKERN_CUDA_KEY CUDA
#endif

namespace cnnkern::cuda {

// Makes the device of a tensor the current one while it lives.
class Call {
 public:
  explicit Call(const Tensor& x);

  const Device& device() const { return device_; }
  cudaStream_t stream() const { return stream_; }

 private:
#ifndef CNNKERN_EMULATED
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  cudaStream_t stream_ = nullptr;
  Device device_{};
};

// Throws a RuntimeError in Python where a launch failed.
void check_launch(const char* operation, cudaError_t error);

// float32, float16 or bfloat16; TF32 where torch's own setting allows it for convolutions.
Arithmetic arithmetic_of(const Tensor& x);

// Sizes that the kernels' 32-bit coordinates hold.
void check_extents(const Conv2dShape& shape);

// `tensor` itself where its data is aligned to 16 bytes, else a copy.
Tensor aligned(const Tensor& tensor);

}  // namespace cnnkern::cuda
