// See columns.h.
#include "cpu/int8_conv2d/columns.h"

#include <algorithm>
#include <cstring>

#include "cpu/column_sparse_conv2d/columns.h"
#include "cpu/int8_conv2d/strip.h"
#include "cpu/strip.h"

namespace cnnkern {
namespace {

// Long rows are an odd number of cache lines apart: the pixels of a tile do not fall into the same sets.
int64_t row_pitch(int64_t kept) {
  constexpr int64_t kLine = 64;
  return kept <= 4 * kLine ? round_up(kept, kByteBlock) : round_up(kept, kLine) | kLine;
}

// Every `step`-th of the values [begin, end). A step that compilers know is done in vectors.
void copy_every(int64_t step, const uint8_t* from, int64_t begin, int64_t end, uint8_t* to) {
  const int64_t count = end > begin ? (end - begin + step - 1) / step : 0;
  if (step == 2) {
    for (int64_t i = 0; i < count; ++i) to[i] = from[begin + 2 * i];
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = from[begin + step * i];
  }
}

int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

}  // namespace

Int8Columns::Int8Columns(const Conv2dShape& s, int64_t kept, int64_t out_rows)
    : height_(divided_up(strip_rows(s, out_rows), s.stride_height)),
      width_(divided_up(strip_width(s), s.stride_width)),
      rows_(round_up((out_rows - 1) * width_ + s.out_width, kByteBlock)),
      pitch_(row_pitch(kept)),
      table_(round_up(kept, kByteBlock)) {}

int64_t Int8Columns::planes_size(const Conv2dShape& s) const {
  // The last block of pixels may reach beyond the last plane.
  return s.in_channels * s.stride_height * s.stride_width * phase() + kByteBlock;
}

int64_t Int8Columns::line_size(const Conv2dShape& s) const {
  return s.channels_last && s.stride_width > 1 ? s.in_width * s.in_channels : 0;
}

void Int8Columns::fill_table(const Conv2dShape& s, const KeptColumns& kept, int64_t group,
                             int64_t* table) const {
  const int64_t group_channels = s.in_channels / s.groups, phases = s.stride_height * s.stride_width;
  const ByTaps by_taps(s.kernel_height * s.kernel_width);
  for (int64_t k = 0; k < kept.count; ++k) {
    const int32_t column = kept.index[group * kept.count + k];
    const int64_t channel = by_taps.channel(column), tap = by_taps.tap(column, channel);
    const int64_t row = tap / s.kernel_width * s.dilation_height;
    const int64_t at = tap % s.kernel_width * s.dilation_width;
    const int64_t which = row % s.stride_height * s.stride_width + at % s.stride_width;
    table[k] = ((group * group_channels + channel) * phases + which) * phase() +
               row / s.stride_height * width_ + at / s.stride_width;
  }
  std::fill(table + kept.count, table + table_, int64_t{0});  // meets weights of zero
}

void Int8Columns::fill_planes(const Int8Primitives& kernels, const Conv2dShape& s, const uint8_t* x,
                              int64_t first, int64_t out_rows, uint8_t pad, uint8_t flip, uint8_t* planes,
                              uint8_t* line) const {
  const int64_t channel = s.stride_height * s.stride_width * phase(), area = s.in_height * s.in_width;
  const int64_t step = s.stride_width, size = s.in_channels * channel;
  // The columns [0, width) of the image lie inside.
  const int64_t width = std::clamp<int64_t>(strip_width(s) - s.pad_width, 0, s.in_width);
  std::memset(planes, pad, static_cast<size_t>(size));
  const int64_t top = first * s.stride_height - s.pad_height, end = top + strip_rows(s, out_rows);
  for (int64_t row = std::max<int64_t>(0, top); row < std::min(end, s.in_height); ++row) {
    const int64_t r = row - top;
    uint8_t* const to = planes + r % s.stride_height * step * phase() + r / s.stride_height * width_;
    const uint8_t* from = x + row * s.in_width * (s.channels_last ? s.in_channels : 1);
    int64_t from_channel = area;
    if (s.channels_last) {
      const bool adjacent = step == 1;
      kernels.transpose(from, s.in_channels, width, s.in_channels, adjacent ? to + s.pad_width : line,
                        adjacent ? channel : s.in_width);
      if (adjacent) continue;
      from = line;
      from_channel = s.in_width;
    }
    for (int64_t c = 0; c < s.in_channels; ++c, from += from_channel) {
      if (step == 1) {
        std::memcpy(to + c * channel + s.pad_width, from, static_cast<size_t>(width));
        continue;
      }
      for (int64_t p = 0; p < step; ++p) {  // image columns whose padded ones are p, p + step, ...
        const int64_t column = (p - s.pad_width % step + step) % step;
        copy_every(step, from, column, width, to + c * channel + p * phase() + (column + s.pad_width) / step);
      }
    }
  }
  int8_flip(planes, size, flip);
}

void Int8Columns::gather(const Int8Primitives& kernels, const Conv2dShape& s, const int64_t* tables,
                         const uint8_t* x, int64_t first, int64_t out_rows, uint8_t pad, uint8_t flip,
                         uint8_t* planes, uint8_t* line, uint8_t* to) const {
  fill_planes(kernels, s, x, first, out_rows, pad, flip, planes, line);
  const int64_t rows = round_up((out_rows - 1) * width_ + s.out_width, kByteBlock);
  for (int64_t g = 0; g < s.groups; ++g)
    kernels.transpose_rows(planes, tables + g * table_, table_, rows, to + g * group(), pitch_);
}

}  // namespace cnnkern
