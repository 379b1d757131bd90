// The inner loops of the int8 kernels: one table of them per instruction set, all of which give the same
// bits.
//
// Activations come four adjacent ones at a time, a quad, which one instruction multiplies with the weights of
// a whole vector of output channels. Weights come in panels of kPanel output channels,
// [panel][quad][kPanel][4].
#pragma once
#include <cstdint>

#include "cpu/primitives.h"
#include "params/int8_conv2d.h"
#include "params/int8_elementwise.h"

namespace cnnkern {

constexpr int64_t kQuad = 4;
constexpr int64_t kMostVectorBytes = 64;
constexpr int64_t kByteBlock = 16;  // rows and columns of a block of bytes that is transposed at once

// What becomes of a sum of products. With `sum` the products of weights and of activations as they were read:
//   s32     sum - correction
//   f32     max(low, (sum - correction) * multiplier + offset), two roundings to float32, no fused one
//   u8, s8  the same clamped to [low, high], rounded to nearest with ties to even, plus zero_point
struct Int8Epilogue {
  const int32_t* correction;  // whole panels, as the next two; what the activations' zero point contributes
  const float* multiplier;
  const float* offset;
  Int8Output output;
  float low, high;
  int32_t zero_point;
};

// C[plane][line][pixel][column] from the sums over runs and quads of A B. A pixel's activations lie in `runs`
// runs of `quads` quads, all read where they lie. Strides of A are in bytes, those of C in elements.
struct Int8Gemm {
  const uint8_t* a;     // of the first pixel of the first line of the first plane
  int64_t a_magnitude;  // from an activation to its magnitude, where Int8Primitives.magnitudes
  int64_t a_pixel;
  int64_t a_line;
  int64_t a_plane;
  int64_t a_run;
  int64_t pixels;  // in a line
  int64_t lines;   // in a plane
  int64_t planes;
  int64_t runs;
  int64_t quads;           // of a run
  const int8_t* b;         // (panels(columns), runs, quads, kPanel, kQuad)
  const uint8_t* extreme;  // (panels(columns)), nonzero where a weight of the panel is -128
  void* c;
  int64_t c_pixel;
  int64_t c_line;
  int64_t c_plane;
  int64_t c_panel;  // kPanel where the columns of C are adjacent
  int64_t columns;
  Int8Epilogue epilogue;
};

// One output line of a depthwise convolution over one panel of channels, whose activations are u8.
struct Int8DepthwiseLine {
  const uint8_t* x;           // the tap (0, 0) of the first pixel
  int64_t x_pixel;            // from one output pixel to the next
  const int64_t* tap_offset;  // (taps)
  int64_t taps;
  const int8_t* weight;  // (taps, kPanel)
  void* out;
  int64_t out_width;
  int64_t out_pixel;  // in elements
  int64_t channels;   // of this panel, 1 to kPanel
  Int8Epilogue epilogue;
};

// y[pixel][i] = the greatest of x[pixel][offset[tap] + i] over all taps, pixel after pixel. The first `whole`
// of them are read and written in whole vectors, of at most kMostVectorBytes: what is behind the last one of
// them in y is overwritten.
struct Int8MaxLine {
  const uint8_t* x;
  int64_t x_pixel;        // from one pixel to the next
  const int64_t* offset;  // (taps)
  int64_t taps;           // at least 1
  uint8_t* y;
  int64_t y_pixel;
  int64_t pixels;
  int64_t count;  // bytes of a pixel
  int64_t whole;
  bool is_signed;
};

// to[phase][row][i] = from[row][phase + stride * i]. Rows of both have room for whole vectors.
struct Int8SplitColumns {
  const uint8_t* from;
  int64_t from_row;
  int64_t rows;
  int64_t stride;  // at least 2
  int64_t phases;  // at most stride
  int64_t count;   // bytes of a row of a phase
  uint8_t* to;
  int64_t to_row;
  int64_t to_phase;
};

struct Int8Primitives {
  const char* name;
  int64_t tile_pixels;  // rows of the GEMM tile
  // The GEMM reads activations as s8, and their magnitudes as u8 besides; else as u8.
  bool magnitudes;
  void (*gemm)(const Int8Gemm&);
  void (*depthwise_line)(const Int8DepthwiseLine&);
  // to[column * to_stride + row] = from[row * from_stride + column]
  void (*transpose)(const uint8_t* from, int64_t from_stride, int64_t rows, int64_t columns, uint8_t* to,
                    int64_t to_stride);
  // to[column * to_stride + r] = from[row[r] + column], whole blocks of 16 rows and 16 columns.
  void (*transpose_rows)(const uint8_t* from, const int64_t* row, int64_t rows, int64_t columns, uint8_t* to,
                         int64_t to_stride);
  // Activations as the GEMM reads them, of real numbers whose unit is one step: rounded to nearest, ties to
  // even, into [-127, 127]. kPanel lanes of `pixels` adjacent pixels, to pixels `to_pixel` bytes apart, and
  // where `magnitudes` their magnitudes `magnitude` bytes behind.
  void (*quantize)(const float* from, int64_t pixels, uint8_t* to, int64_t to_pixel, int64_t magnitude);
  // Elements [begin, end) of the operations on single elements.
  void (*quantize_elements)(const Int8QuantizeParams&, int64_t begin, int64_t end);
  void (*add_elements)(const Int8AddParams&, int64_t begin, int64_t end);
  void (*max_line)(const Int8MaxLine&);
  void (*split_columns)(const Int8SplitColumns&);
};

}  // namespace cnnkern
