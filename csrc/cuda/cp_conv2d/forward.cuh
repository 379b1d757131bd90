// The kernel of the fused CP convolution: see cp_conv2d.h for the idea.
#pragma once
#include "cuda/cp_conv2d/kernels.h"
#include "cuda/gemm/output.cuh"
#include "cuda/image.cuh"

namespace cnnkern::cuda {

// The pixels of a tile with its halo as a source of rows (gemm/rows.cuh): row m is the m-th position.
template <class T>
struct Halo {
  Image<T> image;
  const T* data;  // any address that may be read
  typename Image<T>::Pixel first;
  HaloAxis vertical, horizontal;

  using Row = typename Image<T>::Pixel;
  using Column = int;  // a channel
  __device__ Row row(int64_t m) const {
    const int y = static_cast<int>(m) / horizontal.size, x = static_cast<int>(m) % horizontal.size;
    if (y >= vertical.size) return image.outside();
    return {first.image, first.y + vertical.place(y), first.x + horizontal.place(x)};
  }
  __device__ Column column(int chunk) const { return chunk * kChunkElements<T>; }
  __device__ const T* find(const Row& row, Column c) const { return image.find(row, 0, 0, c); }
  __device__ uint4 gather(const Row& row, Column c) const { return image.gather(row, 0, 0, c); }
};

template <class T>
struct CpArguments {
  Image<T> image;
  Matrix<T> factor_c, factor_k;
  const T *factor_h, *factor_w;  // (R, kH) and (R, kW)
  Output<T> output;
  HaloAxis vertical, horizontal;
  CpMemory memory;
  Divider by_n_parts, by_splits, by_tiles_wide, by_tiles_high, by_groups;
  int tile_height, tile_width, out_height, out_width;
  int stride_height, stride_width, pad_height, pad_width;
  int group_rank, rank_tiles, split_rank_tiles;
  int n_tiles;  // of a block
};

// The four bytes of a row that a lane has in the depthwise stages: one number, or two.
template <class T>
struct Word {
  static constexpr int kNumbers = 4 / static_cast<int>(sizeof(T));
  T numbers[kNumbers];
};
template <class T>
__device__ __forceinline__ Word<T>& word_of(unsigned char* tile, int row, int word) {
  return *reinterpret_cast<Word<T>*>(tile + swizzled(row, word / 4) + word % 4 * 4);
}

// What a block is to compute.
struct CpPart {
  int n_part, split, x, y, group;  // x and y of the first output
  int64_t image;
};
template <class T>
__device__ __forceinline__ CpPart part_of(const CpArguments<T>& arguments, int block) {
  CpPart part;
  int tile_x, tile_y;
  int rest = arguments.by_n_parts.divide(block, part.n_part);
  rest = arguments.by_splits.divide(rest, part.split);
  rest = arguments.by_tiles_wide.divide(rest, tile_x);
  rest = arguments.by_tiles_high.divide(rest, tile_y);
  part.image = arguments.by_groups.divide(rest, part.group);
  part.x = tile_x * arguments.tile_width, part.y = tile_y * arguments.tile_height;
  return part;
}

// The weights of both depthwise stages for one tile of ranks, as (kH + kW, ranks); zeros beyond the last
// rank.
template <class T>
__device__ __forceinline__ void load_taps(const CpArguments<T>& a, int group, int first_rank, float* taps) {
  const int kernel_height = a.vertical.taps, kernel_width = a.horizontal.taps;
  for (int i = threadIdx.x; i < (kernel_height + kernel_width) * kRowElements<T>; i += kCpThreads) {
    const int tap = i / kRowElements<T>, rank = first_rank + i % kRowElements<T>;
    const int64_t row = int64_t{group} * a.group_rank + rank;
    taps[i] = rank >= a.group_rank  ? 0
              : tap < kernel_height ? to_float(a.factor_h[row * kernel_height + tap])
                                    : to_float(a.factor_w[row * kernel_width + tap - kernel_height]);
  }
}

// Row `row` of `to` becomes the sum of rows position_of(tap) of `from`, each with its weights.
template <class T, class PositionOf>
__device__ __forceinline__ void sum_taps(unsigned char* from, unsigned char* to, int row, int taps,
                                         const float* weights, const PositionOf& position_of) {
  const int lane = threadIdx.x % 32;
  float sums[Word<T>::kNumbers] = {};
  for (int tap = 0; tap < taps; ++tap) {
    const Word<T> word = word_of<T>(from, position_of(tap), lane);
#pragma unroll
    for (int i = 0; i < Word<T>::kNumbers; ++i)
      sums[i] = fmaf(to_float(word.numbers[i]), weights[tap * kRowElements<T> + lane * Word<T>::kNumbers + i],
                     sums[i]);
  }
  Word<T> result;
#pragma unroll
  for (int i = 0; i < Word<T>::kNumbers; ++i) result.numbers[i] = from_float<T>(sums[i]);
  word_of<T>(to, row, lane) = result;
}

// Stages 2 and 3 of one tile of ranks, a warp for each row; `stage1` and the taps are there for all threads.
template <class T>
__device__ __forceinline__ void run_depthwise(const CpArguments<T>& a, unsigned char* stage1,
                                              unsigned char* stage2, unsigned char* stage3,
                                              const float* taps) {
  const int warp = threadIdx.x / 32, columns = a.horizontal.size;
  constexpr int kWarps = kCpThreads / 32;
  for (int row = warp; row < a.tile_height * columns; row += kWarps) {
    const int y = row / columns, x = row % columns;
    sum_taps<T>(stage1, stage2, row, a.vertical.taps, taps,
                [&](int tap) { return a.vertical.position(y, tap) * columns + x; });
  }
  __syncthreads();
  const float* const horizontal_taps = taps + a.vertical.taps * kRowElements<T>;
  for (int row = warp; row < a.tile_height * a.tile_width; row += kWarps) {
    const int y = row / a.tile_width, x = row % a.tile_width;
    sum_taps<T>(stage2, stage3, row, a.horizontal.taps, horizontal_taps,
                [&](int tap) { return y * columns + a.horizontal.position(x, tap); });
  }
}

// Tiles of stage 1: all halo positions, a tile of ranks.
template <class Math>
using CpStage1 = BlockTile<Math, kCpHaloRows, kRowElements<typename Math::Number>, 4, 2, kCpSlots>;
// And of stage 4.
template <class Math, int kN>
using CpStage4 = BlockTile<Math, kCpRows, kN, 2, 4, kCpSlots>;

// Stage 1 of the ranks from `first_rank` on, for the whole halo.
template <class Math, template <class, int, int> class RowsOfHalo, class T>
__device__ __forceinline__ void run_stage1(const Halo<T>& halo, const Matrix<T>& factor, int first_rank,
                                           unsigned char* pipeline, unsigned char* stage1) {
  using Tile = CpStage1<Math>;
  const int positions = halo.vertical.size * halo.horizontal.size;
  for (int first = 0; first < positions; first += Tile::kM) {
    RowsOfHalo<Halo<T>, Tile::kM, Tile::kThreads> a(halo, first, 0);
    CopiedRows<Matrix<T>, Tile::kN, Tile::kThreads> b(factor, first_rank, 0);
    typename Tile::Sums sums;
    Tile::accumulate(sums, a, b, (factor.chunks + kChunks - 1) / kChunks, pipeline);
    Tile::visit(sums, [&](int row, int column, float left, float right) {
      if (first + row >= positions) return;
      struct alignas(2 * sizeof(T)) {
        T left, right;
      } pair{from_float<T>(left), from_float<T>(right)};
      unsigned char* const at = stage1 + swizzled(first + row, column / kChunkElements<T>);
      *reinterpret_cast<decltype(pair)*>(at + column % kChunkElements<T> * static_cast<int>(sizeof(T))) =
          pair;
    });
  }
}

// The kernel's parts of k are tiles of ranks.
template <class Math, int kN, template <class, int, int> class RowsOfHalo>
__global__ void __launch_bounds__(kCpThreads)
    cp_forward(const __grid_constant__ CpArguments<typename Math::Number> a) {
  using T = typename Math::Number;
  using Tile = CpStage4<Math, kN>;
  static_assert(Tile::kThreads == kCpThreads && CpStage1<Math>::kThreads == kCpThreads);
  unsigned char* const memory = shared_memory();
  unsigned char* const pipeline = memory + a.memory.pipeline;
  auto* const taps = reinterpret_cast<float*>(memory + a.memory.taps);
  const CpPart part = part_of(a, static_cast<int>(blockIdx.x));
  const Image<T> image = a.image.of_group(part.group);
  const Halo<T> halo{
      image, a.image.data,
      image.pixel(part.image, part.y * a.stride_height - a.pad_height, part.x * a.stride_width - a.pad_width),
      a.vertical, a.horizontal};
  const Matrix<T> factor_c = a.factor_c.of_group(part.group), factor_k = a.factor_k.of_group(part.group);

  const int first_tile = part.split * a.split_rank_tiles;
  const int rank_tiles = min(a.split_rank_tiles, a.rank_tiles - first_tile);
  for (int tile = 0; tile < rank_tiles; ++tile) {
    const int first_rank = (first_tile + tile) * kRowElements<T>;
    run_stage1<Math, RowsOfHalo>(halo, factor_c, first_rank, pipeline, memory + a.memory.stage1);
    load_taps(a, part.group, first_rank, taps);
    __syncthreads();
    run_depthwise(a, memory + a.memory.stage1, memory + a.memory.stage2, memory + tile * kCpRows * kRowBytes,
                  taps);
  }
  __syncthreads();

  const auto offset_of = [&](int row) {
    const int y = part.y + row / a.tile_width, x = part.x + row % a.tile_width;
    if (row >= a.tile_height * a.tile_width || y >= a.out_height || x >= a.out_width) return kNowhere;
    return a.output.offset(part.image, int64_t{y} * a.out_width + x);
  };
  for (int i = 0; i < a.n_tiles; ++i) {
    const int first_column = (part.n_part * a.n_tiles + i) * kN;
    if (first_column >= a.output.group_channels) break;
    ResidentRows<Tile::kM> rows(memory);
    CopiedRows<Matrix<T>, kN, kCpThreads> factor(factor_k, first_column, first_tile * kChunks);
    typename Tile::Sums sums;
    Tile::accumulate(sums, rows, factor, rank_tiles, pipeline);
    store_tile<Tile>(sums, a.output, first_column, part.group, part.split, offset_of,
                     reinterpret_cast<float*>(pipeline));
    __syncthreads();  // the pipeline is free
  }
}

template <class T>
CpArguments<T> cp_arguments(const CpConv2dCall& call, const CpPlan& plan) {
  const Conv2dShape& s = call.shape;
  const PackedFactors packed(s.out_channels, call.rank, s.in_channels / s.groups, s.kernel_height,
                             s.kernel_width, s.groups, sizeof(T));
  const auto* const factors = static_cast<const T*>(call.packed);
  const int64_t run = plan.tile_width % kVector == 0 ? s.out_width : 1;
  Output<T> output(static_cast<T*>(call.y), static_cast<const T*>(call.bias), s.batch,
                   s.out_height * s.out_width, s.out_channels, s.groups, s.channels_last, false, run);
  if (plan.splits > 1) output.partial = call.scratch;
  const auto chunks = [](int64_t pitch) { return static_cast<int>(pitch / kChunkElements<T>); };
  return {
      Image<T>(static_cast<const T*>(call.x), s.in_channels, s.in_height, s.in_width, s.groups,
               s.channels_last),
      {factors, call.rank / s.groups, chunks(packed.channel_pitch)},
      {factors + packed.k, s.out_channels / s.groups, chunks(packed.rank_pitch)},
      factors + packed.h,
      factors + packed.w,
      output,
      plan.vertical,
      plan.horizontal,
      plan.memory,
      Divider(plan.n_parts),
      Divider(plan.splits),
      Divider(plan.tiles_wide),
      Divider(plan.tiles_high),
      Divider(s.groups),
      static_cast<int>(plan.tile_height),
      static_cast<int>(plan.tile_width),
      static_cast<int>(s.out_height),
      static_cast<int>(s.out_width),
      static_cast<int>(s.stride_height),
      static_cast<int>(s.stride_width),
      static_cast<int>(s.pad_height),
      static_cast<int>(s.pad_width),
      static_cast<int>(call.rank / s.groups),
      static_cast<int>(plan.rank_tiles),
      static_cast<int>(plan.split_rank_tiles),
      static_cast<int>(plan.n_tiles),
  };
}

template <class Math>
cudaError_t cp_conv2d_forward(const CpConv2dCall& call, const CpPlan& plan, cudaStream_t stream) {
  const auto arguments = cp_arguments<typename Math::Number>(call, plan);
  const auto run = [&](auto* kernel) {
    return launch(kernel, plan.blocks(call.shape), kCpThreads, plan.memory.size, stream, arguments);
  };
  const bool pieces = arguments.image.in_pieces(), narrow = plan.tile_n == 64;
  const cudaError_t error =
      pieces   ? narrow ? run(cp_forward<Math, 64, CopiedRows>) : run(cp_forward<Math, 128, CopiedRows>)
      : narrow ? run(cp_forward<Math, 64, GatheredRows>)
               : run(cp_forward<Math, 128, GatheredRows>);
  if (error != cudaSuccess || plan.splits == 1) return error;
  return launch_add_partial_sums(arguments.output, plan.splits, stream);
}

}  // namespace cnnkern::cuda
