// A strip: the rows of one image that a band of output rows reads, channels last and with its zero padding written
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

// Writes the strip under output rows [first, first + out_rows) of image `x` to `strip`
// (strip_rows, strip_width, in_channels).
template <class T>
void fill_strip(const Primitives<T>& kernels, const Conv2dShape& s, const T* x, int64_t first, int64_t out_rows,
                T* strip) {
  const int64_t channels = s.in_channels, width = strip_width(s);
  const int64_t top = first * s.stride_height - s.pad_height;
  // The strip's columns [left, right) come from the image; the others are padding.
  const int64_t left = std::min(s.pad_width, width), right = std::min(s.pad_width + s.in_width, width);
  for (int64_t r = 0; r < strip_rows(s, out_rows); ++r) {
    T* const to = strip + r * width * channels;
    const int64_t row = top + r;
    if (row < 0 || row >= s.in_height) {
      std::fill(to, to + width * channels, T(0));
      continue;
    }
    std::fill(to, to + left * channels, T(0));
    std::fill(to + right * channels, to + width * channels, T(0));
    if (s.channels_last) {
      std::memcpy(to + left * channels, x + row * s.in_width * channels, sizeof(T) * (right - left) * channels);
    } else {
      kernels.transpose(x + row * s.in_width, s.in_height * s.in_width, channels, right - left, to + left * channels,
                        channels);
    }
  }
}

}  // namespace cnnkern
