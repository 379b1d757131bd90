// The patch matrix of an image as a source of rows (gemm/rows.cuh): row m is the patch under output pixel m,
// in the order (i, j, c) with c rounded up to whole chunks; nothing of it is ever written.
#pragma once
#include "cuda/divider.cuh"
#include "cuda/image.cuh"

namespace cnnkern::cuda {

template <class T>
struct Patches {
  Image<T> image;
  const T* data;  // any address that may be read
  int64_t rows, out_pixels;
  int kernel_height, stride_height, stride_width, pad_height, pad_width, dilation_height, dilation_width;
  Divider by_out_width, by_tap_chunks, by_kernel_width;

  using Row = typename Image<T>::Pixel;  // where the patch begins
  struct Column {
    int y, x, c;  // from there
  };

  Patches(const Conv2dShape& s, const T* x)
      : image(x, s.in_channels, s.in_height, s.in_width, s.groups, s.channels_last),
        data(x),
        rows(s.batch * s.out_height * s.out_width),
        out_pixels(s.out_height * s.out_width),
        kernel_height(static_cast<int>(s.kernel_height)),
        stride_height(static_cast<int>(s.stride_height)),
        stride_width(static_cast<int>(s.stride_width)),
        pad_height(static_cast<int>(s.pad_height)),
        pad_width(static_cast<int>(s.pad_width)),
        dilation_height(static_cast<int>(s.dilation_height)),
        dilation_width(static_cast<int>(s.dilation_width)),
        by_out_width(s.out_width),
        by_tap_chunks(image.tap_chunks()),
        by_kernel_width(s.kernel_width) {}

  int chunks(const Conv2dShape& s) const {
    return static_cast<int>(s.kernel_height * s.kernel_width) * image.tap_chunks();
  }

  __device__ Patches of_group(int group) const {
    Patches other = *this;
    other.image = image.of_group(group);
    return other;
  }
  __device__ Row row(int64_t m) const {
    if (m >= rows) return image.outside();
    const int64_t number = m / out_pixels;
    return patch(number, static_cast<int>(m - number * out_pixels));
  }
  // That of output pixel `pixel` of image `number`.
  __device__ Row patch(int64_t number, int pixel) const {
    int x;
    const int y = by_out_width.divide(pixel, x);
    return image.pixel(number, y * stride_height - pad_height, x * stride_width - pad_width);
  }
  __device__ Column column(int chunk) const {
    int c, j;
    const int i = by_kernel_width.divide(by_tap_chunks.divide(chunk, c), j);
    // Beyond the last chunk, k is filled up with zeros.
    return {i < kernel_height ? i * dilation_height : Image<T>::kOutside, j * dilation_width,
            c * kChunkElements<T>};
  }
  __device__ const T* find(const Row& row, const Column& column) const {
    return image.find(row, column.y, column.x, column.c);
  }
  __device__ uint4 gather(const Row& row, const Column& column) const {
    return image.gather(row, column.y, column.x, column.c);
  }
};

}  // namespace cnnkern::cuda
