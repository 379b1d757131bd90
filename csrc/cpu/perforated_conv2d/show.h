// From the kept outputs to those that show them.
#pragma once
#include <cstring>

#include "cpu/perforated_conv2d/plan.h"
#include "cpu/primitives.h"

namespace cnnkern {

constexpr int64_t kRunPixels = 128;  // that are transposed at once

// Which of the kept outputs [first, last) an output must show to be written.
struct Owners {
  int64_t first, last;
  bool among;  // or must not, and is not zero
  bool zeros;  // those that show zero as well
  bool include(int32_t owner) const {
    if (owner < 0) return zeros;
    return (owner >= first && owner < last) == among;
  }
};

// Writes those outputs of a piece that are not kept and whose owner is one of `owners`, from the kept ones,
// which have been written. `list` holds 2 * kListed values.
template <class T>
void copy_shown(const Conv2dShape& s, const Piece& piece, const Owners& owners, const Channels& channels,
                int32_t* list, T* y) {
  const int64_t area = s.out_height * s.out_width;
  y += piece.image * area * s.out_channels + channels.first * (s.channels_last ? 1 : area);
  int32_t *const to = list, *const from = list + kListed;
  for (int64_t begin = piece.begin; begin < piece.end; begin += kListed) {
    const int64_t until = std::min(piece.end, begin + kListed);
    int64_t count = 0;
    // No branch depends on the mask: half of them would be mispredicted.
    for (int64_t p = begin; p < until; ++p) {
      const int32_t owner = piece.owner[p], source = owner < 0 ? -1 : piece.kept[owner];
      to[count] = static_cast<int32_t>(p);
      from[count] = source;
      count += owners.include(owner) & (source != p);
    }
    if (s.channels_last) {
      for (int64_t i = 0; i < count; ++i) {
        T* const pixel = y + to[i] * s.out_channels;
        if (from[i] < 0) {
          std::fill_n(pixel, channels.count, T(0));
        } else {
          std::memcpy(pixel, y + from[i] * s.out_channels, sizeof(T) * static_cast<size_t>(channels.count));
        }
      }
    } else if (count > 0) {
      for (int64_t k = 0; k < channels.count; ++k) {
        T* const plane = y + k * area;
        for (int64_t i = 0; i < count; ++i) plane[to[i]] = plane[from[i]];
      }
    }
  }
}

// Which row of a tile each output of a piece shows: that of its kept one, where the piece's first is row
// `first`; `zero`; or any where the kept one belongs to another piece.
inline void find_rows(const Piece& piece, int64_t first, int64_t zero, int32_t* row) {
  const auto count = static_cast<int32_t>(piece.count());
  for (int64_t p = piece.begin; p < piece.end; ++p) {
    const int32_t owner = piece.owner[p], among = owner - static_cast<int32_t>(piece.first);
    const int32_t inner = among >= 0 && among < count ? among : 0;
    row[p - piece.begin] = owner < 0 ? static_cast<int32_t>(zero) : static_cast<int32_t>(first) + inner;
  }
}

// Writes the outputs of a channel-first piece, `row` of which each shows of a tile of kTileColumns columns.
template <class T>
void show_rows(const Primitives<T>& kernels, const Conv2dShape& s, const Piece& piece,
               const Channels& channels, const T* tile, const int32_t* row, T* y) {
  const int64_t area = s.out_height * s.out_width, pixels = piece.end - piece.begin;
  y += (piece.image * s.out_channels + channels.first) * area + piece.begin;
  for (int64_t i = 0; i < pixels; i += kRunPixels)
    kernels.transpose_rows(tile, kTileColumns, row + i, std::min(kRunPixels, pixels - i), channels.count,
                           y + i, area);
}

}  // namespace cnnkern
