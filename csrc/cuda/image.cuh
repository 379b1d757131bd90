// An image in memory, in either layout, as kernels read it: chunk by chunk along the channels, zeros around
// it.
#pragma once
#include "cuda/gemm/rows.cuh"
#include "params/conv2d.h"

namespace cnnkern::cuda {

template <class T>
struct Image {
  const T* data;  // the group's first channel of the first image
  int64_t image_stride, channel_stride, row_stride, pixel_stride;
  int channels;  // of the group
  int height, width;

  // A pixel of one image, possibly outside of it.
  struct Pixel {
    const T* image;
    int y, x;
  };
  static constexpr int kOutside = -(1 << 30);

  // `channels` in all `groups` together.
  Image(const T* data, int64_t channels, int64_t height, int64_t width, int64_t groups, bool channels_last)
      : data(data),
        image_stride(channels * height * width),
        channel_stride(channels_last ? 1 : height * width),
        row_stride(channels_last ? width * channels : width),
        pixel_stride(channels_last ? channels : 1),
        channels(static_cast<int>(channels / groups)),
        height(static_cast<int>(height)),
        width(static_cast<int>(width)) {}

  // Whether every chunk lies in one piece, aligned: what `find` needs to be of use.
  bool in_pieces() const {
    const int64_t chunk = kChunkElements<T>;
    return channel_stride == 1 && pixel_stride % chunk == 0 && channels % chunk == 0 &&
           reinterpret_cast<uintptr_t>(data) % kChunkBytes == 0;
  }
  int tap_chunks() const { return (channels + kChunkElements<T> - 1) / kChunkElements<T>; }

  __device__ Image of_group(int group) const {
    Image other = *this;
    other.data += group * channels * channel_stride;
    return other;
  }
  __device__ Pixel outside() const { return {data, kOutside, kOutside}; }
  __device__ Pixel pixel(int64_t image, int y, int x) const { return {data + image * image_stride, y, x}; }

  // Channel c of the pixel (y, x) further, or null where that is outside.
  __device__ const T* find(const Pixel& pixel, int y, int x, int c) const {
    y += pixel.y, x += pixel.x;
    if (y < 0 || y >= height || x < 0 || x >= width || c >= channels) return nullptr;
    return pixel.image + y * row_stride + x * pixel_stride + c * channel_stride;
  }
  // The chunk from there on; zeros outside, and beyond the last channel.
  __device__ uint4 gather(const Pixel& pixel, int y, int x, int c) const {
    return gather(find(pixel, y, x, c), c);
  }
  // The chunk of which the first element, of channel c, is at `first`, or null where it is zeros.
  __device__ uint4 gather(const T* first, int c) const {
    union {
      uint4 chunk;
      T numbers[kChunkElements<T>];
    } gathered;
    gathered.chunk = make_uint4(0, 0, 0, 0);
    if (first) {
#pragma unroll
      for (int i = 0; i < kChunkElements<T>; ++i)
        if (c + i < channels) gathered.numbers[i] = first[i * channel_stride];
    }
    return gathered.chunk;
  }
};

}  // namespace cnnkern::cuda
