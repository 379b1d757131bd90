// What the products for the gradients are made of, as sources of rows (gemm/rows.cuh).
#pragma once
#include "cuda/divider.cuh"
#include "cuda/image.cuh"
#include "params/column_sparse_conv2d.h"

namespace cnnkern::cuda {

// For the gradient of x: row m holds the gradients of all outputs that input pixel m went into, in the order
// (i, j, k) with k rounded up to whole chunks.
template <class T>
struct GradientPatches {
  Image<T> image;  // the gradient of y
  const T* data;   // any address that may be read
  int64_t rows, in_pixels;
  int kernel_height, pad_height, pad_width, dilation_height, dilation_width;
  Divider by_in_width, by_tap_chunks, by_kernel_width, by_stride_height, by_stride_width;

  using Row = typename Image<T>::Pixel;  // the input pixel, counted from where the padding begins
  struct Column {
    int y, x, k;
  };

  GradientPatches(const Conv2dShape& s, const T* grad)
      : image(grad, s.out_channels, s.out_height, s.out_width, s.groups, s.channels_last),
        data(grad),
        rows(s.batch * s.in_height * s.in_width),
        in_pixels(s.in_height * s.in_width),
        kernel_height(static_cast<int>(s.kernel_height)),
        pad_height(static_cast<int>(s.pad_height)),
        pad_width(static_cast<int>(s.pad_width)),
        dilation_height(static_cast<int>(s.dilation_height)),
        dilation_width(static_cast<int>(s.dilation_width)),
        by_in_width(s.in_width),
        by_tap_chunks(image.tap_chunks()),
        by_kernel_width(s.kernel_width),
        by_stride_height(s.stride_height),
        by_stride_width(s.stride_width) {}

  int chunks(const Conv2dShape& s) const {
    return static_cast<int>(s.kernel_height * s.kernel_width) * image.tap_chunks();
  }

  __device__ GradientPatches of_group(int group) const {
    GradientPatches other = *this;
    other.image = image.of_group(group);
    return other;
  }
  __device__ Row row(int64_t m) const {
    if (m >= rows) return image.outside();
    const int64_t number = m / in_pixels;
    int x;
    const int y = by_in_width.divide(static_cast<int>(m - number * in_pixels), x);
    return image.pixel(number, y + pad_height, x + pad_width);
  }
  __device__ Column column(int chunk) const {
    int k, j;
    const int i = by_kernel_width.divide(by_tap_chunks.divide(chunk, k), j);
    // Beyond the last chunk, k is filled up with zeros.
    return {i < kernel_height ? i * dilation_height : -Image<T>::kOutside, j * dilation_width,
            k * kChunkElements<T>};
  }
  __device__ const T* find(const Row& row, const Column& column) const {
    int y, x;
    return output_of(row, column, y, x) ? image.find({row.image, 0, 0}, y, x, column.k) : nullptr;
  }
  __device__ uint4 gather(const Row& row, const Column& column) const {
    int y, x;
    if (!output_of(row, column, y, x)) return make_uint4(0, 0, 0, 0);
    return image.gather({row.image, 0, 0}, y, x, column.k);
  }

 private:
  // The output that the input pixel goes into through that tap, if there is one where the strides lead.
  __device__ bool output_of(const Row& row, const Column& column, int& y, int& x) const {
    int between_rows, between_columns;
    const int from_top = row.y - column.y, from_left = row.x - column.x;
    if (from_top < 0 || from_left < 0) return false;
    y = by_stride_height.divide(from_top, between_rows);
    x = by_stride_width.divide(from_left, between_columns);
    return between_rows == 0 && between_columns == 0;
  }
};

// For the gradient of the weight: row (c, i, j) holds what tap (i, j) of channel c meets at all output
// pixels, one after the other. With a kernel of 1 x 1 and the image of the gradient itself, the gradients of
// channel c.
template <class T>
struct PixelRows {
  Image<T> image;
  int64_t rows, pixels, out_pixels;
  int out_height, out_width;
  int stride_height, stride_width, pad_height, pad_width, dilation_height, dilation_width;
  Divider by_kernel_height, by_kernel_width, by_out_width;
  int64_t columns;                // all (c, i, j) that there are
  const int32_t* kept = nullptr;  // which of them the rows of the group are, or null

  using Row = typename Image<T>::Pixel;  // null where there is no such row
  struct Column {
    int64_t number;  // of the first image
    int y, x;        // the first output pixel there
  };

  // Of the input `x`, or of the gradient `grad` of the output.
  static PixelRows of_input(const Conv2dShape& s, const T* x) {
    PixelRows rows(s, {x, s.in_channels, s.in_height, s.in_width, s.groups, s.channels_last}, s.kernel_height,
                   s.kernel_width);
    rows.stride_height = static_cast<int>(s.stride_height),
    rows.stride_width = static_cast<int>(s.stride_width);
    rows.pad_height = static_cast<int>(s.pad_height), rows.pad_width = static_cast<int>(s.pad_width);
    rows.dilation_height = static_cast<int>(s.dilation_height);
    rows.dilation_width = static_cast<int>(s.dilation_width);
    return rows;
  }
  static PixelRows of_gradient(const Conv2dShape& s, const T* grad) {
    return PixelRows(s, {grad, s.out_channels, s.out_height, s.out_width, s.groups, s.channels_last}, 1, 1);
  }
  // Leaves these columns as rows, and no others.
  void keep(const KeptColumns& columns) { rows = columns.count, kept = columns.index; }

  __device__ PixelRows of_group(int group) const {
    PixelRows other = *this;
    other.image = image.of_group(group);
    if (kept) other.kept += group * rows;
    return other;
  }
  __device__ Row row(int64_t index) const {
    if (index >= rows) return {nullptr, 0, 0};
    if (kept) index = kept[index];
    if (index < 0 || index >= columns) return {nullptr, 0, 0};
    int i, j;
    const int c = by_kernel_height.divide(by_kernel_width.divide(static_cast<int>(index), j), i);
    return {image.data + c * image.channel_stride, i * dilation_height - pad_height,
            j * dilation_width - pad_width};
  }
  __device__ Column column(int chunk) const {
    const int64_t first = int64_t{chunk} * kChunkElements<T>, number = first / out_pixels;
    Column column{number, 0, 0};
    column.y = by_out_width.divide(static_cast<int>(first - number * out_pixels), column.x);
    return column;
  }
  __device__ uint4 gather(const Row& row, Column at) const {
    union {
      uint4 chunk;
      T numbers[kChunkElements<T>];
    } gathered;
    gathered.chunk = make_uint4(0, 0, 0, 0);
    if (!row.image) return gathered.chunk;
#pragma unroll
    for (int i = 0; i < kChunkElements<T>; ++i) {
      const T* const found = at.number * out_pixels < pixels
                                 ? image.find({row.image + at.number * image.image_stride, row.y, row.x},
                                              at.y * stride_height, at.x * stride_width, 0)
                                 : nullptr;
      if (found) gathered.numbers[i] = *found;
      if (++at.x < out_width) continue;
      at.x = 0;
      if (++at.y < out_height) continue;
      at.y = 0, ++at.number;
    }
    return gathered.chunk;
  }

 private:
  PixelRows(const Conv2dShape& s, const Image<T>& image, int64_t kernel_height, int64_t kernel_width)
      : image(image),
        rows(image.channels * kernel_height * kernel_width),
        pixels(s.batch * s.out_height * s.out_width),
        out_pixels(s.out_height * s.out_width),
        out_height(static_cast<int>(s.out_height)),
        out_width(static_cast<int>(s.out_width)),
        stride_height(1),
        stride_width(1),
        pad_height(0),
        pad_width(0),
        dilation_height(1),
        dilation_width(1),
        by_kernel_height(kernel_height),
        by_kernel_width(kernel_width),
        by_out_width(s.out_width),
        columns(image.channels * kernel_height * kernel_width) {}
};

}  // namespace cnnkern::cuda
