// How a convolution is cut into blocks.
#pragma once
#include <algorithm>

#include "cuda/conv2d/conv2d.h"

namespace cnnkern::cuda {

enum class TileSize { k128x128, k128x64, k64x64 };

struct Conv2dPlan {
  TileSize tile;
  int64_t tiles;   // along k
  int64_t splits;  // of k over blocks
  Core core = Core::kMma;
};

constexpr int64_t rounded_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
constexpr int64_t quotient_up(int64_t value, int64_t divisor) { return (value + divisor - 1) / divisor; }

// The largest tile of an m x n product that still gives every multiprocessor a block; k is split where even
// the smallest does not.
inline Conv2dPlan plan_product(int64_t m, int64_t n, int64_t groups, int64_t tiles, int64_t multiprocessors) {
  constexpr int64_t kFewestTiles =
      4;  // of a split: below that filling the pipeline takes longer than the sum
  const auto blocks = [&](int64_t tile_m, int64_t tile_n) {
    return quotient_up(m, tile_m) * quotient_up(n, tile_n) * groups;
  };
  if (n > 64 && blocks(128, 128) >= multiprocessors) return {TileSize::k128x128, tiles, 1};
  if (blocks(128, 64) >= multiprocessors) return {TileSize::k128x64, tiles, 1};
  const int64_t wanted = multiprocessors / std::max<int64_t>(1, blocks(64, 64));
  const int64_t parts = std::clamp<int64_t>(tiles / kFewestTiles, 1, std::max<int64_t>(1, wanted));
  return {TileSize::k64x64, tiles, quotient_up(tiles, quotient_up(tiles, parts))};
}

inline Conv2dPlan plan_conv2d(const Conv2dShape& s, int64_t number_bytes, const Device& device) {
  const int64_t row = 128 / number_bytes, chunk = 16 / number_bytes;
  const int64_t depth = s.kernel_height * s.kernel_width * rounded_up(s.in_channels / s.groups, chunk);
  Conv2dPlan plan = plan_product(s.batch * s.out_height * s.out_width, s.out_channels / s.groups, s.groups,
                                 quotient_up(depth, row), device.multiprocessors);
  plan.core = device.core;
  return plan;
}

inline Conv2dPlan plan_conv2d(const Conv2dShape& s, Arithmetic arithmetic, const Device& device) {
  return plan_conv2d(s, bytes_of(arithmetic), device);
}

// A product for the gradient of x sums over the outputs that a pixel goes into.
inline Conv2dPlan plan_backward_input(const Conv2dShape& s, Arithmetic arithmetic, const Device& device) {
  const int64_t row = 128 / bytes_of(arithmetic), chunk = 16 / bytes_of(arithmetic);
  const int64_t depth = s.kernel_height * s.kernel_width * rounded_up(s.out_channels / s.groups, chunk);
  return plan_product(s.batch * s.in_height * s.in_width, s.in_channels / s.groups, s.groups,
                      quotient_up(depth, row), device.multiprocessors);
}

// One for the gradient of the weight sums over all pixels.
inline Conv2dPlan plan_backward_weight(const Conv2dShape& s, int64_t columns, Arithmetic arithmetic,
                                       const Device& device) {
  const int64_t row = 128 / bytes_of(arithmetic);
  return plan_product(s.out_channels / s.groups, columns, s.groups,
                      quotient_up(s.batch * s.out_height * s.out_width, row), device.multiprocessors);
}

}  // namespace cnnkern::cuda
