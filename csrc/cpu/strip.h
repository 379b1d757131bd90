// A strip: the part of one image that a piece of work reads, channels last and with its zero padding written
// out, so that every tap of every pixel lies at a fixed offset.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/primitives.h"
#include "params/conv2d.h"

namespace cnnkern {

// Columns of a strip's row: what the last output pixel still reads.
inline int64_t strip_width(const Conv2dShape& s) {
  return (s.out_width - 1) * s.stride_width + (s.kernel_width - 1) * s.dilation_width + 1;
}

inline int64_t strip_rows(const Conv2dShape& s, int64_t out_rows) {
  return (out_rows - 1) * s.stride_height + (s.kernel_height - 1) * s.dilation_height + 1;
}

// Input rows [begin, end), inside the image.
struct RowRange {
  int64_t begin, end;
};

// Those that output rows [first, last) read.
inline RowRange rows_under(const Conv2dShape& s, int64_t first, int64_t last) {
  const int64_t span = (s.kernel_height - 1) * s.dilation_height + 1;
  const int64_t begin = std::clamp<int64_t>(first * s.stride_height - s.pad_height, 0, s.in_height);
  const int64_t end = std::clamp<int64_t>((last - 1) * s.stride_height - s.pad_height + span, 0, s.in_height);
  return {begin, std::max(begin, end)};
}

// A dense image, one of a batch.
template <class T>
struct ImageView {
  const T* data;
  int64_t channels;
  int64_t height;
  int64_t width;
  bool channels_last;
};

// A rectangle of pixels, any part of which may lie outside the image.
struct Window {
  int64_t top, rows;
  int64_t left, columns;
};

// Writes channels [first, first + count) of the pixels in the window, zeros outside the image, to `to`
// (rows, columns, `pixel`), of whose pixels the rest is left as it is, or zero.
template <class T>
void fill_window(const Primitives<T>& kernels, const ImageView<T>& image, int64_t first, int64_t count,
                 const Window& window, T* to, int64_t pixel) {
  const int64_t pitch = window.columns * pixel;
  // The window's columns [left, right) and rows [top, bottom) come from the image.
  const int64_t left = std::clamp<int64_t>(-window.left, 0, window.columns);
  const int64_t right = std::clamp<int64_t>(image.width - window.left, left, window.columns);
  const int64_t top = std::clamp<int64_t>(-window.top, 0, window.rows);
  const int64_t bottom = std::clamp<int64_t>(image.height - window.top, top, window.rows);
  std::fill(to, to + top * pitch, T(0));
  std::fill(to + bottom * pitch, to + window.rows * pitch, T(0));
  // Whole rows follow one another and are one.
  const bool whole = window.left == 0 && window.columns == image.width;
  const int64_t step = whole ? std::max<int64_t>(1, bottom - top) : 1;
  for (int64_t r = top; r < bottom; r += step) {
    T* const line = to + r * pitch;
    std::fill(line, line + left * pixel, T(0));
    std::fill(line + right * pixel, line + pitch, T(0));
    const int64_t source = (window.top + r) * image.width + window.left + left,
                  pixels = (right - left) * step;
    T* const at = line + left * pixel;
    if (!image.channels_last) {
      const int64_t area = image.height * image.width;
      kernels.transpose(image.data + first * area + source, area, count, pixels, at, pixel);
    } else if (count == image.channels && pixel == count) {
      std::memcpy(at, image.data + source * count, sizeof(T) * static_cast<size_t>(pixels * count));
    } else {
      const T* from = image.data + source * image.channels + first;
      for (int64_t i = 0; i < pixels; ++i, from += image.channels) {
        if (count == kPanel) {
          std::memcpy(at + i * pixel, from, sizeof(T) * kPanel);
        } else {
          std::copy_n(from, count, at + i * pixel);
        }
      }
    }
  }
}

// Writes the strip under output rows [first, first + out_rows) of image `x` to `strip`
// (strip_rows, strip_width, in_channels).
template <class T>
void fill_strip(const Primitives<T>& kernels, const Conv2dShape& s, const T* x, int64_t first,
                int64_t out_rows, T* strip) {
  fill_window<T>(
      kernels, {x, s.in_channels, s.in_height, s.in_width, s.channels_last}, 0, s.in_channels,
      {first * s.stride_height - s.pad_height, strip_rows(s, out_rows), -s.pad_width, strip_width(s)}, strip,
      s.in_channels);
}

}  // namespace cnnkern
