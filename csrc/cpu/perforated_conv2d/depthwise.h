// Depthwise patches of kept outputs, lowered a panel of channels at a time.
#pragma once
#include "cpu/perforated_conv2d/pixels.h"

namespace cnnkern {

// What is lowered of some patches, (kDepthwisePixels, taps, kPanel), and their results, (.., kPanel).
template <class T>
struct DepthwiseScratch {
  int64_t* offsets;  // (taps)
  T *lowered, *results;
};

// In each lane the input channel that its output channel reads.
template <class T>
void lower_depthwise(const Conv2dShape& s, const T* image, int64_t top, int64_t left, int64_t channel,
                     T* to) {
  const int64_t multiplier = s.out_channels / s.in_channels;
  const int64_t lanes = std::min(kPanel, s.out_channels - channel);
  for (int64_t tap = 0; tap < s.kernel_height * s.kernel_width; ++tap, to += kPanel) {
    const int64_t y = top + tap / s.kernel_width * s.dilation_height;
    const int64_t x = left + tap % s.kernel_width * s.dilation_width;
    if (y < 0 || y >= s.in_height || x < 0 || x >= s.in_width) {
      std::fill_n(to, kPanel, T(0));
      continue;
    }
    const T* const pixel = image + y * row_pitch(s) + x * s.in_channels;
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] = pixel[(channel + lane) / multiplier];
    std::fill(to + lanes, to + kPanel, T(0));
  }
}

// The kept outputs of a piece, for the output channels of `channels`, which begin a panel.
template <class T>
void multiply_depthwise(const Primitives<T>& kernels, const PerforatedConv2dParams<T>& p, const Piece& piece,
                        const PieceAt<T>& at, const Channels& channels, int64_t c_column,
                        const DepthwiseScratch<T>& scratch) {
  const Conv2dShape& s = p.shape;
  DepthwiseLine<T> line{};
  line.x = scratch.lowered;
  line.taps = s.kernel_height * s.kernel_width;
  line.x_pixel = line.taps * kPanel;
  for (int64_t tap = 0; tap < line.taps; ++tap) scratch.offsets[tap] = tap * kPanel;
  line.tap_offset = scratch.offsets;
  line.out = scratch.results;
  line.out_pixel = kPanel;
  for (int64_t column = 0; column < channels.count; column += kPanel) {
    const int64_t channel = channels.first + column;
    line.weight = p.packed + channel * line.taps;
    line.bias = p.bias ? p.bias + channel : nullptr;
    line.channels = std::min(kPanel, channels.count - column);
    const auto write = [&](int64_t end) {
      kernels.depthwise_line(line);
      for (int64_t i = 0; i < line.out_width; ++i)
        std::copy_n(line.out + i * kPanel, line.channels,
                    at.result(piece, end - line.out_width + i) + c_column + column);
      line.out_width = 0;
    };
    for_kept(s, piece, [&](int64_t j, int64_t y, int64_t x, int64_t) {
      lower_depthwise(s, at.x, y * s.stride_height - s.pad_height, x * s.stride_width - s.pad_width, channel,
                      scratch.lowered + line.out_width * line.x_pixel);
      if (++line.out_width == kDepthwisePixels) write(j + 1);
    });
    if (line.out_width > 0) write(piece.last);
  }
}

}  // namespace cnnkern
