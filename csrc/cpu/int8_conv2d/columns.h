// Patches that have the kept columns of a weight matrix alone, gathered into a row of bytes for each pixel.
#pragma once
#include "cpu/int8_conv2d/patches.h"

namespace cnnkern {

// The part of an image that a band reads is first laid out channel by channel, each channel phase by phase of
// the stride: the values that a column has at adjacent output pixels are then adjacent, line after line, and
// blocks of 16 columns by 16 pixels are transposed into rows.
class Int8Columns {
 public:
  Int8Columns() = default;
  // For bands of `out_rows` output rows.
  Int8Columns(const Conv2dShape& shape, int64_t kept, int64_t out_rows);

  int64_t pitch() const { return pitch_; }              // bytes of a row
  int64_t width() const { return width_; }              // rows from one output line to the next
  int64_t group() const { return rows_ * pitch_; }      // bytes of the rows of one group of an image
  int64_t planes_size(const Conv2dShape& shape) const;  // bytes of scratch for one image
  int64_t line_size(const Conv2dShape& shape) const;    // and of more
  int64_t table_size() const { return table_; }         // offsets of one group

  // Where each column of group `group` lies in the planes.
  void fill_table(const Conv2dShape& shape, const KeptColumns& kept, int64_t group, int64_t* table) const;

  // Rows of all groups for `out_rows` output rows from `first` on of the image `x`, every byte xor `flip`;
  // `pad` is the byte outside the image as x has it, `tables` those of all groups.
  void gather(const Int8Primitives& kernels, const Conv2dShape& shape, const int64_t* tables,
              const uint8_t* x, int64_t first, int64_t out_rows, uint8_t pad, uint8_t flip, uint8_t* planes,
              uint8_t* line, uint8_t* to) const;

 private:
  void fill_planes(const Int8Primitives& kernels, const Conv2dShape& shape, const uint8_t* x, int64_t first,
                   int64_t out_rows, uint8_t pad, uint8_t flip, uint8_t* planes, uint8_t* line) const;
  int64_t phase() const { return height_ * width_; }  // bytes of one phase of a channel

  int64_t height_ = 0, width_ = 0;  // of a phase
  int64_t rows_ = 0;                // rows of one group of an image: whole blocks
  int64_t pitch_ = 0, table_ = 0;
};

}  // namespace cnnkern
