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
  for (int64_t c = 0; c < channels; c += kPanel, to += to_panel) {
    const int64_t valid = std::min(kPanel, channels - c);
    if (channels_last) {
      const T* pixel = from + c;
      for (int64_t i = 0; i < pixels; ++i, pixel += image_channels) {
        if (valid == kPanel) {
          std::memcpy(to + i * kPanel, pixel, sizeof(T) * kPanel);
        } else {
          std::copy_n(pixel, valid, to + i * kPanel);
        }
      }
    } else {
      kernels.transpose(from + c * area, area, valid, pixels, to, kPanel);
    }
    if (valid < kPanel) {
      for (int64_t i = 0; i < pixels; ++i) std::fill(to + i * kPanel + valid, to + (i + 1) * kPanel, T(0));
    }
  }
}

}  // namespace cnnkern
