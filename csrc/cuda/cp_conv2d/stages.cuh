// What the kernels of the fused CP convolution are put together from: the 1x1 stage and the two depthwise
// ones, of a tile of positions and 128 bytes of ranks, in shared memory.
#pragma once
#include <bit>
#include <type_traits>

#include "cuda/cp_conv2d/plan.h"
#include "cuda/gemm/output.cuh"
#include "cuda/image.cuh"

namespace cnnkern::cuda {

// Where a tile lies: its first position.
struct CpTile {
  int image, y, x;
};

// The tiles that cover all images. Their widths are powers of two.
struct CpTiles {
  Divider by_wide, by_high;
  int height, width;  // of one
  int log2_width;

  template <class Axis>
  explicit CpTiles(const CpTilePlan<Axis>& plan)
      : by_wide(plan.tiles_wide),
        by_high(plan.tiles_high),
        height(static_cast<int>(plan.tile_height)),
        width(static_cast<int>(plan.tile_width)),
        log2_width(std::countr_zero(static_cast<uint64_t>(plan.tile_width))) {}

  __device__ __forceinline__ CpTile tile(int index) const {
    int x, y;
    const int image = by_high.divide(by_wide.divide(index, x), y);
    return {image, y * height, x * width};
  }
  // Where the tile's position `index` lies in it.
  __device__ int row(int index) const { return index >> log2_width; }
  __device__ int column(int index) const { return index & (width - 1); }
};

// The pixels that a tile reads as a source of rows (gemm/rows.cuh): row m is the m-th position.
template <class T, class Axis>
struct Halo {
  Image<T> image;
  const T* data;  // any address that may be read
  int64_t number;
  Axis vertical, horizontal;

  using Row = const T*;  // the pixel's first channel, or null outside
  using Column = int;    // a channel
  __device__ int positions() const { return vertical.size * horizontal.size; }
  __device__ Row row(int64_t m) const {
    int x;
    const int y = horizontal.by_size.divide(static_cast<int>(m), x);
    if (y >= vertical.size) return nullptr;
    return image.find(image.pixel(number, vertical.place(y), horizontal.place(x)), 0, 0, 0);
  }
  __device__ Column column(int chunk) const { return chunk * kChunkElements<T>; }
  __device__ const T* find(Row row, Column c) const { return row && c < image.channels ? row + c : nullptr; }
  __device__ uint4 gather(Row row, Column c) const {
    return image.gather(row && c < image.channels ? row + c * image.channel_stride : nullptr, c);
  }
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

  __device__ __forceinline__ float number(int i) const {
    if constexpr (std::is_same_v<T, Bfloat16>)
      if (i == 1) return upper_bfloat16_to_float(reinterpret_cast<const uint32_t&>(*this));
    return to_float(numbers[i]);
  }
};

template <class T>
__device__ __forceinline__ Word<T> packed(const float (&numbers)[Word<T>::kNumbers]) {
  Word<T> word;
#pragma unroll
  for (int i = 0; i < Word<T>::kNumbers; ++i) word.numbers[i] = from_float<T>(numbers[i]);
  return word;
}

// Rows of stages 1 and 2.
template <class T>
struct StageRows {
  static constexpr int kPitch = cp_pitch(sizeof(T)), kWords = kPitch / sizeof(Word<T>);
  unsigned char* data;

  __device__ __forceinline__ Word<T>& word(int row) const {
    return reinterpret_cast<Word<T>*>(data)[row * kWords + static_cast<int>(threadIdx.x) % 32];
  }
};
// Rows of stage 3, which the last product reads.
template <class T>
struct ProductRows {
  unsigned char* data;

  __device__ __forceinline__ Word<T>& word(int row) const {
    const int lane = threadIdx.x % 32;
    return reinterpret_cast<Word<T>*>(data + swizzled(row, lane / 4))[lane % 4];
  }
};

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

// The first `count` of kCpTogether rows of `to` from `first` on become the sums of what they read along
// `axis`, each with its weights, which are loaded once for all of them; row_of(i, tap) of `from` has what row
// i reads.
template <class T, class Axis, class To, class RowOf>
__device__ __forceinline__ void sum_taps(const Axis& axis, const StageRows<T>& from, const To& to, int first,
                                         int count, const float* weights, const RowOf& row_of) {
  const int lane = threadIdx.x % 32;
  float sums[kCpTogether][Word<T>::kNumbers] = {};
  // Where every tap leads somewhere, what neighbours read lies equally far apart, and what taps read too.
  const Word<T>* words[kCpTogether];
  const int of_row = (row_of(1, 0) - row_of(0, 0)) * StageRows<T>::kWords;
  const int of_tap = (row_of(0, 1) - row_of(0, 0)) * StageRows<T>::kWords;
#pragma unroll
  for (int i = 0; i < kCpTogether; ++i) words[i] = &from.word(row_of(0, 0)) + min(i, count - 1) * of_row;
  const auto* weight = reinterpret_cast<const Together<float, Word<T>::kNumbers>*>(weights) + lane;
#pragma unroll 1
  for (int tap = 0; tap < axis.taps; ++tap) {
    const auto factors = *weight;
#pragma unroll
    for (int i = 0; i < kCpTogether; ++i) {
      // without a branch, the loads are under way together
      const int row = row_of(min(i, count - 1), tap);
      if (!Axis::kEveryTap && row == kNoPosition) continue;
      const Word<T> word = Axis::kEveryTap ? *words[i] : from.word(row);
#pragma unroll
      for (int n = 0; n < Word<T>::kNumbers; ++n)
        sums[i][n] = fmaf(word.number(n), factors.numbers[n], sums[i][n]);
      words[i] += of_tap;
    }
    weight += 32;
  }
#pragma unroll
  for (int i = 0; i < kCpTogether; ++i) {
    const Word<T> word = packed<T>(sums[i]);
    if (i < count) to.word(first + i) = word;
  }
}

// As sum_taps where kTaps neighbours are read: every one of them is loaded once for all positions of a group,
// and the weights once for all groups. locate(group, read, written) names the first rows, of which the next
// ones are `of_read` and `of_written` away.
template <int kTaps, class T, class Axis, class To, class Locate>
__device__ __forceinline__ void sum_windows(const StageRows<T>& from, const To& to, int groups, int of_read,
                                            int of_written, const float* weights, const Locate& locate) {
  constexpr int kNumbers = Word<T>::kNumbers;
  Together<float, kNumbers> factors[kTaps];
#pragma unroll
  for (int tap = 0; tap < kTaps; ++tap)
    factors[Axis::kReversed ? kTaps - 1 - tap : tap] =
        reinterpret_cast<const Together<float, kNumbers>*>(weights + tap * kRowElements<T>)[threadIdx.x % 32];
  for (int group = threadIdx.x / 32; group < groups; group += kCpThreads / 32) {
    int read, written;
    locate(group, read, written);
    float sums[kCpTogether][kNumbers] = {};
#pragma unroll
    for (int position = 0; position < kCpTogether + kTaps - 1; ++position) {
      const Word<T> word = from.word(read + position * of_read);
#pragma unroll
      for (int i = max(0, position - kTaps + 1); i <= min(position, kCpTogether - 1); ++i)
#pragma unroll
        for (int n = 0; n < kNumbers; ++n)
          sums[i][n] = fmaf(word.number(n), factors[position - i].numbers[n], sums[i][n]);
    }
#pragma unroll
    for (int i = 0; i < kCpTogether; ++i) to.word(written + i * of_written) = packed<T>(sums[i]);
  }
}

// The vertical stage of `height` rows of the positions along `line`; `from` has the rows that `axis` names.
template <class T, class Axis, class To>
__device__ __forceinline__ void sum_vertically(const Axis& axis, int height, const Axis& line,
                                               const StageRows<T>& from, const To& to, const float* weights) {
  const auto in_windows = [&](auto taps) {
    sum_windows<taps.value, T, Axis>(from, to, height / kCpTogether * line.size, line.size, line.size,
                                     weights, [&](int group, int& read, int& written) {
                                       int x;
                                       const int y = line.by_size.divide(group, x) * kCpTogether;
                                       read = written = y * line.size + x;
                                     });
  };
  if (height % kCpTogether == 0 && axis.in_windows_of(3)) return in_windows(std::integral_constant<int, 3>());
  if (height % kCpTogether == 0 && axis.in_windows_of(5)) return in_windows(std::integral_constant<int, 5>());
  const int groups = (line.size + kCpTogether - 1) / kCpTogether;
  for (int i = threadIdx.x / 32; i < height * groups; i += kCpThreads / 32) {
    int x;
    const int y = line.by_groups.divide(i, x);
    x *= kCpTogether;
    sum_taps<T>(axis, from, to, y * line.size + x, line.size - x, weights, [&](int next, int tap) {
      const int position = axis.position(y, tap);
      return !Axis::kEveryTap && position == kNoPosition ? kNoPosition : position * line.size + x + next;
    });
  }
}

// The horizontal stage of `height` rows of a tile; `from` has `height` rows of those that `axis` names.
template <class T, class Axis, class To>
__device__ __forceinline__ void sum_horizontally(const Axis& axis, int height, const CpTiles& tiles,
                                                 const StageRows<T>& from, const To& to,
                                                 const float* weights) {
  const int together = min(tiles.width, kCpTogether), groups = height * tiles.width / together;
  const auto in_windows = [&](auto taps) {
    sum_windows<taps.value, T, Axis>(from, to, groups, 1, 1, weights,
                                     [&](int group, int& read, int& written) {
                                       written = group * kCpTogether;
                                       read = tiles.row(written) * axis.size + tiles.column(written);
                                     });
  };
  if (together == kCpTogether && axis.in_windows_of(3)) return in_windows(std::integral_constant<int, 3>());
  if (together == kCpTogether && axis.in_windows_of(5)) return in_windows(std::integral_constant<int, 5>());
  for (int group = threadIdx.x / 32; group < groups; group += kCpThreads / 32) {
    const int first = group * together, y = tiles.row(first), x = tiles.column(first);
    sum_taps<T>(axis, from, to, first, together, weights, [&](int next, int tap) {
      const int position = axis.position(x + next, tap);
      return !Axis::kEveryTap && position == kNoPosition ? kNoPosition : y * axis.size + position;
    });
  }
}

// Tiles of stage 1: all halo positions, a tile of ranks.
template <class Math>
using CpStage1 = BlockTile<Math, kCpHaloRows, kRowElements<typename Math::Number>, 4, 2, kCpSlots>;

// Stage 1 of the ranks from `first_rank` on, for the whole halo.
template <class Math, template <class, int, int> class RowsOfHalo, class T, class Axis>
__device__ __forceinline__ void run_stage1(const Halo<T, Axis>& halo, const Matrix<T>& factor, int first_rank,
                                           unsigned char* pipeline, const StageRows<T>& stage1) {
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
      auto* const pairs =
          reinterpret_cast<Together<T, 2>*>(stage1.data + (first + row) * StageRows<T>::kPitch);
      pairs[column / 2] = {from_float<T>(left), from_float<T>(right)};
    });
  }
}

// Stages 1 to 3 of a tile for the ranks from `first_rank` on. `stage3` is there for all threads when this
// returns, and the pipeline is free.
template <class Math, template <class, int, int> class RowsOfHalo, class T, class Axis>
__device__ __forceinline__ void run_stages(const CpStages<T, Axis>& s, const CpTile& tile, int group,
                                           int first_rank, unsigned char* memory, unsigned char* stage3) {
  const Halo<T, Axis> halo = s.halo(tile, group);
  auto* const weights = reinterpret_cast<float*>(memory + s.memory.taps);
  unsigned char* const pipeline = memory + s.memory.pipeline;
  const StageRows<T> stage1{memory + s.memory.stage1}, stage2{pipeline};
  run_stage1<Math, RowsOfHalo>(halo, s.factor.of_group(group), first_rank, pipeline, stage1);
  load_taps(s, group, first_rank, weights);
  __syncthreads();
  sum_vertically<T>(halo.vertical, s.tiles.height, halo.horizontal, stage1, stage2, weights);
  __syncthreads();
  sum_horizontally<T>(halo.horizontal, s.tiles.height, s.tiles, stage2, ProductRows<T>{stage3},
                      weights + halo.vertical.taps * kRowElements<T>);
  __syncthreads();
}

}  // namespace cnnkern::cuda
