// What a perforated convolution computes of its outputs, and what one call of its kernels is given.
#pragma once
#include "params/conv2d.h"

namespace cnnkern {

// Which outputs are computed ("kept"), and which of these each output shows. Arrays are (masks, 2, oH * oW):
// those of a mask follow one another; all are the caller's.
struct Perforation {
  int64_t masks;         // 1 for all images, or one an image
  const int64_t* begin;  // (N + 1): how many are kept in the images before
  const int32_t* owner;  // which kept one a position shows; -1 where it shows zero
  const int32_t* kept;   // the positions of the kept ones, ascending; they fill the beginning
};

template <class T>
struct PerforatedConv2dParams {
  Conv2dShape shape;
  Perforation perforation;
  const T* x;       // dense, in the shape's layout; the caller's
  const T* packed;  // the weight by conv2d_pack; the caller's
  const T* bias;    // (K) or null; the caller's
  T* y;             // dense, in the shape's layout; the caller's
  T* scratch;       // perforated_conv2d_scratch(shape, kept, threads) values, 64-byte aligned; the caller's
  int64_t threads;
};

}  // namespace cnnkern
