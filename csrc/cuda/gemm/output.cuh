// What becomes of the tiles of C: bias and ReLU, conversion, and the way to an image in either layout; or,
// where the sum over k is split over blocks, to partial sums that are added in their order.
#pragma once
#include <bit>

#include "cuda/divider.cuh"
#include "cuda/gemm/block_tile.cuh"
#include "cuda/launch.h"

namespace cnnkern::cuda {

constexpr int kVector = 4;  // elements that one thread stores together

// C as it lies in memory: rows are pixels of images, columns are channels of a group.
template <class T>
struct Target {
  T* y;
  int64_t images, pixels;
  Divider by_pixels;
  int channels, group_channels;
  int64_t group_stride;  // elements from a group's first channel to the next group's
  bool channels_last;    // y is (images, pixels, channels), else (images, channels, pixels)
  bool vectors;          // kVector neighbours in memory can be stored together

  // `run`: neighbouring pixels of a tile that are neighbours in memory.
  Target(T* y, int64_t images, int64_t pixels, int64_t channels, int64_t groups, bool channels_last,
         int64_t run)
      : y(y),
        images(images),
        pixels(pixels),
        by_pixels(pixels),
        channels(static_cast<int>(channels)),
        group_channels(static_cast<int>(channels / groups)),
        group_stride(group_channels * (channels_last ? 1 : pixels)),
        channels_last(channels_last),
        vectors((channels_last ? group_channels : run) % kVector == 0 &&
                reinterpret_cast<uintptr_t>(y) % (kVector * sizeof(T)) == 0) {}

  __host__ __device__ int64_t size() const { return images * pixels * channels; }
  // Elements from the first channel of a pixel to the next pixel's, and to the next channel.
  __device__ int64_t pixel_stride() const { return channels_last ? channels : 1; }
  __device__ int64_t channel_stride() const { return channels_last ? 1 : pixels; }
  // The first channel of a pixel.
  __device__ int64_t offset(int64_t image, int64_t pixel) const {
    return image * pixels * channels + pixel * pixel_stride();
  }
};

constexpr int64_t kNowhere = -1;  // the offset of a row that is no pixel

__device__ __forceinline__ float rectified(float value, bool relu) { return relu && value < 0 ? 0 : value; }

// What float32 sums become: with a bias and ReLU, numbers of type T. Another kind of output has the same
// members.
template <class T>
struct Output : Target<T> {
  using Sum = float;
  static constexpr int kColumnBytes = 0;  // of shared memory, for a column of a tile

  const T* bias;   // of all groups' channels, or null
  float* partial;  // (splits, elements of y), or null where the sum is not split
  bool relu;

  Output(T* y, const T* bias, int64_t images, int64_t pixels, int64_t channels, int64_t groups,
         bool channels_last, bool relu, int64_t run)
      : Target<T>(y, images, pixels, channels, groups, channels_last, run),
        bias(bias),
        partial(nullptr),
        relu(relu) {}

  // Of a sum of a channel of all groups.
  __device__ __forceinline__ T finished(float sum, int64_t channel) const {
    return from_float<T>(rectified(bias ? sum + to_float(bias[channel]) : sum, relu));
  }
  // finish(sum, column) for a tile's sums of a group's columns from `first_column` on, once the block has
  // passed a barrier.
  template <class Tile>
  __device__ auto finisher(int group, int /*first_column*/, float* /*memory*/) const {
    return [this, first = int64_t{group} * this->group_channels](float sum, int column) {
      return finished(sum, first + column);
    };
  }
};

// C goes through shared memory, so that neighbouring threads store neighbouring elements. A pitch of 8 more
// than a multiple of 32 words lets pairs of columns, one of 4 more single columns, be written without bank
// conflicts.
template <class Tile>
struct Staging {
  static constexpr int kRowPitch = Tile::kN + 8, kColumnPitch = Tile::kM + 4;
  static constexpr int kWords =
      Tile::kM * kRowPitch > Tile::kN* kColumnPitch ? Tile::kM * kRowPitch : Tile::kN * kColumnPitch;
  static constexpr int kBytes = kWords * static_cast<int>(sizeof(typename Tile::Sum));
};
template <class Tile, class Out>
constexpr int kStagedBytes = Staging<Tile>::kBytes + Tile::kN * Out::kColumnBytes;

template <class Tile, class T>
__device__ void stage(const typename Tile::Sums& sums, const Target<T>& output, typename Tile::Sum* staging) {
  using Sum = typename Tile::Sum;
  Tile::visit(sums, [&](int row, int column, Sum first, Sum second) {
    if (output.channels_last) {
      *reinterpret_cast<Together<Sum, 2>*>(staging + row * Staging<Tile>::kRowPitch + column) = {first,
                                                                                                 second};
    } else {
      staging[column * Staging<Tile>::kColumnPitch + row] = first;
      staging[(column + 1) * Staging<Tile>::kColumnPitch + row] = second;
    }
  });
}

template <int kPower>  // of two; between two of them, the compiler would divide by the number itself
constexpr int kLog2 = std::countr_zero(static_cast<unsigned>(kPower));

// Each thread takes kVector neighbours: channels of a pixel, or pixels of a channel. finish(sum, column) is
// what is stored.
template <class Tile, class T, class To, class OffsetOf, class Finish>
__device__ void store_staged(const Target<T>& output, int first_column, const OffsetOf& offset_of, To* to,
                             const typename Tile::Sum* staging, const Finish& finish) {
  const bool rows_along = !output.channels_last;
  const int along = (rows_along ? Tile::kM : Tile::kN) / kVector;
  const int log2_along = rows_along ? kLog2<Tile::kM / kVector> : kLog2<Tile::kN / kVector>;
  for (int i = threadIdx.x; i < Tile::kM * Tile::kN / kVector; i += Tile::kThreads) {
    const int across = i >> log2_along, first = (i & (along - 1)) * kVector;
    const int row = rows_along ? first : across, column = first_column + (rows_along ? across : first);
    if (column >= output.group_channels) continue;
    const typename Tile::Sum* const staged =
        staging + across * (rows_along ? Staging<Tile>::kColumnPitch : Staging<Tile>::kRowPitch) + first;
    Together<To, kVector> values;
    int64_t offsets[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const int at = rows_along ? column : column + v;
      const int64_t offset =
          v && (!rows_along || output.vectors) ? offsets[0] : offset_of(row + v * rows_along);
      offsets[v] = at < output.group_channels ? offset : kNowhere;
      values.numbers[v] = offsets[v] == kNowhere ? To{} : finish(staged[v], at);
    }
    if (output.vectors) {
      if (offsets[0] != kNowhere)
        *reinterpret_cast<Together<To, kVector>*>(to + offsets[0] + column * output.channel_stride()) =
            values;
      continue;
    }
#pragma unroll
    for (int v = 0; v < kVector; ++v)
      if (offsets[v] != kNowhere)
        to[offsets[v] + (rows_along ? column : column + v) * output.channel_stride()] = values.numbers[v];
  }
}

// The tile of C whose columns begin at channel `first_column` of group `group`; `offset_of` says where the
// first channel of a row's pixel lies, or kNowhere. To partial sums of `split` where the sum is split. Nobody
// may be using `staging`, and some still are when this returns.
template <class Tile, class Out, class OffsetOf>
__device__ void store_tile(const typename Tile::Sums& sums, const Out& output, int first_column, int group,
                           int split, const OffsetOf& offset_of, typename Tile::Sum* staging) {
  using Sum = typename Tile::Sum;
  stage<Tile>(sums, output, staging);
  const int64_t of_group = group * output.group_stride;
  if (output.partial) {
    __syncthreads();
    store_staged<Tile>(output, first_column, offset_of, output.partial + split * output.size() + of_group,
                       staging, [](Sum sum, int) { return sum; });
  } else {
    const auto finish = output.template finisher<Tile>(group, first_column, staging + Staging<Tile>::kWords);
    __syncthreads();
    store_staged<Tile>(output, first_column, offset_of, output.y + of_group, staging, finish);
  }
}

// Adds the partial sums of each element in their order: the same bits every time.
template <class Out>
__global__ void __launch_bounds__(kElementThreads)
    add_partial_sums(const __grid_constant__ Out output, int splits) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= output.size()) return;
  typename Out::Sum sum = 0;
  for (int split = 0; split < splits; ++split) sum += output.partial[split * output.size() + i];
  output.y[i] = output.finished(sum, i / output.channel_stride() % output.channels);
}

template <class Out>
cudaError_t launch_add_partial_sums(const Out& output, int64_t splits, cudaStream_t stream) {
  return launch_elements(add_partial_sums<Out>, output.size(), stream, output, static_cast<int>(splits));
}

}  // namespace cnnkern::cuda
