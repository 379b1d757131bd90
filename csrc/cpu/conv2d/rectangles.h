// The output cut into rectangles of pixels whose patches meet the padding alike, so that no zero of it is
// ever multiplied or written out: the inner pixels are one rectangle, those along an edge and in a corner
// others.
#pragma once
#include <algorithm>
#include <cstdint>

#include "cpu/primitives.h"
#include "params/conv2d.h"

namespace cnnkern {

// Output positions [begin, end) along one axis, and the taps [first_tap, tap_end) that meet the image for all
// of them.
struct Stretch {
  int64_t begin, end;
  int64_t first_tap, tap_end;
};

// One axis of a convolution.
struct ConvolutionAxis {
  int64_t in_size, kernel, stride, pad, dilation;

  int64_t first_tap(int64_t out) const {
    const int64_t before = pad - out * stride;
    return before <= 0 ? 0 : std::min(kernel, (before + dilation - 1) / dilation);
  }
  int64_t tap_end(int64_t out) const {
    const int64_t room = in_size - 1 + pad - out * stride;
    return room < 0 ? 0 : std::min(kernel, room / dilation + 1);
  }
  // The longest stretch from `begin` on, and not beyond `end`.
  Stretch stretch(int64_t begin, int64_t end) const {
    Stretch s{begin, begin + 1, first_tap(begin), tap_end(begin)};
    if (s.first_tap == 0 && s.tap_end == kernel) {
      s.end = std::min(end, (in_size - 1 + pad - (kernel - 1) * dilation) / stride + 1);
    } else {
      while (s.end < end && first_tap(s.end) == s.first_tap && tap_end(s.end) == s.tap_end) ++s.end;
    }
    s.tap_end = std::max(s.tap_end, s.first_tap);
    return s;
  }
  // No `count` adjacent positions have more stretches than this: each ends one tap at least, or begins one.
  int64_t most_stretches(int64_t count) const { return std::min(count, 2 * kernel + 1); }
};

inline ConvolutionAxis vertical(const Conv2dShape& s) {
  return {s.in_height, s.kernel_height, s.stride_height, s.pad_height, s.dilation_height};
}

inline ConvolutionAxis horizontal(const Conv2dShape& s) {
  return {s.in_width, s.kernel_width, s.stride_width, s.pad_width, s.dilation_width};
}

// One of the three ways through a rectangle of several images: along x, along y, from image to image.
struct Direction {
  int64_t count;
  int64_t a, c;  // from one position to the next
};

// Lays the directions out as pixels, lines and planes so that tiles of `tile_pixels` are filled best. A tile
// of less than four pixels takes as long as one of four.
template <class T>
void set_directions(Direction x, Direction y, Direction image, int64_t tile_pixels, Gemm<T>& gemm) {
  const auto merge = [](Direction& inner, Direction& outer) {
    if (outer.count > 1 && (inner.count * inner.a != outer.a || inner.count * inner.c != outer.c)) return;
    inner.count *= outer.count;
    outer.count = 1;
  };
  merge(x, y);
  if (y.count == 1) merge(x, image);
  const auto cost = [&](const Direction& d) {
    const int64_t tiles = (d.count + tile_pixels - 1) / tile_pixels;
    return static_cast<double>(std::max(d.count, 4 * tiles) + tiles) / static_cast<double>(d.count);
  };
  if (cost(y) < cost(x)) std::swap(x, y);
  if (cost(image) < cost(x)) std::swap(x, image);
  gemm.pixels = x.count;
  gemm.a_pixel = x.a;
  gemm.c_pixel = x.c;
  gemm.lines = y.count;
  gemm.a_line = y.a;
  gemm.c_line = y.c;
  gemm.planes = image.count;
  gemm.a_plane = image.a;
  gemm.c_plane = image.c;
}

}  // namespace cnnkern
