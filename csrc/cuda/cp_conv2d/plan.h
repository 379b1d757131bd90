// How a fused CP convolution is cut into blocks, and what a block has in shared memory.
#pragma once
#include <algorithm>
#include <limits>

#include "cuda/conv2d/plan.h"
#include "cuda/cp_conv2d/axis.h"
#include "cuda/cp_conv2d/cp_conv2d.h"

namespace cnnkern::cuda {

constexpr int64_t kCpRows = 64;       // output positions of a block, at most
constexpr int64_t kCpHaloRows = 128;  // halo positions that stage 1 computes together
constexpr int64_t kCpSlots = 3;       // of its pipelines
constexpr int64_t kCpThreads = 256;

// Bytes from a row of stage 1 or 2 to the next: 128 of ranks and a gap, so that what a warp writes of eight
// rows is in different banks.
constexpr int64_t cp_pitch(int64_t number_bytes) { return 128 + 8 * number_bytes; }

// What lies where in a block's shared memory, in bytes: 128 bytes of ranks of positions, weights, a pipeline.
// Stage 2 is there while no product is under way, and has the pipeline's place.
struct CpMemory {
  int64_t stage1, taps, pipeline, size;  // stage 3 is at 0

  CpMemory() = default;
  CpMemory(int64_t stage3_bytes, int64_t stage1_bytes, int64_t stage2_bytes, int64_t taps_bytes,
           int64_t pipeline_bytes)
      : stage1(stage3_bytes),
        taps(stage1 + stage1_bytes),
        pipeline(rounded_up(taps + taps_bytes, 128)),
        size(pipeline + std::max(pipeline_bytes, stage2_bytes)) {}
};

// Slots that a product of `tiles` tiles of `rows` rows of both operands comes to use.
constexpr int64_t cp_pipeline_bytes(int64_t tiles, int64_t rows) {
  return std::min(kCpSlots, tiles) * rows * 128;
}
constexpr int64_t cp_stage1_bytes(int64_t channels, int64_t number_bytes) {
  return cp_pipeline_bytes(quotient_up(channels * number_bytes, 128), kCpHaloRows + 128 / number_bytes);
}
// Of the sums of an m x n tile on their way out (gemm/output.cuh).
constexpr int64_t cp_staging_bytes(int64_t m, int64_t n) { return 4 * std::max(m * (n + 8), n * (m + 4)); }

// Tiles of positions, and what they read.
template <class Axis>
struct CpTilePlan {
  int64_t tile_height = 0, tile_width = 0;
  int64_t tiles_high = 0, tiles_wide = 0;
  Axis vertical, horizontal;

  CpTilePlan() = default;
  CpTilePlan(const Conv2dShape& s, int64_t height, int64_t width)
      : tile_height(height),
        tile_width(width),
        tiles_high(quotient_up(s.out_height, height)),
        tiles_wide(quotient_up(s.out_width, width)),
        vertical(height, s.kernel_height, s.stride_height, s.dilation_height, s.pad_height),
        horizontal(width, s.kernel_width, s.stride_width, s.dilation_width, s.pad_width) {}

  int64_t halo() const { return int64_t{vertical.size} * horizontal.size; }
  // Multiplications of stage 1 for one rank.
  double stage1_work(const Conv2dShape& s) const {
    return static_cast<double>(rounded_up(halo(), kCpHaloRows) * (s.in_channels / s.groups));
  }
};

// Calls body(height, width) for every size of tile of at most `most` positions.
template <class Body>
void for_each_cp_tile(int64_t most, const Body& body) {
  for (int64_t height = 1; height <= most; height *= 2)
    for (int64_t width = 1; height * width <= most; width *= 2) body(height, width);
}

template <class Axis>
struct CpPlan : CpTilePlan<Axis> {
  bool fits = false;
  int64_t rank_tiles = 0, split_rank_tiles = 0, splits = 0;  // of 128 bytes of ranks: all, and of a block
  int64_t tile_n = 0, n_tiles = 0;  // output channels: of a tile, and tiles of a block
  int64_t n_parts = 0;              // blocks that share them
  CpMemory memory;

  int64_t blocks(const Conv2dShape& s) const {
    return s.batch * s.groups * this->tiles_high * this->tiles_wide * splits * n_parts;
  }
};

// The plan with tiles of that size, or none that fits.
template <class Axis>
CpPlan<Axis> plan_cp_tile(const Conv2dShape& s, int64_t rank, int64_t number_bytes, const Device& device,
                          int64_t tile_height, int64_t tile_width) {
  CpPlan<Axis> p{{s, tile_height, tile_width}};
  const int64_t ranks_of_tile = 128 / number_bytes, pitch = cp_pitch(number_bytes);
  p.rank_tiles = quotient_up(rank / s.groups, ranks_of_tile);
  p.tile_n = s.out_channels / s.groups <= 64 ? 64 : 128;
  const auto memory = [&](int64_t rank_tiles) {
    return CpMemory(rank_tiles * kCpRows * 128, p.halo() * pitch, tile_height * p.horizontal.size * pitch,
                    (s.kernel_height + s.kernel_width) * ranks_of_tile * 4,
                    std::max({cp_stage1_bytes(s.in_channels / s.groups, number_bytes),
                              cp_pipeline_bytes(rank_tiles, p.tile_n), cp_staging_bytes(kCpRows, p.tile_n)}));
  };
  int64_t room = std::min(p.rank_tiles, device.shared_bytes / (kCpRows * 128));
  while (room > 0 && memory(room).size > device.shared_bytes) --room;
  p.fits = room > 0;
  if (!p.fits) return p;
  p.splits = quotient_up(p.rank_tiles, room);
  p.n_parts = 1;
  const int64_t all_n_tiles = quotient_up(s.out_channels / s.groups, p.tile_n);
  // A split of the ranks costs partial sums; one of the channels, stages 1 to 3 over again.
  while (p.blocks(s) < device.multiprocessors && p.splits < p.rank_tiles)
    p.splits = std::min(p.rank_tiles, 2 * p.splits);
  while (2 * p.blocks(s) <= device.multiprocessors && p.n_parts < all_n_tiles) ++p.n_parts;
  p.split_rank_tiles = quotient_up(p.rank_tiles, p.splits);
  p.splits = quotient_up(p.rank_tiles, p.split_rank_tiles);
  p.n_tiles = quotient_up(all_n_tiles, p.n_parts);
  p.n_parts = quotient_up(all_n_tiles, p.n_tiles);
  p.memory = memory(p.split_rank_tiles);
  return p;
}

// The tile whose blocks do the least multiplications one after the other, halo and padding counted; of equal
// ones the one that takes the least memory, so that a multiprocessor may hold two blocks.
template <class Axis>
CpPlan<Axis> plan_cp_conv2d(const Conv2dShape& s, int64_t rank, int64_t number_bytes, const Device& device) {
  CpPlan<Axis> best;
  double least = std::numeric_limits<double>::max();
  for_each_cp_tile(kCpRows, [&](int64_t height, int64_t width) {
    const auto p = plan_cp_tile<Axis>(s, rank, number_bytes, device, height, width);
    if (!p.fits) return;
    const double work = p.stage1_work(s) + static_cast<double>(kCpRows * p.n_tiles * p.tile_n);
    const double waves = static_cast<double>(quotient_up(p.blocks(s), device.multiprocessors));
    const double time = waves * work * static_cast<double>(p.split_rank_tiles);
    if (time < least || (time == least && p.memory.size < best.memory.size)) least = time, best = p;
  });
  return best;
}

}  // namespace cnnkern::cuda
