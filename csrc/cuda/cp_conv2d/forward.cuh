// The kernel of the fused CP convolution: see cp_conv2d.h for the idea. Over the BackwardAxis it is the
// gradient of x, with the factors in each other's places.
#pragma once
#include "cuda/cp_conv2d/kernels.h"
#include "cuda/cp_conv2d/stages.cuh"

namespace cnnkern::cuda {

template <class T, class Axis>
struct CpArguments {
  CpStages<T, Axis> stages;
  Matrix<T> factor_k;
  Output<T> output;
  Divider by_n_parts, by_splits, by_groups;
  int out_height, out_width;
  int rank_tiles, split_rank_tiles;
  int n_tiles;  // of a block
};

// Tiles of stage 4.
template <class Math, int kN>
using CpStage4 = BlockTile<Math, kCpRows, kN, 2, 4, kCpSlots>;

// The kernel's parts of k are tiles of ranks.
template <class Math, int kN, template <class, int, int> class RowsOfHalo, class Axis>
__global__ void __launch_bounds__(kCpThreads, 2)
    cp_forward(const __grid_constant__ CpArguments<typename Math::Number, Axis> a) {
  using T = typename Math::Number;
  using Tile = CpStage4<Math, kN>;
  static_assert(Tile::kThreads == kCpThreads);
  unsigned char* const memory = shared_memory();
  unsigned char* const pipeline = memory + a.stages.memory.pipeline;
  int split, group;
  const int rest = a.by_splits.divide(a.by_n_parts.quotient(static_cast<int>(blockIdx.x)), split);
  const CpTile tile = a.stages.tiles.tile(a.by_groups.divide(rest, group));

  const int first_tile = split * a.split_rank_tiles;
  const int rank_tiles = min(a.split_rank_tiles, a.rank_tiles - first_tile);
  for (int i = 0; i < rank_tiles; ++i)
    run_stages<Math, RowsOfHalo>(a.stages, tile, group, (first_tile + i) * kRowElements<T>, memory,
                                 memory + i * kCpRows * kRowBytes);

  const CpTiles& tiles = a.stages.tiles;
  const auto offset_of = [&](int row) {
    const int y = tile.y + tiles.row(row), x = tile.x + tiles.column(row);
    if (row >= tiles.height * tiles.width || y >= a.out_height || x >= a.out_width) return kNowhere;
    return a.output.offset(tile.image, int64_t{y} * a.out_width + x);
  };
  const Matrix<T> factor_k = a.factor_k.of_group(group);
  int n_part;  // not earlier, or it would take a register in all stages
  a.by_n_parts.divide(static_cast<int>(blockIdx.x), n_part);
  int first_column = n_part * a.n_tiles * kN;
  for (int left = a.n_tiles; left > 0 && first_column < a.output.group_channels; --left) {
    ResidentRows<Tile::kM> rows(memory);
    CopiedRows<Matrix<T>, kN, kCpThreads> factor(factor_k, first_column, first_tile * kChunks);
    typename Tile::Sums sums;
    Tile::accumulate(sums, rows, factor, rank_tiles, pipeline);
    store_tile<Tile>(sums, a.output, first_column, group, split, offset_of,
                     reinterpret_cast<float*>(pipeline));
    __syncthreads();  // the pipeline is free
    first_column += kN;
  }
}

template <class T, class Axis>
CpArguments<T, Axis> cp_arguments(const CpConv2dCall& call, const CpPlan<Axis>& plan) {
  const Conv2dShape& s = call.shape;
  const PackedFactors packed(s.out_channels, call.rank, s.in_channels / s.groups, s.kernel_height,
                             s.kernel_width, s.groups, sizeof(T));
  const int64_t run = plan.tile_width % kVector == 0 ? s.out_width : 1;
  Output<T> output(static_cast<T*>(call.y), static_cast<const T*>(call.bias), s.batch,
                   s.out_height * s.out_width, s.out_channels, s.groups, s.channels_last, false, run);
  if (plan.splits > 1) output.partial = call.scratch;
  return {
      CpStages<T, Axis>(s, call.rank, call.x, call.packed, plan, plan.memory),
      {static_cast<const T*>(call.packed) + packed.k, s.out_channels / s.groups,
       static_cast<int>(packed.rank_pitch / kChunkElements<T>)},
      output,
      Divider(plan.n_parts),
      Divider(plan.splits),
      Divider(s.groups),
      static_cast<int>(s.out_height),
      static_cast<int>(s.out_width),
      static_cast<int>(plan.rank_tiles),
      static_cast<int>(plan.split_rank_tiles),
      static_cast<int>(plan.n_tiles),
  };
}

template <class Math, class Axis>
cudaError_t cp_conv2d_forward(const CpConv2dCall& call, const CpPlan<Axis>& plan, cudaStream_t stream) {
  const auto arguments = cp_arguments<typename Math::Number>(call, plan);
  const auto run = [&](auto* kernel) {
    return launch(kernel, plan.blocks(call.shape), kCpThreads, plan.memory.size, stream, arguments);
  };
  const bool pieces = arguments.stages.image.in_pieces(), narrow = plan.tile_n == 64;
  const cudaError_t error = pieces   ? narrow ? run(cp_forward<Math, 64, CopiedRows, Axis>)
                                              : run(cp_forward<Math, 128, CopiedRows, Axis>)
                            : narrow ? run(cp_forward<Math, 64, GatheredRows, Axis>)
                                     : run(cp_forward<Math, 128, GatheredRows, Axis>);
  if (error != cudaSuccess || plan.splits == 1) return error;
  return launch_add_partial_sums(arguments.output, plan.splits, stream);
}

}  // namespace cnnkern::cuda
