// The part of one image that a piece of work reads, in the form in which the inner loops read it: channels
// last, group after group, its padding written out as the zero point.
#pragma once
#include "cpu/int8_primitives.h"

namespace cnnkern {

// A strip is (groups, rows, columns, depth) bytes. Where taps of a kernel row are not neighbours (a
// horizontal dilation) a column is an output pixel and holds the values of all its taps, else it is an input
// pixel.
struct Int8Strip {
  int64_t rows;     // most rows, of one image
  int64_t columns;  // of a row
  int64_t depth;    // bytes of a column
  int64_t padded;   // columns of the padded image that output pixels read
  bool gathered;

  int64_t pitch() const { return columns * depth; }
  int64_t group() const { return rows * pitch(); }
  // Bytes of one image of `groups` groups.
  int64_t size(int64_t groups) const { return groups * group(); }
  // Bytes that filling one needs besides.
  int64_t line() const { return gathered ? padded * depth : 0; }
};

// Every byte xor `flip`, which may be 0: s8 as u8 and back.
void int8_flip(uint8_t* bytes, int64_t count, uint8_t flip);

// The magnitudes of s8 values.
void int8_magnitudes(const uint8_t* from, int64_t count, uint8_t* to);

// For bands of `out_rows` output rows.
Int8Strip int8_strip(const Conv2dShape& shape, int64_t out_rows);

// Writes the strip under `out_rows` output rows from `first` on of the image `x`; every byte comes out xor
// `flip`, and `pad` is the byte outside the image as x has it. Where `magnitude` is not 0 the magnitude of
// every byte, as s8, goes that far behind it. `line` is scratch of strip.line() bytes.
void fill_int8_strip(const Int8Primitives& kernels, const Conv2dShape& shape, const Int8Strip& strip,
                     const uint8_t* x, int64_t first, int64_t out_rows, uint8_t pad, uint8_t flip,
                     int64_t magnitude, uint8_t* to, uint8_t* line);

}  // namespace cnnkern
