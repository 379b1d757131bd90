// How a fused CP convolution is cut into blocks, and what a block has in shared memory.
#pragma once
#include <algorithm>
#include <limits>

#include "cuda/conv2d/plan.h"
#include "cuda/cp_conv2d/cp_conv2d.h"

namespace cnnkern::cuda {

constexpr int64_t kCpRows = 64;       // output positions of a block, at most
constexpr int64_t kCpHaloRows = 128;  // halo positions that stage 1 computes together
constexpr int64_t kCpSlots = 3;       // of its pipelines
constexpr int64_t kCpThreads = 256;

// The positions along one axis that a tile of outputs reads. They are numbered through; or, where fewer are
// read than lie between the first and the last, output by output and tap by tap.
struct HaloAxis {
  int taps, stride, dilation;
  bool by_tap;
  int size;

  HaloAxis() = default;
  HaloAxis(int64_t tile, int64_t taps, int64_t stride, int64_t dilation)
      : taps(static_cast<int>(taps)), stride(static_cast<int>(stride)), dilation(static_cast<int>(dilation)) {
    const int64_t range = (tile - 1) * stride + (taps - 1) * dilation + 1;
    by_tap = tile * taps < range;
    size = static_cast<int>(std::min<int64_t>({tile * taps, range, 1 << 20}));
  }
  // The place of position `z` from the first one's on.
  __host__ __device__ int place(int z) const { return by_tap ? z / taps * stride + z % taps * dilation : z; }
  // The position that output `o` reads through `tap`.
  __host__ __device__ int position(int o, int tap) const {
    return by_tap ? o * taps + tap : o * stride + tap * dilation;
  }
};

// What lies where in a block's shared memory, in bytes.
struct CpMemory {
  int64_t stage1, stage2, taps, pipeline, size;  // stage 3, of all ranks, is at 0

  CpMemory() = default;
  CpMemory(int64_t rank_tiles, int64_t halo, int64_t columns, int64_t kernel, int64_t ranks_of_tile,
           int64_t tile_n)
      : stage1(rank_tiles * kCpRows * 128),
        stage2(stage1 + halo * 128),
        taps(stage2 + columns * 128),
        pipeline(taps + rounded_up(kernel * ranks_of_tile * 4, 128)),
        size(pipeline + std::max({kCpSlots * (kCpHaloRows + ranks_of_tile) * 128, kCpSlots * tile_n * 128,
                                  kCpRows * (tile_n + 8) * 4, tile_n * (kCpRows + 4) * 4})) {}
};

struct CpPlan {
  bool fits = false;
  int64_t tile_height = 0, tile_width = 0;
  HaloAxis vertical, horizontal;
  int64_t rank_tiles = 0, split_rank_tiles = 0, splits = 0;  // of 128 bytes of ranks: all, and of a block
  int64_t tile_n = 0, n_tiles = 0;  // output channels: of a tile, and tiles of a block
  int64_t n_parts = 0;              // blocks that share them
  int64_t tiles_high = 0, tiles_wide = 0;
  CpMemory memory;

  int64_t blocks(const Conv2dShape& s) const {
    return s.batch * s.groups * tiles_high * tiles_wide * splits * n_parts;
  }
};

// The plan with tiles of that size, or none that fits.
inline CpPlan plan_cp_tile(const Conv2dShape& s, int64_t rank, int64_t number_bytes, const Device& device,
                           int64_t tile_height, int64_t tile_width) {
  CpPlan p;
  const int64_t ranks_of_tile = 128 / number_bytes;
  p.tile_height = tile_height, p.tile_width = tile_width;
  p.tiles_high = quotient_up(s.out_height, tile_height), p.tiles_wide = quotient_up(s.out_width, tile_width);
  p.vertical = HaloAxis(tile_height, s.kernel_height, s.stride_height, s.dilation_height);
  p.horizontal = HaloAxis(tile_width, s.kernel_width, s.stride_width, s.dilation_width);
  p.rank_tiles = quotient_up(rank / s.groups, ranks_of_tile);
  p.tile_n = s.out_channels / s.groups <= 64 ? 64 : 128;
  const auto memory = [&](int64_t rank_tiles) {
    return CpMemory(rank_tiles, int64_t{p.vertical.size} * p.horizontal.size, tile_height * p.horizontal.size,
                    s.kernel_height + s.kernel_width, ranks_of_tile, p.tile_n);
  };
  const int64_t room = (device.shared_bytes - memory(0).size) / (kCpRows * 128);
  p.fits = room > 0;
  if (!p.fits) return p;
  p.splits = quotient_up(p.rank_tiles, std::min(room, p.rank_tiles));
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

// The tile whose blocks do the least multiplications one after the other, halo and padding counted.
inline CpPlan plan_cp_conv2d(const Conv2dShape& s, int64_t rank, int64_t number_bytes, const Device& device) {
  CpPlan best;
  double least = std::numeric_limits<double>::max();
  for (int64_t height = 1; height <= kCpRows; height *= 2)
    for (int64_t width = 1; height * width <= kCpRows; width *= 2) {
      const CpPlan p = plan_cp_tile(s, rank, number_bytes, device, height, width);
      if (!p.fits) continue;
      const auto halo =
          static_cast<double>(rounded_up(int64_t{p.vertical.size} * p.horizontal.size, kCpHaloRows));
      const double work = halo * static_cast<double>(s.in_channels / s.groups) +
                          static_cast<double>(kCpRows * p.n_tiles * p.tile_n);
      const double waves = static_cast<double>(quotient_up(p.blocks(s), device.multiprocessors));
      const double time = waves * work * static_cast<double>(p.split_rank_tiles);
      if (time < least) least = time, best = p;
    }
  return best;
}

}  // namespace cnnkern::cuda
