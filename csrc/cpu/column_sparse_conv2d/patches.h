// Where the kept values of the patches lie, and how those of many pixels become an operand of a product.
#pragma once
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

  // Channels last: the same for several values at a time, where a row of taps, or one tap, is long enough.
  GatherWindows windows;
  int64_t* window_begin;  // (blocks + 1); null where there are no windows

  // The words of memory that a table takes.
  static int64_t words(const Conv2dShape& s, const Blocks& blocks, int64_t window);
  Patches(int64_t* memory, const Conv2dShape& s, const Blocks& blocks, int64_t window);

  void fill(const Conv2dShape& s, const KeptColumns& kept, int64_t group, const Blocks& blocks,
            int64_t window) const;
};

// One row for each of `pixels` output pixels from `first` on, counted through all images: a block of its
// patch, zeros outside the image. Rows are adjacent. Writes up to kPanel elements more.
template <class T>
void gather_rows(const Primitives<T>& kernels, const Conv2dShape& s, const Patches& patches,
                 const Blocks& blocks, int64_t block, const T* x, int64_t first, int64_t pixels, T* to);

// The same pixels as panels, (panels(pixels), k, kPanel), from a channel-first image.
template <class T>
void gather_panels(const Primitives<T>& kernels, const Conv2dShape& s, const Patches& patches,
                   const Blocks& blocks, int64_t block, const T* x, int64_t first, int64_t pixels, T* to);

}  // namespace cnnkern
