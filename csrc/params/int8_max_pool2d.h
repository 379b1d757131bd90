// The shape of a max pooling of integers, and what one call of it is given.
#pragma once
#include <cstdint>

namespace cnnkern {

// One of the two axes of an image. A window that leaves the image is one of fewer values.
struct PoolAxis {
  int64_t in;      // values of the image
  int64_t out;     // windows
  int64_t kernel;  // values of a window
  int64_t stride;  // from one window to the next
  int64_t pad;     // the first window begins so much before the image
  int64_t dilation;
};

struct Int8MaxPool2dParams {
  int64_t batch, channels;
  PoolAxis height, width;
  bool channels_last;  // x and y are (N, H, W, C) in memory, else (N, C, H, W)
  bool is_signed;      // x and y are s8
  const uint8_t* x;    // u8, or the bytes of s8, dense; the caller's
  uint8_t* y;          // the same
};

}  // namespace cnnkern
