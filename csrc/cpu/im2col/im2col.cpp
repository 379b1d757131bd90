// See im2col.h. Every row of the matrix is one shifted, padded channel, written line by line.
#include "cpu/im2col/im2col.h"

#include <algorithm>
#include <cstring>

#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

// Output columns [begin, end) of a line whose tap lies inside the image.
struct Inside {
  int64_t begin, end;
};

Inside inside(const Conv2dShape& s, int64_t tap) {
  const int64_t shift = s.pad_width - tap * s.dilation_width;  // column x reads x * stride - shift
  const int64_t first = shift > 0 ? (shift + s.stride_width - 1) / s.stride_width : 0;
  const int64_t room = s.in_width - 1 + shift;
  const int64_t last = room < 0 ? 0 : room / s.stride_width + 1;
  const int64_t begin = std::min(first, s.out_width);
  return {begin, std::max(begin, std::min(last, s.out_width))};
}

template <class T>
void copy_line(const Conv2dShape& s, const T* row, int64_t tap, T* to) {
  const auto [begin, end] = inside(s, tap);
  const T* from = row + begin * s.stride_width - s.pad_width + tap * s.dilation_width;
  std::fill(to, to + begin, T(0));
  if (s.stride_width == 1) {
    if (end > begin) std::memcpy(to + begin, from, sizeof(T) * static_cast<size_t>(end - begin));
  } else {
    for (int64_t x = begin; x < end; ++x, from += s.stride_width) to[x] = *from;
  }
  std::fill(to + end, to + s.out_width, T(0));
}

// Channel first: item = (image, channel), its kH * kW rows of the matrix are adjacent.
template <class T>
void rows_of_channel(const Conv2dShape& s, const T* x, int64_t item, T* y) {
  const int64_t area = s.out_height * s.out_width, taps = s.kernel_height * s.kernel_width;
  const T* const channel = x + item * s.in_height * s.in_width;
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int64_t i = tap / s.kernel_width, j = tap % s.kernel_width;
    T* to = y + (item * taps + tap) * area;
    for (int64_t oy = 0; oy < s.out_height; ++oy, to += s.out_width) {
      const int64_t row = oy * s.stride_height - s.pad_height + i * s.dilation_height;
      if (row < 0 || row >= s.in_height) {
        std::fill(to, to + s.out_width, T(0));
      } else {
        copy_line(s, channel + row * s.in_width, j, to);
      }
    }
  }
}

// Channels last: item = (image, tap, output row), one line of all channels, transposed.
template <class T>
void lines_of_tap(const Conv2dShape& s, const Primitives<T>& kernels, const T* x, int64_t item, T* y) {
  const int64_t area = s.out_height * s.out_width, taps = s.kernel_height * s.kernel_width;
  const int64_t oy = item % s.out_height, tap = item / s.out_height % taps,
                image = item / s.out_height / taps;
  const int64_t i = tap / s.kernel_width, j = tap % s.kernel_width, channels = s.in_channels;
  T* const to = y + (image * channels * taps + tap) * area + oy * s.out_width;
  const int64_t row = oy * s.stride_height - s.pad_height + i * s.dilation_height;
  const bool outside = row < 0 || row >= s.in_height;
  const Inside columns = outside ? Inside{0, 0} : inside(s, j);
  for (int64_t c = 0; c < channels; ++c) {
    T* const line = to + c * taps * area;
    std::fill(line, line + columns.begin, T(0));
    std::fill(line + columns.end, line + s.out_width, T(0));
  }
  if (columns.begin == columns.end) return;
  const int64_t first = columns.begin * s.stride_width - s.pad_width + j * s.dilation_width;
  kernels.transpose(x + ((image * s.in_height + row) * s.in_width + first) * channels,
                    s.stride_width * channels, columns.end - columns.begin, channels, to + columns.begin,
                    taps * area);
}

}  // namespace

template <class T>
void im2col(const Conv2dShape& s, const T* x, T* y, int64_t threads) {
  const Primitives<T>& kernels = primitives<T>();
  const int64_t items =
      s.channels_last ? s.batch * s.kernel_height * s.kernel_width * s.out_height : s.batch * s.in_channels;
  parallel(threads, [&](const Worker& me) {
    const auto [begin, end] = me.share(items);
    for (int64_t item = begin; item < end; ++item) {
      if (s.channels_last) {
        lines_of_tap(s, kernels, x, item, y);
      } else {
        rows_of_channel(s, x, item, y);
      }
    }
  });
}

template void im2col(const Conv2dShape&, const float*, float*, int64_t);
template void im2col(const Conv2dShape&, const double*, double*, int64_t);

}  // namespace cnnkern
