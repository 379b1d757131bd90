// The convolution as a product of the kept outputs' patches and packed weights, for any arithmetic.
#pragma once
#include "cuda/conv2d/patches.cuh"
#include "cuda/gemm/product.cuh"
#include "cuda/gemm/tiles.cuh"
#include "cuda/perforated_conv2d/kept_outputs.cuh"
#include "cuda/perforated_conv2d/kernels.h"

namespace cnnkern::cuda {

// Row m is the patch under kept output m of all images.
template <class T>
struct KeptOutputPatches : Patches<T> {
  KeptRows kept;

  using Row = typename Patches<T>::Row;

  KeptOutputPatches(const Conv2dShape& s, const T* x, const KeptRows& kept) : Patches<T>(s, x), kept(kept) {}

  __device__ KeptOutputPatches of_group(int group) const {
    KeptOutputPatches other = *this;
    other.image = this->image.of_group(group);
    return other;
  }
  __device__ Row row(int64_t m) const {
    const int64_t count = kept.count();
    if (m >= count) return this->image.outside();
    const KeptRows::Row row = kept.row(m, count);
    const int position = kept.position(row);
    return position < 0 ? this->image.outside() : this->patch(row.image, position);
  }
};

template <class T>
struct KeptProduct {
  KeptOutputPatches<T> a;
  Matrix<T> b;
  Output<T> output;
  Output<T> sums;  // partial sums, whose pixels are the rows, where the sum is split
  Cover cover;
};

// What a tile's rows and columns stand for in y.
template <class T>
struct ShownTile {
  const Output<T>& output;
  const KeptRows& kept;
  const KeptRows::Row* rows;
  int row_count, first_channel;
  T* y;           // of the group, like the bias
  const T* bias;  // or null

  __device__ float value(const KeptRows::Row& row, float sum, int channel) const {
    if (!row.kept) return 0;
    return bias ? sum + to_float(bias[channel]) : sum;
  }
};

// Each thread takes kVector channels of a pixel.
template <class Tile, class T>
__device__ void show_pixels(const ShownTile<T>& tile, const float* staging) {
  constexpr int kAlong = Tile::kN / kVector;
  const int channels = tile.output.group_channels;
  for (int i = threadIdx.x; i < tile.row_count * kAlong; i += Tile::kThreads) {
    const int first = i % kAlong * kVector, channel = tile.first_channel + first;
    if (channel >= channels) continue;
    const KeptRows::Row row = tile.rows[i / kAlong];
    const float* const staged = staging + i / kAlong * Staging<Tile>::kRowPitch + first;
    float values[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v)
      values[v] = channel + v < channels ? tile.value(row, staged[v], channel + v) : 0;
    tile.kept.visit(row, [&](int position) {
      T* const to = tile.y + tile.output.offset(row.image, position) + channel;
      if (tile.output.vectors) {
        Together<T, kVector> together;
#pragma unroll
        for (int v = 0; v < kVector; ++v) together.numbers[v] = from_float<T>(values[v]);
        *reinterpret_cast<Together<T, kVector>*>(to) = together;
        return;
      }
#pragma unroll
      for (int v = 0; v < kVector; ++v)
        if (channel + v < channels) to[v] = from_float<T>(values[v]);
    });
  }
}

// Each thread takes a row: lanes have neighbouring kept outputs, which are near each other in memory.
template <class Tile, class T>
__device__ void show_planes(const ShownTile<T>& tile, const float* staging) {
  static_assert(Tile::kThreads % Tile::kM == 0, "every thread has one row");
  const int index = static_cast<int>(threadIdx.x) % Tile::kM;
  if (index >= tile.row_count) return;
  const KeptRows::Row row = tile.rows[index];
  const int columns = min(Tile::kN, tile.output.group_channels - tile.first_channel);
  tile.kept.visit(row, [&](int position) {
    T* const to = tile.y + tile.output.offset(row.image, position);
#pragma unroll 4
    for (int n = static_cast<int>(threadIdx.x) / Tile::kM; n < columns; n += Tile::kThreads / Tile::kM) {
      const float sum = staging[n * Staging<Tile>::kColumnPitch + index];
      to[(tile.first_channel + n) * tile.output.channel_stride()] =
          from_float<T>(tile.value(row, sum, tile.first_channel + n));
    }
  });
}

// Stores a tile of C to all outputs that show its rows. Nobody may be using `memory`.
template <class Tile, class T>
__device__ void store_shown(const typename Tile::Sums& sums, const Output<T>& output, const KeptRows& kept,
                            const Part& part, unsigned char* memory) {
  static_assert(Staging<Tile>::kBytes + Tile::kM * sizeof(KeptRows::Row) <= kTileBytes<Tile>);
  auto* const staging = reinterpret_cast<float*>(memory);
  auto* const rows = reinterpret_cast<KeptRows::Row*>(memory + Staging<Tile>::kBytes);
  const auto row_count = static_cast<int>(min(kept.all() - part.first_row, int64_t{Tile::kM}));
  const int64_t count = kept.count();
  stage<Tile>(sums, output, staging);
  for (int row = threadIdx.x; row < row_count; row += Tile::kThreads)
    rows[row] = kept.row(part.first_row + row, count);
  __syncthreads();
  const T* const bias = output.bias ? output.bias + part.group * output.group_channels : nullptr;
  T* const y = output.y + part.group * output.group_stride;
  const ShownTile<T> tile{output, kept, rows, row_count, part.first_column, y, bias};
  if (output.channels_last)
    show_pixels<Tile>(tile, staging);
  else
    show_planes<Tile>(tile, staging);
}

template <class Tile, template <class, int, int> class RowsOfA>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    multiply_kept(const __grid_constant__ KeptProduct<typename Tile::Number> product) {
  const Part part = product.cover.template part<Tile>(static_cast<int>(blockIdx.x));
  const KeptRows& kept = product.a.kept;
  const int64_t count = kept.count();
  typename Tile::Sums sums;
  if (part.first_row < count) {
    accumulate<Tile, RowsOfA, CopiedRows>(sums, product.a, product.b, part);
  } else if (const int64_t last = min(part.first_row + Tile::kM, kept.all()) - 1;
             product.sums.partial || !kept.show_zeros(part.first_row, last, count)) {
    return;
  }
  if (!product.sums.partial) {
    store_shown<Tile>(sums, product.output, kept, part, shared_memory());
    return;
  }
  const auto offset_of = [&](int row) {
    const int64_t m = part.first_row + row;
    return m < count ? product.sums.offset(0, m) : kNowhere;
  };
  store_tile<Tile>(sums, product.sums, part.first_column, part.group, part.split, offset_of,
                   reinterpret_cast<float*>(shared_memory()));
}

// Adds the partial sums of each element in their order, and stores what comes out to all that show it.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    show_sums(const __grid_constant__ Output<T> output, const __grid_constant__ Output<T> sums,
              const __grid_constant__ KeptRows kept, int splits) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= sums.size()) return;
  const int64_t channel = i / sums.channel_stride() % sums.channels;
  const KeptRows::Row row = kept.row(i / sums.pixel_stride() % sums.pixels, kept.count());
  float sum = 0;
  if (row.kept) {
    for (int split = 0; split < splits; ++split) sum += sums.partial[split * sums.size() + i];
    if (output.bias) sum += to_float(output.bias[channel]);
  }
  kept.visit(row, [&](int position) {
    output.y[output.offset(row.image, position) + channel * output.channel_stride()] = from_float<T>(sum);
  });
}

template <class Math>
cudaError_t perforated_conv2d_forward(const PerforatedConv2dCall& call, const Conv2dPlan& plan,
                                      cudaStream_t stream) {
  using Number = typename Math::Number;
  const Conv2dShape& s = call.shape;
  const int64_t n = s.out_channels / s.groups, pixels = s.out_height * s.out_width;
  const KeptRows kept(s, call.arranged, call.arranged.each_image ? call.begin : nullptr);
  const KeptOutputPatches<Number> patches(s, static_cast<const Number*>(call.x), kept);
  const Matrix<Number> weight{static_cast<const Number*>(call.packed), n, patches.chunks(s)};
  const Output<Number> output(static_cast<Number*>(call.y), static_cast<const Number*>(call.bias), s.batch,
                              pixels, s.out_channels, s.groups, s.channels_last, false, 1);
  Output<Number> sums(nullptr, nullptr, 1, kept.all(), s.out_channels, s.groups, s.channels_last, false, 1);
  if (plan.splits > 1) sums.partial = call.scratch;
  const cudaError_t error = with_tile<Math>(plan.tile, [&](auto tile) {
    using Tile = decltype(tile);
    const Cover cover(kept.all(), n, s.groups, plan.tiles, plan.splits, Tile::kM, Tile::kN);
    const KeptProduct<Number> product{patches, weight, output, sums, cover};
    return launch(
        patches.image.in_pieces() ? multiply_kept<Tile, CopiedRows> : multiply_kept<Tile, GatheredRows>,
        cover.blocks, Tile::kThreads, kTileBytes<Tile>, stream, product);
  });
  if (error != cudaSuccess || plan.splits == 1) return error;
  return launch_elements(show_sums<Number>, sums.size(), stream, output, sums, kept,
                         static_cast<int>(plan.splits));
}

}  // namespace cnnkern::cuda
