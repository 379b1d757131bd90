// What the kernels of the fused CP convolution are put together from: the 1x1 stage and the two depthwise
// ones, of a tile of positions and 128 bytes of ranks, in shared memory.
#pragma once
#include "cuda/cp_conv2d/plan.h"
#include "cuda/gemm/output.cuh"
#include "cuda/image.cuh"

namespace cnnkern::cuda {

// Where a tile lies: its first position.
struct CpTile {
  int64_t image;
  int y, x;
};

// The tiles that cover all images.
struct CpTiles {
  Divider by_wide, by_high;
  int height, width;  // of one

  template <class Axis>
  explicit CpTiles(const CpTilePlan<Axis>& plan)
      : by_wide(plan.tiles_wide),
        by_high(plan.tiles_high),
        height(static_cast<int>(plan.tile_height)),
        width(static_cast<int>(plan.tile_width)) {}

  __device__ __forceinline__ CpTile tile(int index) const {
    int x, y;
    const int image = by_high.divide(by_wide.divide(index, x), y);
    return {image, y * height, x * width};
  }
};

// The pixels that a tile reads as a source of rows (gemm/rows.cuh): row m is the m-th position.
template <class T, class Axis>
struct Halo {
  Image<T> image;
  const T* data;  // any address that may be read
  int64_t number;
  Axis vertical, horizontal;

  using Row = typename Image<T>::Pixel;
  using Column = int;  // a channel
  __device__ int positions() const { return vertical.size * horizontal.size; }
  __device__ Row row(int64_t m) const {
    const int y = static_cast<int>(m) / horizontal.size, x = static_cast<int>(m) % horizontal.size;
    if (y >= vertical.size) return image.outside();
    return image.pixel(number, vertical.place(y), horizontal.place(x));
  }
  __device__ Column column(int chunk) const { return chunk * kChunkElements<T>; }
  __device__ const T* find(const Row& row, Column c) const { return image.find(row, 0, 0, c); }
  __device__ uint4 gather(const Row& row, Column c) const { return image.gather(row, 0, 0, c); }
};

// What stages 1 to 3 are computed from.
template <class T, class Axis>
struct CpStages {
  Image<T> image;
  Matrix<T> factor;              // of stage 1, (R, channels)
  const T *factor_h, *factor_w;  // (R, kH) and (R, kW)
  Axis vertical, horizontal;
  CpTiles tiles;
  CpMemory memory;
  int group_rank;

  CpStages(const Conv2dShape& s, int64_t rank, const void* x, const void* packed,
           const CpTilePlan<Axis>& plan, const CpMemory& memory)
      : CpStages(s, rank, x, static_cast<const T*>(packed),
                 PackedFactors(s.out_channels, rank, s.in_channels / s.groups, s.kernel_height,
                               s.kernel_width, s.groups, sizeof(T)),
                 plan, memory) {}

  __device__ Halo<T, Axis> halo(const CpTile& tile, int group) const {
    return {image.of_group(group), image.data, tile.image, vertical.of_tile(tile.y),
            horizontal.of_tile(tile.x)};
  }

 private:
  CpStages(const Conv2dShape& s, int64_t rank, const void* x, const T* factors, const PackedFactors& at,
           const CpTilePlan<Axis>& plan, const CpMemory& memory)
      : image(static_cast<const T*>(x), s.in_channels, s.in_height, s.in_width, s.groups, s.channels_last),
        factor{factors, rank / s.groups, static_cast<int>(at.channel_pitch / kChunkElements<T>)},
        factor_h(factors + at.h),
        factor_w(factors + at.w),
        vertical(plan.vertical),
        horizontal(plan.horizontal),
        tiles(plan),
        memory(memory),
        group_rank(static_cast<int>(rank / s.groups)) {}
};

// The four bytes of a row that a lane has in the depthwise stages: one number, or two. Aligned, or they would
// be loaded and stored one by one.
template <class T>
struct alignas(4) Word {
  static constexpr int kNumbers = 4 / static_cast<int>(sizeof(T));
  T numbers[kNumbers];
};
template <class T>
__device__ __forceinline__ Word<T>& word_of(unsigned char* tile, int row, int word) {
  return *reinterpret_cast<Word<T>*>(tile + swizzled(row, word / 4) + word % 4 * 4);
}

// The weights of both depthwise stages for one tile of ranks, as (kH + kW, ranks); zeros beyond the last
// rank.
template <class T, class Axis>
__device__ __forceinline__ void load_taps(const CpStages<T, Axis>& s, int group, int first_rank,
                                          float* taps) {
  const int kernel_height = s.vertical.taps, kernel_width = s.horizontal.taps;
  for (int i = threadIdx.x; i < (kernel_height + kernel_width) * kRowElements<T>; i += kCpThreads) {
    const int tap = i / kRowElements<T>, rank = first_rank + i % kRowElements<T>;
    const int64_t row = int64_t{group} * s.group_rank + rank;
    taps[i] = rank >= s.group_rank  ? 0
              : tap < kernel_height ? to_float(s.factor_h[row * kernel_height + tap])
                                    : to_float(s.factor_w[row * kernel_width + tap - kernel_height]);
  }
}

// Row `row` of `to` becomes the sum of what position `index` of a tile reads along `axis`, each with its
// weights; row_of(position) of `from` has it.
template <class T, class Axis, class RowOf>
__device__ __forceinline__ void sum_taps(const Axis& axis, int index, unsigned char* from, unsigned char* to,
                                         int row, const float* weights, const RowOf& row_of) {
  const int lane = threadIdx.x % 32;
  float sums[Word<T>::kNumbers] = {};
  for (int tap = 0; tap < axis.taps; ++tap) {
    const int position = axis.position(index, tap);
    if (!Axis::kEveryTap && position == kNoPosition) continue;
    const Word<T> word = word_of<T>(from, row_of(position), lane);
    const auto weight =
        reinterpret_cast<const Together<float, Word<T>::kNumbers>*>(weights + tap * kRowElements<T>)[lane];
#pragma unroll
    for (int i = 0; i < Word<T>::kNumbers; ++i)
      sums[i] = fmaf(to_float(word.numbers[i]), weight.numbers[i], sums[i]);
  }
  Word<T> result;
#pragma unroll
  for (int i = 0; i < Word<T>::kNumbers; ++i) result.numbers[i] = from_float<T>(sums[i]);
  word_of<T>(to, row, lane) = result;
}

// The vertical stage of `height` x `columns` positions, a warp for each; `from` has the rows that `axis`
// names.
template <class T, class Axis>
__device__ __forceinline__ void sum_vertically(const Axis& axis, int height, int columns, unsigned char* from,
                                               unsigned char* to, const float* weights) {
  for (int row = threadIdx.x / 32; row < height * columns; row += kCpThreads / 32) {
    const int x = row % columns;
    sum_taps<T>(axis, row / columns, from, to, row, weights,
                [&](int position) { return position * columns + x; });
  }
}

// The horizontal stage of `height` x `width` positions; `from` has `height` rows of those that `axis` names.
template <class T, class Axis>
__device__ __forceinline__ void sum_horizontally(const Axis& axis, int height, int width, unsigned char* from,
                                                 unsigned char* to, const float* weights) {
  for (int row = threadIdx.x / 32; row < height * width; row += kCpThreads / 32) {
    const int first = row / width * axis.size;
    sum_taps<T>(axis, row % width, from, to, row, weights, [&](int position) { return first + position; });
  }
}

// Tiles of stage 1: all halo positions, a tile of ranks.
template <class Math>
using CpStage1 = BlockTile<Math, kCpHaloRows, kRowElements<typename Math::Number>, 4, 2, kCpSlots>;

// Stage 1 of the ranks from `first_rank` on, for the whole halo.
template <class Math, template <class, int, int> class RowsOfHalo, class T, class Axis>
__device__ __forceinline__ void run_stage1(const Halo<T, Axis>& halo, const Matrix<T>& factor, int first_rank,
                                           unsigned char* pipeline, unsigned char* stage1) {
  using Tile = CpStage1<Math>;
  static_assert(Tile::kThreads == kCpThreads);
  const int positions = halo.positions();
  for (int first = 0; first < positions; first += Tile::kM) {
    RowsOfHalo<Halo<T, Axis>, Tile::kM, Tile::kThreads> a(halo, first, 0);
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

// Stages 1 to 3 of a tile for the ranks from `first_rank` on; `stage3` is there for all threads after a
// barrier.
template <class Math, template <class, int, int> class RowsOfHalo, class T, class Axis>
__device__ __forceinline__ void run_stages(const CpStages<T, Axis>& s, const CpTile& tile, int group,
                                           int first_rank, unsigned char* memory, unsigned char* stage3) {
  const Halo<T, Axis> halo = s.halo(tile, group);
  auto* const taps = reinterpret_cast<float*>(memory + s.memory.taps);
  unsigned char* const stage1 = memory + s.memory.stage1;
  unsigned char* const stage2 = memory + s.memory.stage2;
  run_stage1<Math, RowsOfHalo>(halo, s.factor.of_group(group), first_rank, memory + s.memory.pipeline,
                               stage1);
  load_taps(s, group, first_rank, taps);
  __syncthreads();
  sum_vertically<T>(halo.vertical, s.tiles.height, halo.horizontal.size, stage1, stage2, taps);
  __syncthreads();
  sum_horizontally<T>(halo.horizontal, s.tiles.height, s.tiles.width, stage2, stage3,
                      taps + halo.vertical.taps * kRowElements<T>);
}

}  // namespace cnnkern::cuda
