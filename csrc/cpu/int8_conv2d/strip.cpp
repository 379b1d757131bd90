// See strip.h.
#include "cpu/int8_conv2d/strip.h"

#include <algorithm>
#include <cstring>

#include "cpu/strip.h"

namespace cnnkern {
namespace {

// Row `row` of group `group` of the image, its columns [-pad_width, padded - pad_width), to `to`.
void fill_row(const Int8Primitives& kernels, const Conv2dShape& s, int64_t padded, const uint8_t* x,
              int64_t group, int64_t row, uint8_t pad, uint8_t* to) {
  const int64_t depth = s.in_channels / s.groups, area = s.in_height * s.in_width;
  if (row < 0 || row >= s.in_height) {
    std::memset(to, pad, static_cast<size_t>(padded * depth));
    return;
  }
  const int64_t left = std::min(s.pad_width, padded);
  const int64_t right = std::clamp(s.in_width + s.pad_width, left, padded);  // the image's columns end here
  std::memset(to, pad, static_cast<size_t>(left * depth));
  std::memset(to + right * depth, pad, static_cast<size_t>((padded - right) * depth));
  uint8_t* const at = to + left * depth;
  const int64_t columns = right - left, first = group * depth;
  if (!s.channels_last) {
    kernels.transpose(x + first * area + row * s.in_width, area, depth, columns, at, depth);
  } else if (s.groups == 1) {
    std::memcpy(at, x + row * s.in_width * depth, static_cast<size_t>(columns * depth));
  } else {
    const uint8_t* from = x + row * s.in_width * s.in_channels + first;
    for (int64_t i = 0; i < columns; ++i, from += s.in_channels) std::copy_n(from, depth, at + i * depth);
  }
}

// The taps of every output pixel side by side.
void gather_taps(const Conv2dShape& s, const uint8_t* line, int64_t channels, uint8_t* to) {
  for (int64_t x = 0; x < s.out_width; ++x) {
    for (int64_t j = 0; j < s.kernel_width; ++j, to += channels)
      std::copy_n(line + (x * s.stride_width + j * s.dilation_width) * channels, channels, to);
  }
}

}  // namespace

void int8_flip(uint8_t* bytes, int64_t count, uint8_t flip) {
  for (int64_t i = 0; flip != 0 && i < count; ++i) bytes[i] ^= flip;
}

void int8_magnitudes(const uint8_t* from, int64_t count, uint8_t* to) {
  for (int64_t i = 0; i < count; ++i) to[i] = std::min<uint8_t>(from[i], static_cast<uint8_t>(-from[i]));
}

Int8Strip int8_strip(const Conv2dShape& s, int64_t out_rows) {
  const int64_t channels = s.in_channels / s.groups, padded = strip_width(s);
  const bool gathered = s.dilation_width > 1 && s.kernel_width > 1;
  return {strip_rows(s, out_rows), gathered ? s.out_width : padded,
          gathered ? s.kernel_width * channels : channels, padded, gathered};
}

void fill_int8_strip(const Int8Primitives& kernels, const Conv2dShape& s, const Int8Strip& strip,
                     const uint8_t* x, int64_t first, int64_t out_rows, uint8_t pad, uint8_t flip,
                     int64_t magnitude, uint8_t* to, uint8_t* line) {
  const int64_t rows = strip_rows(s, out_rows), top = first * s.stride_height - s.pad_height;
  for (int64_t group = 0; group < s.groups; ++group) {
    for (int64_t r = 0; r < rows; ++r) {
      uint8_t* const row = to + group * strip.group() + r * strip.pitch();
      fill_row(kernels, s, strip.padded, x, group, top + r, pad, strip.gathered ? line : row);
      if (strip.gathered) gather_taps(s, line, s.in_channels / s.groups, row);
      int8_flip(row, strip.pitch(), flip);
      if (magnitude != 0) int8_magnitudes(row, strip.pitch(), row + magnitude);
    }
  }
}

}  // namespace cnnkern
