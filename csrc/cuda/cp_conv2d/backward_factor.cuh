// The gradient of the last factor of a CP convolution: of factor_k over the ForwardAxis, of factor_c over the
// BackwardAxis.
#pragma once
#include "cuda/cp_conv2d/backward_plan.h"
#include "cuda/cp_conv2d/stages.cuh"

namespace cnnkern::cuda {

// The positions of a tile that are inside of an image.
struct TilePositions {
  const CpTiles& tiles;
  int height, width;  // of what is inside

  __device__ bool find(int position, int& y, int& x) const {
    y = tiles.row(position), x = tiles.column(position);
    return y < height && x < width;
  }
};

// The pixels of a tile as a source of rows (gemm/rows.cuh): a row for each channel.
template <class T>
struct ChannelRows {
  Image<T> image;
  CpTile tile;
  TilePositions positions;

  using Row = const T*;  // the tile's first pixel, or null where there is no such channel
  using Column = int;    // the first position
  __device__ Row row(int64_t channel) const {
    return image.find(image.pixel(tile.image, tile.y, tile.x), 0, 0, static_cast<int>(channel));
  }
  __device__ Column column(int chunk) const { return chunk * kChunkElements<T>; }
  __device__ uint4 gather(Row row, Column first) const {
    union {
      uint4 chunk;
      T numbers[kChunkElements<T>];
    } gathered;
    gathered.chunk = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kChunkElements<T>; ++i) {
      int y, x;
      if (positions.find(first + i, y, x) && row)
        gathered.numbers[i] = row[y * image.row_stride + x * image.pixel_stride];
    }
    return gathered.chunk;
  }
};

// Stage 3 of the tile, turned the same way: a row for each rank.
template <class T>
struct RankRows {
  const unsigned char* stage3;
  TilePositions positions;

  using Row = int;
  using Column = int;
  __device__ Row row(int64_t rank) const { return static_cast<int>(rank); }
  __device__ Column column(int chunk) const { return chunk * kChunkElements<T>; }
  __device__ uint4 gather(Row rank, Column first) const {
    union {
      uint4 chunk;
      T numbers[kChunkElements<T>];
    } gathered;
    gathered.chunk = make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int i = 0; i < kChunkElements<T>; ++i) {
      int y, x;
      if (!positions.find(first + i, y, x)) continue;
      const unsigned char* const chunk = stage3 + swizzled(first + i, rank / kChunkElements<T>);
      gathered.numbers[i] = reinterpret_cast<const T*>(chunk)[rank % kChunkElements<T>];
    }
    return gathered.chunk;
  }
};

template <class T, class Axis>
struct CpFactorArguments {
  CpStages<T, Axis> stages;
  Image<T> other;    // whose products with stage 3 are summed
  Output<T> output;  // rows are channels, columns ranks
  Divider by_rank_tiles, by_n_parts, by_groups;
  int tiles, split_tiles;  // of positions
  int position_tiles;      // of 128 bytes, in a tile
};

template <class Math, template <class, int, int> class RowsOfHalo, class Axis>
__global__ void __launch_bounds__(kCpThreads, 1)
    cp_backward_factor(const __grid_constant__ CpFactorArguments<typename Math::Number, Axis> a) {
  using T = typename Math::Number;
  using Tile = CpStage1<Math>;
  unsigned char* const memory = shared_memory();
  unsigned char* const pipeline = memory + a.stages.memory.pipeline;
  int rank_tile, n_part, group;
  int rest = a.by_rank_tiles.divide(static_cast<int>(blockIdx.x), rank_tile);
  rest = a.by_n_parts.divide(rest, n_part);
  const int split = a.by_groups.divide(rest, group);
  const int first_rank = rank_tile * kRowElements<T>;
  const int first_channel = n_part * static_cast<int>(kCpParts) * Tile::kM;
  const Image<T> other = a.other.of_group(group);

  typename Tile::Sums sums[kCpParts];
  const int end = min((split + 1) * a.split_tiles, a.tiles);
  for (int i = split * a.split_tiles; i < end; ++i) {
    const CpTile tile = a.stages.tiles.tile(i);
    run_stages<Math, RowsOfHalo>(a.stages, tile, group, first_rank, memory, memory);
    const TilePositions inside{a.stages.tiles, min(a.stages.tiles.height, other.height - tile.y),
                               min(a.stages.tiles.width, other.width - tile.x)};
    const ChannelRows<T> channels{other, tile, inside};
    const RankRows<T> ranks{memory, inside};
#pragma unroll
    for (int part = 0; part < kCpParts; ++part) {
      const int first = first_channel + part * Tile::kM;
      if (first >= other.channels) break;
      GatheredRows<ChannelRows<T>, Tile::kM, kCpThreads> rows(channels, first, 0);
      GatheredRows<RankRows<T>, Tile::kN, kCpThreads> columns(ranks, 0, 0);
      Tile::accumulate(sums[part], rows, columns, a.position_tiles, pipeline);
    }
  }
#pragma unroll
  for (int part = 0; part < kCpParts; ++part) {
    const int first = first_channel + part * Tile::kM;
    if (first >= other.channels) break;
    const auto offset_of = [&](int row) {
      return first + row < other.channels ? a.output.offset(0, first + row) : kNowhere;
    };
    store_tile<Tile>(sums[part], a.output, first_rank, group, split, offset_of,
                     reinterpret_cast<float*>(pipeline));
    __syncthreads();  // the pipeline is free
  }
}

// The sums for the last factor of the convolution of shape `s` that reads `x`; `other` is its output's
// gradient.
template <class Math, class Axis>
cudaError_t launch_cp_factor(const Conv2dShape& s, int64_t rank, const void* x, const void* packed,
                             const void* other, Output<typename Math::Number> output, float* scratch,
                             const Device& device, cudaStream_t stream) {
  using T = typename Math::Number;
  const CpSumPlan<Axis> plan = plan_cp_factor<Axis>(s, rank, sizeof(T), device);
  if (!plan.fits) return cudaErrorInvalidConfiguration;
  if (plan.splits > 1) output.partial = scratch;
  const CpFactorArguments<T, Axis> arguments{
      CpStages<T, Axis>(s, rank, x, packed, plan, plan.memory),
      Image<T>(static_cast<const T*>(other), s.out_channels, s.out_height, s.out_width, s.groups,
               s.channels_last),
      output,
      Divider(plan.rank_tiles),
      Divider(plan.n_parts),
      Divider(s.groups),
      static_cast<int>(plan.tiles),
      static_cast<int>(plan.split_tiles),
      static_cast<int>(quotient_up(plan.tile_height * plan.tile_width, kRowElements<T>)),
  };
  const auto run = [&](auto* kernel) {
    return launch(kernel, plan.blocks(s), kCpThreads, plan.memory.size, stream, arguments);
  };
  const cudaError_t error = arguments.stages.image.in_pieces()
                                ? run(cp_backward_factor<Math, CopiedRows, Axis>)
                                : run(cp_backward_factor<Math, GatheredRows, Axis>);
  if (error != cudaSuccess || plan.splits == 1) return error;
  return launch_add_partial_sums(output, plan.splits, stream);
}

}  // namespace cnnkern::cuda
