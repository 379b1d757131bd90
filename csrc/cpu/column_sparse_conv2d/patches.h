// Where the kept values of the patches lie, and how those of many pixels become an operand of a product.
#pragma once
#include <algorithm>
#include <cstdint>

#include "cpu/column_sparse_conv2d/columns.h"
#include "cpu/primitives.h"

namespace cnnkern {

// The sum over k is cut into blocks.
struct Blocks {
  int64_t kept, count;
  int64_t begin(int64_t block) const { return kept * block / count; }
  int64_t end(int64_t block) const { return kept * (block + 1) / count; }
};

// The patches of one group: the k-th value of a pixel's lies at `offset[k]` from its base, which is the first
// tap of channel 0 and may be outside the image.
struct Patches {
  int64_t* begin;   // (taps + 1): columns of tap t are [begin[t], begin[t + 1])
  int64_t* offset;  // (kept)
  int64_t* column;  // (kept): which of the group's columns comes k-th

  // Channels last: the same for several values at a time, where a row of taps, or one tap, is long enough.
  // A `window` of 0 wants none.
  GatherWindows windows;
  int64_t* vector_begin;  // (blocks + 1): the vectors of each block; null where there are no windows

  // The words of memory that a table takes.
  static int64_t words(const Conv2dShape& s, const Blocks& blocks, int64_t window);
  Patches(int64_t* memory, const Conv2dShape& s, const Blocks& blocks, int64_t window);

  // `columns` are the group's, `blocks.kept` of them.
  void fill(const Conv2dShape& s, const int32_t* columns, int64_t group, const Blocks& blocks,
            int64_t window) const;
};

// An output pixel, counted through all images, and where its patch begins.
struct OutputPixel {
  int64_t image, row, column;

  OutputPixel(const Conv2dShape& s, int64_t index)
      : image(index / (s.out_height * s.out_width)),
        row(index / s.out_width % s.out_height),
        column(index % s.out_width) {}

  // Within a row, or to the begin of the next.
  void advance(const Conv2dShape& s, int64_t pixels) {
    column += pixels;
    if (column < s.out_width) return;
    column = 0;
    if (++row < s.out_height) return;
    row = 0;
    ++image;
  }

  int64_t top(const Conv2dShape& s) const { return row * s.stride_height - s.pad_height; }
  int64_t left(const Conv2dShape& s) const { return column * s.stride_width - s.pad_width; }
  int64_t base(const Conv2dShape& s, const ImageSteps& steps) const {
    return image * s.in_channels * s.in_height * s.in_width + top(s) * steps.row + left(s) * steps.column;
  }
};

// The output positions along one axis whose taps are all inside an image.
struct Interior {
  int64_t begin, end;
};

inline Interior interior(int64_t size, int64_t out_size, int64_t kernel, int64_t stride, int64_t pad,
                         int64_t dilation) {
  const int64_t begin = std::min(out_size, (pad + stride - 1) / stride);
  const int64_t room = size - 1 - (kernel - 1) * dilation + pad;
  return {begin, std::clamp(room < 0 ? 0 : room / stride + 1, begin, out_size)};
}

// One row for each of `pixels` output pixels from `first` on, counted through all images: a block of its
// patch, zeros outside the image. Rows are `pitch` apart, a multiple of kPanel, and may be written in full.
template <class T>
void gather_rows(const Primitives<T>& kernels, const Conv2dShape& s, const Patches& patches,
                 const Blocks& blocks, int64_t block, const T* x, int64_t first, int64_t pixels, T* to,
                 int64_t pitch);

// The same pixels as panels, (panels(pixels), k, kPanel), from a channel-first image. `inside` is scratch,
// (kernel_height + kernel_width).
template <class T>
void gather_panels(const Primitives<T>& kernels, const Conv2dShape& s, const Patches& patches,
                   const Blocks& blocks, int64_t block, const T* x, int64_t first, int64_t pixels,
                   uint32_t* inside, T* to);

}  // namespace cnnkern
