// How the sums over all positions, which the gradients of the factors are, are cut into blocks.
#pragma once
#include "cuda/cp_conv2d/backward.h"
#include "cuda/cp_conv2d/plan.h"

namespace cnnkern::cuda {

constexpr int64_t kCpSumRows = 128;  // positions of a tile, at most
constexpr int64_t kCpParts = 2;      // tiles of kCpHaloRows channels whose sums a block holds

template <class Axis>
struct CpSumPlan : CpTilePlan<Axis> {
  bool fits = false;
  int64_t rank_tiles = 0;                          // of 128 bytes of ranks; a block has one
  int64_t n_parts = 0;                             // blocks that share the channels
  int64_t tiles = 0, splits = 0, split_tiles = 0;  // of positions: all, and of a block
  CpMemory memory;

  int64_t blocks(const Conv2dShape& s) const { return rank_tiles * n_parts * s.groups * splits; }
};

// The tile whose blocks do the least multiplications one after the other; `memory_of` says what a tile takes,
// and `work_of` its multiplications for one rank after stage 1.
template <class Axis, class MemoryOf, class WorkOf>
CpSumPlan<Axis> plan_cp_sum(const Conv2dShape& s, int64_t rank, int64_t number_bytes, int64_t n_parts,
                            const Device& device, const MemoryOf& memory_of, const WorkOf& work_of) {
  CpSumPlan<Axis> best;
  double least = std::numeric_limits<double>::max();
  for_each_cp_tile(kCpSumRows, [&](int64_t height, int64_t width) {
    CpSumPlan<Axis> p{{s, height, width}};
    p.memory = memory_of(p);
    p.fits = p.memory.size <= device.shared_bytes;
    if (!p.fits) return;
    p.rank_tiles = quotient_up(rank / s.groups, 128 / number_bytes);
    p.n_parts = n_parts;
    p.tiles = s.batch * p.tiles_high * p.tiles_wide;
    const int64_t wanted = device.multiprocessors / (p.rank_tiles * n_parts * s.groups);
    p.split_tiles = quotient_up(p.tiles, std::clamp<int64_t>(wanted, 1, p.tiles));
    p.splits = quotient_up(p.tiles, p.split_tiles);
    const double waves = static_cast<double>(quotient_up(p.blocks(s), device.multiprocessors));
    const double time = waves * static_cast<double>(p.split_tiles) * (p.stage1_work(s) + work_of(p));
    if (time < least || (time == least && p.memory.size < best.memory.size)) least = time, best = p;
  });
  return best;
}

// The gradient of the last factor of a convolution of shape `s`.
template <class Axis>
CpSumPlan<Axis> plan_cp_factor(const Conv2dShape& s, int64_t rank, int64_t number_bytes,
                               const Device& device) {
  const int64_t ranks = 128 / number_bytes, pitch = cp_pitch(number_bytes);
  const int64_t channels = s.out_channels / s.groups;
  const int64_t of_block = std::min(kCpParts * kCpHaloRows, rounded_up(channels, kCpHaloRows));
  return plan_cp_sum<Axis>(
      s, rank, number_bytes, quotient_up(channels, kCpParts * kCpHaloRows), device,
      [&](const CpTilePlan<Axis>& p) {
        const int64_t positions = p.tile_height * p.tile_width;
        return CpMemory(positions * 128, p.halo() * pitch, p.tile_height * p.horizontal.size * pitch,
                        (s.kernel_height + s.kernel_width) * ranks * 4,
                        std::max({cp_stage1_bytes(s.in_channels / s.groups, number_bytes),
                                  cp_pipeline_bytes(quotient_up(positions, ranks), kCpHaloRows + ranks),
                                  cp_staging_bytes(kCpHaloRows, ranks)}));
      },
      [&](const CpTilePlan<Axis>& p) {
        return static_cast<double>(rounded_up(p.tile_height * p.tile_width, ranks) * of_block);
      });
}

// Those of the depthwise factors. Stage 2 is there in both orders, and so are the sums beside the weights.
inline CpSumPlan<ForwardAxis> plan_cp_taps(const Conv2dShape& s, int64_t rank, int64_t number_bytes,
                                           const Device& device) {
  const int64_t ranks = 128 / number_bytes, pitch = cp_pitch(number_bytes);
  return plan_cp_sum<ForwardAxis>(
      s, rank, number_bytes, 1, device,
      [&](const CpTilePlan<ForwardAxis>& p) {
        return CpMemory(p.tile_height * p.tile_width * pitch, p.halo() * pitch,
                        (p.tile_height * p.horizontal.size + p.vertical.size * p.tile_width) * pitch,
                        2 * (s.kernel_height + s.kernel_width) * ranks * 4,
                        cp_stage1_bytes(std::max(s.in_channels, s.out_channels) / s.groups, number_bytes));
      },
      [&](const CpTilePlan<ForwardAxis>&) {
        return static_cast<double>(kCpHaloRows * (s.out_channels / s.groups));
      });
}

}  // namespace cnnkern::cuda
