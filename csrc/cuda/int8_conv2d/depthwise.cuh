// Depthwise int8 convolution: sums over the window of one input channel, which nothing but reading and
// writing takes time for.
#pragma once
#include "cuda/conv2d/patches.cuh"
#include "cuda/conv2d/plan.h"
#include "cuda/int8_conv2d/output.cuh"

namespace cnnkern::cuda {

constexpr int kRun = 4;  // neighbouring pixels of one thread, which share its channels' numbers

template <class X, class T>
struct Int8Depthwise {
  Patches<X> patches;  // of all groups
  Int8Target<T> target;
  const int8_t* weight;  // (kH, kW, channels rounded up)
  int kernel_width, pitch, threads;
  Divider by_blocks, by_runs, by_parts, by_multiplier;  // the blocks are those of an image

  Int8Depthwise(const Int8Conv2dParams& p, const Conv2dShape& all, int channels)
      : patches(all, reinterpret_cast<const X*>(p.x)),
        target(p, 1, nullptr),
        weight(p.packed),
        kernel_width(static_cast<int>(all.kernel_width)),
        pitch(static_cast<int>(rounded_up(all.out_channels, kChunkBytes))),
        by_multiplier(all.out_channels / all.in_channels) {
    const int64_t runs = quotient_up(target.pixels, kRun), parts = all.out_channels / channels;
    threads = static_cast<int>(runs * parts);
    by_runs = Divider(runs);
    by_parts = Divider(parts);
    by_blocks = Divider(quotient_up(threads, kElementThreads));
  }
};

// Each thread has kChannels channels of kRun pixels; neighbouring threads have neighbours in memory.
template <class X, class T, int kChannels>
__global__ void __launch_bounds__(kElementThreads)
    multiply_depthwise(const __grid_constant__ Int8Depthwise<X, T> d) {
  const Patches<X>& p = d.patches;
  const Int8Target<T>& target = d.target;
  int i, run, part;
  const int image = d.by_blocks.divide(static_cast<int>(blockIdx.x), i);
  i = i * kElementThreads + static_cast<int>(threadIdx.x);
  if (i >= d.threads) return;
  if (target.channels_last)
    run = d.by_parts.divide(i, part);
  else
    part = d.by_runs.divide(i, run);
  const int channel = part * kChannels, from = d.by_multiplier.quotient(channel);
  Int8Column columns[kChannels];
#pragma unroll
  for (int c = 0; c < kChannels; ++c) columns[c] = target.numbers.column(channel + c);

  const int end = min(run * kRun + kRun, static_cast<int>(target.pixels));
  for (int pixel = run * kRun; pixel < end; ++pixel) {
    int x;
    const int y = p.by_out_width.divide(pixel, x);
    const auto corner =
        p.image.pixel(image, y * p.stride_height - p.pad_height, x * p.stride_width - p.pad_width);
    const int8_t* weight = d.weight + channel;
    int32_t sums[kChannels] = {};
    for (int tap_y = 0; tap_y < p.kernel_height; ++tap_y)
      for (int tap_x = 0; tap_x < d.kernel_width; ++tap_x, weight += d.pitch) {
        const X* const found =
            p.image.find(corner, tap_y * p.dilation_height, tap_x * p.dilation_width, from);
        if (!found) continue;
        const auto a = *reinterpret_cast<const Together<X, kChannels>*>(found);
        const auto b = *reinterpret_cast<const Together<int8_t, kChannels>*>(weight);
#pragma unroll
        for (int c = 0; c < kChannels; ++c)
          sums[c] += (a.numbers[c] - target.numbers.x_zero_point) * b.numbers[c];
      }
    Together<T, kChannels> finished;
#pragma unroll
    for (int c = 0; c < kChannels; ++c)
      finished.numbers[c] = target.numbers.template finished<T>(sums[c], columns[c]);
    T* const to = target.y + target.offset(image, pixel) + channel * target.channel_stride();
    *reinterpret_cast<Together<T, kChannels>*>(to) = finished;
  }
}

template <class X, class T, int kChannels>
cudaError_t launch_depthwise(const Int8Conv2dParams& p, const Conv2dShape& all, cudaStream_t stream) {
  if (quotient_up(all.out_height * all.out_width, kRun) * all.out_channels > INT32_MAX - kElementThreads)
    return cudaErrorInvalidConfiguration;  // one image of gigabytes
  const Int8Depthwise<X, T> d(p, all, kChannels);
  return launch(multiply_depthwise<X, T, kChannels>, all.batch * quotient_up(d.threads, kElementThreads),
                kElementThreads, 0, stream, d);
}

template <class X, class T>
cudaError_t int8_depthwise(const Int8Conv2dParams& p, cudaStream_t stream) {
  Conv2dShape all = p.shape;
  all.groups = 1;
  const bool together = all.channels_last && all.out_channels == all.in_channels &&
                        all.in_channels % kVector == 0 && reinterpret_cast<uintptr_t>(p.x) % kVector == 0 &&
                        reinterpret_cast<uintptr_t>(p.y) % (kVector * sizeof(T)) == 0;
  return together ? launch_depthwise<X, T, kVector>(p, all, stream)
                  : launch_depthwise<X, T, 1>(p, all, stream);
}

}  // namespace cnnkern::cuda
