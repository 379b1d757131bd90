#include "cuda/conv2d/depthwise.h"

#include "cuda/gemm/output.cuh"
#include "cuda/image.cuh"

namespace cnnkern::cuda {
namespace {

template <class T>
struct DepthwiseArguments {
  Image<T> image;
  const T* packed;  // (K, kH, kW) of which each is a chunk with one number in it
  Output<T> output;
  Divider by_unit_blocks, by_run_blocks, by_out_width, by_multiplier;
  int kernel_height, kernel_width;
  int stride_height, stride_width, pad_height, pad_width, dilation_height, dilation_width;
  int units, slots, runs;
};

// The weights of the block's channels, as (kH, kW, channels).
template <class T>
__device__ __forceinline__ void load_weights(const DepthwiseArguments<T>& a, int first_channel, int channels,
                                             float* weights) {
  const int taps = a.kernel_height * a.kernel_width;
  for (int i = threadIdx.x; i < taps * channels; i += kDepthwiseThreads) {
    const int tap = i / channels, channel = first_channel + i % channels;
    const int64_t at = int64_t{channel} * taps + tap;
    weights[i] = channel < a.output.channels ? to_float(a.packed[at * kChunkElements<T>]) : 0;
  }
}

template <class T, int kWidth>
struct alignas(kWidth * sizeof(T)) Channels {
  T numbers[kWidth];
};

// The input channels that go into outputs k and the following, of the pixel whose first channel is at
// `pixel`. In pieces: all of them are there, aligned, and each goes into one output.
template <class T, int kWidth, bool kPieces>
__device__ __forceinline__ Channels<T, kWidth> load_channels(const DepthwiseArguments<T>& a, const T* pixel,
                                                             int k) {
  if constexpr (kPieces) return *reinterpret_cast<const Channels<T, kWidth>*>(pixel + k);
  Channels<T, kWidth> loaded{};
#pragma unroll
  for (int i = 0; i < kWidth; ++i)
    if (k + i < a.output.channels)
      loaded.numbers[i] = pixel[a.by_multiplier.quotient(k + i) * a.image.channel_stride];
  return loaded;
}

template <class T, int kWidth, bool kPieces>
__device__ __forceinline__ void store_channels(const Output<T>& output, int64_t at, int k,
                                               const float (&sums)[kWidth]) {
  Channels<T, kWidth> result;
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    const bool exists = k + i < output.channels;
    const float bias = output.bias && exists ? to_float(output.bias[k + i]) : 0;
    result.numbers[i] = from_float<T>(rectified(sums[i] + bias, output.relu));
    if (!kPieces && exists) output.y[at + (k + i) * output.channel_stride()] = result.numbers[i];
  }
  if constexpr (kPieces) *reinterpret_cast<Channels<T, kWidth>*>(output.y + at + k) = result;
}

// Neighbouring threads have neighbours in memory: channels, or else pixels.
template <class T, int kWidth, bool kPieces>
__global__ void __launch_bounds__(kDepthwiseThreads)
    depthwise(const __grid_constant__ DepthwiseArguments<T> a) {
  auto* const weights = reinterpret_cast<float*>(shared_memory());
  int unit_block, run_block;
  const int rest = a.by_unit_blocks.divide(static_cast<int>(blockIdx.x), unit_block);
  const int64_t number = a.by_run_blocks.divide(rest, run_block);
  const int channels = a.units * kWidth;
  load_weights(a, unit_block * channels, channels, weights);
  __syncthreads();

  const bool last = a.output.channels_last;
  const int thread = static_cast<int>(threadIdx.x);
  const int unit = last ? thread % a.units : thread / a.slots;
  const int slot = last ? thread / a.units : thread % a.slots;
  const int k = unit_block * channels + unit * kWidth, run = run_block * a.slots + slot;
  if (unit >= a.units || slot >= a.slots || run >= a.runs || k >= a.output.channels) return;
  typename Image<T>::Pixel origins[kDepthwiseRun];
#pragma unroll
  for (int r = 0; r < kDepthwiseRun; ++r) {
    const int64_t pixel = run + int64_t{r} * a.runs;
    int x;
    const int y = a.by_out_width.divide(static_cast<int>(pixel), x);
    origins[r] = a.image.pixel(number, y * a.stride_height - a.pad_height, x * a.stride_width - a.pad_width);
    if (pixel >= a.output.pixels) origins[r].y = Image<T>::kOutside;
  }
  float sums[kDepthwiseRun][kWidth] = {};
  for (int i = 0; i < a.kernel_height; ++i)
    for (int j = 0; j < a.kernel_width; ++j) {
      const auto of_tap = *reinterpret_cast<const Channels<float, kWidth>*>(
          weights + (i * a.kernel_width + j) * channels + unit * kWidth);
#pragma unroll
      for (int r = 0; r < kDepthwiseRun; ++r) {
        const T* const pixel = a.image.find(origins[r], i * a.dilation_height, j * a.dilation_width, 0);
        if (!pixel) continue;
        const auto loaded = load_channels<T, kWidth, kPieces>(a, pixel, k);
#pragma unroll
        for (int c = 0; c < kWidth; ++c)
          sums[r][c] = fmaf(to_float(loaded.numbers[c]), of_tap.numbers[c], sums[r][c]);
      }
    }
#pragma unroll
  for (int r = 0; r < kDepthwiseRun; ++r) {
    const int64_t pixel = run + int64_t{r} * a.runs;
    if (pixel < a.output.pixels)
      store_channels<T, kWidth, kPieces>(a.output, a.output.offset(number, pixel), k, sums[r]);
  }
}

template <class T>
cudaError_t launch_depthwise(const Conv2dCall& call, const DepthwisePlan& plan, cudaStream_t stream) {
  const Conv2dShape& s = call.shape;
  const int64_t multiplier = s.out_channels / s.in_channels;
  const DepthwiseArguments<T> arguments{
      Image<T>(static_cast<const T*>(call.x), s.in_channels, s.in_height, s.in_width, 1, s.channels_last),
      static_cast<const T*>(call.packed),
      Output<T>(static_cast<T*>(call.y), static_cast<const T*>(call.bias), s.batch,
                s.out_height * s.out_width, s.out_channels, 1, s.channels_last, call.relu, 1),
      Divider(plan.unit_blocks),
      Divider(plan.run_blocks),
      Divider(s.out_width),
      Divider(multiplier),
      static_cast<int>(s.kernel_height),
      static_cast<int>(s.kernel_width),
      static_cast<int>(s.stride_height),
      static_cast<int>(s.stride_width),
      static_cast<int>(s.pad_height),
      static_cast<int>(s.pad_width),
      static_cast<int>(s.dilation_height),
      static_cast<int>(s.dilation_width),
      static_cast<int>(plan.units),
      static_cast<int>(plan.slots),
      static_cast<int>(plan.runs),
  };
  const auto run = [&](auto* kernel) {
    return launch(kernel, s.batch * plan.unit_blocks * plan.run_blocks, kDepthwiseThreads, plan.shared_bytes,
                  stream, arguments);
  };
  constexpr int kWidth = kChunkElements<T>;
  const bool pieces = multiplier == 1 && arguments.image.in_pieces() &&
                      reinterpret_cast<uintptr_t>(call.y) % kChunkBytes == 0;
  if (!s.channels_last) return run(depthwise<T, 1, false>);
  return pieces ? run(depthwise<T, kWidth, true>) : run(depthwise<T, kWidth, false>);
}

}  // namespace

cudaError_t conv2d_depthwise(const Conv2dCall& call, const DepthwisePlan& plan, cudaStream_t stream) {
  switch (call.arithmetic) {
    case Arithmetic::kFloat32:
    case Arithmetic::kTf32:
      return launch_depthwise<float>(call, plan, stream);
    case Arithmetic::kFloat16:
      return launch_depthwise<Half>(call, plan, stream);
    case Arithmetic::kBfloat16:
      return launch_depthwise<Bfloat16>(call, plan, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace cnnkern::cuda
