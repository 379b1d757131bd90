// Pixels as panels of channels, (panel, pixel, kPanel), whatever the image's layout: the operand of products
// that sum over pixels, and rows of products over channels.
#pragma once
#include <algorithm>
#include <cstring>

#include "cpu/primitives.h"

namespace cnnkern {

// `channels` of `pixels` adjacent pixels from `from`: its first channel of its first pixel in an image of
// `image_channels` channels and `area` pixels; to panels `to_panel` elements apart. The lanes after the last
// channel become zeros.
template <class T>
void pack_pixels(const Primitives<T>& kernels, const T* from, bool channels_last, int64_t image_channels,
                 int64_t area, int64_t channels, int64_t pixels, T* to, int64_t to_panel) {
  const int64_t whole = channels / kPanel, rest = channels % kPanel;
  if (channels_last) {  // pixel by pixel, since that is how they lie in memory
    for (int64_t i = 0; i < pixels; ++i, from += image_channels, to += kPanel) {
      for (int64_t q = 0; q < whole; ++q)
        std::memcpy(to + q * to_panel, from + q * kPanel, sizeof(T) * kPanel);
      if (rest > 0) {
        T* const last = to + whole * to_panel;
        std::copy_n(from + whole * kPanel, rest, last);
        std::fill(last + rest, last + kPanel, T(0));
      }
    }
    return;
  }
  for (int64_t c = 0; c < channels; c += kPanel, to += to_panel) {
    const int64_t valid = std::min(kPanel, channels - c);
    if (valid < kPanel) std::fill_n(to, pixels * kPanel, T(0));
    kernels.transpose(from + c * area, area, valid, pixels, to, kPanel);
  }
}

}  // namespace cnnkern
