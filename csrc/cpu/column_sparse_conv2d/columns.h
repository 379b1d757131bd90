// The kept columns of one group in the order in which kernels walk through them: tap by tap, and by channel
// within a tap, (kH, kW, C/G). That is how a channels-last patch lies in memory, and what padding cuts off is
// whole taps.
#pragma once
#include <algorithm>
#include <cstdint>

#include "params/column_sparse_conv2d.h"

namespace cnnkern {

// Calls `place(k, n, tap, channel)` for the n-th of `count` columns, which comes k-th in that order. `begin`
// (taps + 1) then says where the columns of each tap begin.
template <class Place>
void order_by_tap(const int32_t* columns, int64_t count, int64_t taps, int64_t* begin, const Place& place) {
  std::fill_n(begin, taps + 1, int64_t{0});
  const auto walk = [&](const auto& visit) {
    int64_t channel = 0, first = 0;  // column of the channel's first tap
    for (int64_t n = 0; n < count; ++n) {
      for (; columns[n] >= first + taps; first += taps) ++channel;
      visit(n, columns[n] - first, channel);
    }
  };
  walk([&](int64_t, int64_t tap, int64_t) { ++begin[tap + 1]; });
  for (int64_t t = 0; t < taps; ++t) begin[t + 1] += begin[t];
  walk([&](int64_t n, int64_t tap, int64_t channel) { place(begin[tap]++, n, tap, channel); });
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
