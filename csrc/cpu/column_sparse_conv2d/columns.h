// The kept columns of one group in the order in which kernels walk through them: tap by tap, and by channel
// within a tap, (kH, kW, C/G). That is how a channels-last patch lies in memory, and what padding cuts off is
// whole taps.
#pragma once
#include <algorithm>
#include <cstdint>

#include "params/column_sparse_conv2d.h"

namespace cnnkern {

// Division of indices below 2^31 by a number of taps, as a multiplication (Granlund, Montgomery 1994).
class ByTaps {
 public:
  explicit ByTaps(int64_t taps) : taps_(std::min(taps, int64_t{1} << 31)) {
    int64_t log = 0;
    while ((int64_t{1} << log) < taps_) ++log;
    shift_ = 31 + log;
    factor_ = ((uint64_t{1} << shift_) + static_cast<uint64_t>(taps_) - 1) / static_cast<uint64_t>(taps_);
  }
  int64_t channel(int32_t column) const {
    return static_cast<int64_t>(static_cast<uint64_t>(column) * factor_ >> shift_);
  }
  int64_t tap(int32_t column, int64_t channel) const { return column - channel * taps_; }

 private:
  int64_t taps_, shift_;
  uint64_t factor_;
};

// Calls `place(k, n, channel)` for the n-th of `count` columns, which comes k-th in that order. `begin`
// (taps + 1) then says where the columns of each tap begin.
template <class Place>
void order_by_tap(const int32_t* columns, int64_t count, int64_t taps, int64_t* begin, const Place& place) {
  const ByTaps by_taps(taps);
  std::fill_n(begin, taps + 1, int64_t{0});
  for (int64_t n = 0; n < count; ++n) ++begin[by_taps.tap(columns[n], by_taps.channel(columns[n])) + 1];
  for (int64_t t = 0; t < taps; ++t) begin[t + 1] += begin[t];
  for (int64_t n = 0; n < count; ++n) {
    const int64_t channel = by_taps.channel(columns[n]);
    place(begin[by_taps.tap(columns[n], channel)]++, n, channel);
  }
  std::copy_backward(begin, begin + taps, begin + taps + 1);
  begin[0] = 0;
}

// From one row, column and channel of an image to the next.
struct ImageSteps {
  int64_t row, column, channel;
};

inline ImageSteps steps_of(const Conv2dShape& s) {
  if (s.channels_last) return {s.in_width * s.in_channels, s.in_channels, 1};
  return {s.in_width, 1, s.in_height * s.in_width};
}

// The taps [begin, end) along one axis that lie inside an image of `size`, where the first lies at `start`.
struct TapRange {
  int64_t begin, end;
};

inline TapRange taps_inside(int64_t start, int64_t size, int64_t kernel, int64_t dilation) {
  const int64_t begin = start >= 0 ? 0 : std::min(kernel, (dilation - 1 - start) / dilation);
  const int64_t end = start >= size ? 0 : std::min(kernel, (size - 1 - start) / dilation + 1);
  return {begin, std::max(begin, end)};
}

}  // namespace cnnkern
