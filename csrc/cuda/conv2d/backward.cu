#include "cuda/conv2d/backward.h"

#include "cuda/conv2d/plan.h"
#include "cuda/numbers.cuh"

namespace cnnkern::cuda {
namespace {

constexpr int kSumThreads = 256;

// The sum over all pixels of one channel, by one block: each thread adds up its share, then halves are added
// to halves. The same bits every time.
template <class T>
__global__ void __launch_bounds__(kSumThreads)
    sum_pixels(const T* grad, int64_t images, int64_t pixels, int64_t channels, bool channels_last, T* sums) {
  auto* const shares = reinterpret_cast<float*>(shared_memory());
  const int64_t channel = blockIdx.x;
  float sum = 0;
  for (int64_t i = threadIdx.x; i < images * pixels; i += kSumThreads) {
    const int64_t at =
        channels_last ? i * channels + channel : (i / pixels * channels + channel) * pixels + i % pixels;
    sum += to_float(grad[at]);
  }
  shares[threadIdx.x] = sum;
  __syncthreads();
  for (int half = kSumThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) shares[threadIdx.x] += shares[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) sums[channel] = from_float<T>(shares[0]);
}

template <class T>
cudaError_t launch_sum(const Conv2dShape& s, const void* grad, void* sums, cudaStream_t stream) {
  return launch(sum_pixels<T>, s.out_channels, kSumThreads, kSumThreads * sizeof(float), stream,
                static_cast<const T*>(grad), s.batch, s.out_height * s.out_width, s.out_channels,
                s.channels_last, static_cast<T*>(sums));
}

}  // namespace

cudaError_t conv2d_backward_bias(const Conv2dShape& shape, Arithmetic arithmetic, const void* grad,
                                 void* grad_bias, cudaStream_t stream) {
  switch (arithmetic) {
    case Arithmetic::kFloat32:
    case Arithmetic::kTf32:
      return launch_sum<float>(shape, grad, grad_bias, stream);
    case Arithmetic::kFloat16:
      return launch_sum<Half>(shape, grad, grad_bias, stream);
    case Arithmetic::kBfloat16:
      return launch_sum<Bfloat16>(shape, grad, grad_bias, stream);
  }
  return cudaErrorInvalidValue;
}

int64_t conv2d_backward_scratch(const Conv2dBackwardCall& call, const Device& device) {
  const Conv2dShape& s = call.shape;
  const Conv2dPlan of_x = plan_backward_input(s, call.arithmetic, device);
  const Conv2dPlan of_weight = plan_backward_weight(s, call.columns(), call.arithmetic, device);
  const int64_t x_size = s.batch * s.in_channels * s.in_height * s.in_width;
  const int64_t weight_size = s.out_channels * call.columns();
  const int64_t for_x = call.grad_x && of_x.splits > 1 ? of_x.splits * x_size : 0;
  const int64_t for_weight = call.grad_weight && of_weight.splits > 1 ? of_weight.splits * weight_size : 0;
  return std::max(for_x, for_weight);
}

cudaError_t conv2d_backward(const Conv2dBackwardCall& call, const Device& device, cudaStream_t stream) {
  cudaError_t (*products)(const Conv2dBackwardCall&, const Device&, cudaStream_t) = conv2d_backward_float32;
  switch (call.arithmetic) {
    case Arithmetic::kFloat32:
      break;
    case Arithmetic::kTf32:
      products = conv2d_backward_tf32;
      break;
    case Arithmetic::kFloat16:
      products = conv2d_backward_float16;
      break;
    case Arithmetic::kBfloat16:
      products = conv2d_backward_bfloat16;
      break;
  }
  const cudaError_t error = products(call, device, stream);
  if (error != cudaSuccess || !call.grad_bias) return error;
  return conv2d_backward_bias(call.shape, call.arithmetic, call.grad, call.grad_bias, stream);
}

}  // namespace cnnkern::cuda
