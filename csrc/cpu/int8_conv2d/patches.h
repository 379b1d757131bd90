// Where the inner loops find the activations of a band, whatever was done to put them there.
#pragma once
#include "cpu/int8_conv2d/int8_conv2d.h"

namespace cnnkern {

// Bytes from one output pixel, row, image, group to the next, and how a pixel's activations lie.
struct Int8Patches {
  int64_t pixel, line, image, group;
  int64_t runs, run;  // how many, and from one to the next
  int64_t quads;      // of a run
};

}  // namespace cnnkern
