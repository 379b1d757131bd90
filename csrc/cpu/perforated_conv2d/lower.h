// Patches of single outputs, copied into the rows of a small matrix.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/primitives.h"
#include "params/conv2d.h"

namespace cnnkern {

constexpr int64_t kLoweredDepth = 1024;  // k of one lowered block

// Elements from row to row of a matrix of `depth` columns: rows of a tile must not fall into the same cache
// sets.
constexpr int64_t lowered_pitch(int64_t depth) { return (panels(depth) | 1) * kPanel; }

// A patch in a channels-last image.
template <class T>
struct PatchAt {
  const T* image;     // its first pixel, which may lie before what is there of it
  int64_t top, left;  // of the tap (0, 0); may lie outside
  bool inside;        // all taps lie in the image
};

inline int64_t row_pitch(const Conv2dShape& s) { return s.in_width * s.in_channels; }

// A part of a patch that lies together in memory.
struct Piece {
  int64_t offset, count;
};

// The pieces of the values [begin, end) of a group's patch; returns how many there are.
inline int64_t find_pieces(const Conv2dShape& s, int64_t group, int64_t begin, int64_t end, Piece* pieces) {
  const int64_t channels = s.in_channels / s.groups;
  const bool whole_rows = s.groups == 1 && s.dilation_width == 1;
  const int64_t length = whole_rows ? s.kernel_width * channels : channels;
  int64_t found = 0;
  for (int64_t k = begin; k < end; k += pieces[found++].count) {
    const int64_t tap = k / length * (whole_rows ? s.kernel_width : 1);
    const int64_t i = tap / s.kernel_width, j = tap % s.kernel_width;
    pieces[found] = {i * s.dilation_height * row_pitch(s) + j * s.dilation_width * s.in_channels +
                         group * channels + k % length,
                     std::min(end - k, length - k % length)};
  }
  return found;
}

// Tiny pieces are not worth a call.
template <class T>
void copy_piece(const T* from, int64_t count, T* to) {
  if (count < 4) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[i];
  } else {
    std::memcpy(to, from, sizeof(T) * static_cast<size_t>(count));
  }
}

// The values [begin, end) of a group's patch, part of which lies outside the image.
template <class T>
void lower_border(const Conv2dShape& s, const PatchAt<T>& patch, int64_t group, int64_t begin, int64_t end,
                  T* to) {
  const int64_t channels = s.in_channels / s.groups;
  for (int64_t k = begin; k < end;) {
    const int64_t tap = k / channels, within = k % channels, count = std::min(end - k, channels - within);
    const int64_t y = patch.top + tap / s.kernel_width * s.dilation_height;
    const int64_t x = patch.left + tap % s.kernel_width * s.dilation_width;
    if (y < 0 || y >= s.in_height || x < 0 || x >= s.in_width) {
      std::fill_n(to, count, T(0));
    } else {
      copy_piece(patch.image + y * row_pitch(s) + x * s.in_channels + group * channels + within, count, to);
    }
    to += count;
    k += count;
  }
}

// One row a patch: the values [begin, end) of a group's part of it, at most kLoweredDepth, in the order of
// the packed weights.
template <class T>
void lower(const Conv2dShape& s, const PatchAt<T>* patches, int64_t count, int64_t group, int64_t begin,
           int64_t end, T* to) {
  Piece pieces[kLoweredDepth];
  const int64_t found = find_pieces(s, group, begin, end, pieces);
  for (int64_t i = 0; i < count; ++i, to += lowered_pitch(end - begin)) {
    const PatchAt<T>& patch = patches[i];
    if (!patch.inside) {
      lower_border(s, patch, group, begin, end, to);
      continue;
    }
    const T* const from = patch.image + patch.top * row_pitch(s) + patch.left * s.in_channels;
    T* at = to;
    for (int64_t p = 0; p < found; ++p) {
      copy_piece(from + pieces[p].offset, pieces[p].count, at);
      at += pieces[p].count;
    }
  }
}

// The same for a panel of a depthwise convolution's output channels: (taps, kPanel), in each lane the input
// channel that its output channel reads.
template <class T>
void lower_depthwise(const Conv2dShape& s, const PatchAt<T>* patches, int64_t count, int64_t channel, T* to) {
  const int64_t multiplier = s.out_channels / s.in_channels;
  const int64_t lanes = std::min(kPanel, s.out_channels - channel);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t tap = 0; tap < s.kernel_height * s.kernel_width; ++tap, to += kPanel) {
      const int64_t y = patches[i].top + tap / s.kernel_width * s.dilation_height;
      const int64_t x = patches[i].left + tap % s.kernel_width * s.dilation_width;
      if (y < 0 || y >= s.in_height || x < 0 || x >= s.in_width) {
        std::fill_n(to, kPanel, T(0));
        continue;
      }
      const T* const pixel = patches[i].image + y * row_pitch(s) + x * s.in_channels;
      if (multiplier == 1) {
        copy_piece(pixel + channel, lanes, to);
      } else {
        for (int64_t lane = 0; lane < lanes; ++lane) to[lane] = pixel[(channel + lane) / multiplier];
      }
      std::fill(to + lanes, to + kPanel, T(0));
    }
  }
}

}  // namespace cnnkern
