// What becomes of the tiles of C: bias and ReLU, conversion, and the way to an image in either layout; or,
// where the sum over k is split over blocks, to partial sums that are added in their order.
#pragma once
#include "cuda/divider.cuh"
#include "cuda/gemm/block_tile.cuh"
#include "cuda/launch.h"

namespace cnnkern::cuda {

constexpr int kVector = 4;  // elements that one thread stores together

// C as it lies in memory: rows are pixels of images, columns are channels of a group.
template <class T>
struct Output {
  T* y;
  const T* bias;   // of all groups' channels, or null
  float* partial;  // (splits, elements of y), or null where the sum is not split
  int64_t images, pixels;
  Divider by_pixels;
  int channels, group_channels;
  int64_t group_stride;  // elements from a group's first channel to the next group's
  bool channels_last;    // y is (images, pixels, channels), else (images, channels, pixels)
  bool relu;
  bool vectors;  // kVector neighbours in memory can be stored together

  // `run`: neighbouring pixels of a tile that are neighbours in memory.
  Output(T* y, const T* bias, int64_t images, int64_t pixels, int64_t channels, int64_t groups,
         bool channels_last, bool relu, int64_t run)
      : y(y),
        bias(bias),
        partial(nullptr),
        images(images),
        pixels(pixels),
        by_pixels(pixels),
        channels(static_cast<int>(channels)),
        group_channels(static_cast<int>(channels / groups)),
        group_stride(group_channels * (channels_last ? 1 : pixels)),
        channels_last(channels_last),
        relu(relu),
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

template <class T>
__device__ __forceinline__ void store_together(T* to, const float (&values)[kVector]) {
  struct alignas(kVector * sizeof(T)) Vector {
    T numbers[kVector];
  } vector;
#pragma unroll
  for (int i = 0; i < kVector; ++i) vector.numbers[i] = from_float<T>(values[i]);
  *reinterpret_cast<Vector*>(to) = vector;
}

// C goes through shared memory, so that neighbouring threads store neighbouring elements. A pitch of 8 more
// than a multiple of 32 words lets pairs of columns, one of 4 more single columns, be written without bank
// conflicts.
template <class Tile>
struct Staging {
  static constexpr int kRowPitch = Tile::kN + 8, kColumnPitch = Tile::kM + 4;
  static constexpr int kWords =
      Tile::kM * kRowPitch > Tile::kN* kColumnPitch ? Tile::kM * kRowPitch : Tile::kN * kColumnPitch;
  static constexpr int kBytes = kWords * static_cast<int>(sizeof(float));
};

template <class Tile, class T>
__device__ void stage(const typename Tile::Sums& sums, const Output<T>& output, float* staging) {
  Tile::visit(sums, [&](int row, int column, float first, float second) {
    if (output.channels_last) {
      *reinterpret_cast<float2*>(staging + row * Staging<Tile>::kRowPitch + column) =
          make_float2(first, second);
    } else {
      staging[column * Staging<Tile>::kColumnPitch + row] = first;
      staging[(column + 1) * Staging<Tile>::kColumnPitch + row] = second;
    }
  });
}

// Each thread takes kVector neighbours: channels of a pixel, or pixels of a channel. `finish` adds the bias
// of a channel and applies ReLU.
template <class Tile, class T, class To, class OffsetOf, class Finish>
__device__ void store_staged(const Output<T>& output, int first_column, const OffsetOf& offset_of, To* to,
                             const float* staging, const Finish& finish) {
  const bool rows_along = !output.channels_last;
  const int along = (rows_along ? Tile::kM : Tile::kN) / kVector;
  for (int i = threadIdx.x; i < Tile::kM * Tile::kN / kVector; i += Tile::kThreads) {
    const int across = i / along, first = i % along * kVector;
    const int row = rows_along ? first : across, column = first_column + (rows_along ? across : first);
    if (column >= output.group_channels) continue;
    const float* const staged =
        staging + across * (rows_along ? Staging<Tile>::kColumnPitch : Staging<Tile>::kRowPitch) + first;
    float values[kVector];
    int64_t offsets[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      const int at = rows_along ? column : column + v;
      const int64_t offset =
          v && (!rows_along || output.vectors) ? offsets[0] : offset_of(row + v * rows_along);
      offsets[v] = at < output.group_channels ? offset : kNowhere;
      values[v] = offsets[v] == kNowhere ? 0 : finish(staged[v], at);
    }
    if (output.vectors) {
      if (offsets[0] != kNowhere) store_together(to + offsets[0] + column * output.channel_stride(), values);
      continue;
    }
#pragma unroll
    for (int v = 0; v < kVector; ++v)
      if (offsets[v] != kNowhere)
        to[offsets[v] + (rows_along ? column : column + v) * output.channel_stride()] =
            from_float<To>(values[v]);
  }
}

// The tile of C whose columns begin at channel `first_column` of group `group`; `offset_of` says where the
// first channel of a row's pixel lies, or kNowhere. To partial sums of `split` where the sum is split. Nobody
// may be using `staging`, and some still are when this returns.
template <class Tile, class T, class OffsetOf>
__device__ void store_tile(const typename Tile::Sums& sums, const Output<T>& output, int first_column,
                           int group, int split, const OffsetOf& offset_of, float* staging) {
  stage<Tile>(sums, output, staging);
  __syncthreads();
  const int64_t of_group = group * output.group_stride;
  if (output.partial) {
    store_staged<Tile>(output, first_column, offset_of, output.partial + split * output.size() + of_group,
                       staging, [](float value, int) { return value; });
  } else {
    const T* const bias = output.bias ? output.bias + group * output.group_channels : nullptr;
    store_staged<Tile>(output, first_column, offset_of, output.y + of_group, staging,
                       [&](float value, int channel) {
                         return rectified(bias ? value + to_float(bias[channel]) : value, output.relu);
                       });
  }
}

// Adds the partial sums of each element in their order: the same bits every time.
template <class T>
__global__ void __launch_bounds__(kElementThreads)
    add_partial_sums(const __grid_constant__ Output<T> output, int splits) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= output.size()) return;
  float sum = 0;
  for (int split = 0; split < splits; ++split) sum += output.partial[split * output.size() + i];
  if (output.bias) sum += to_float(output.bias[i / output.channel_stride() % output.channels]);
  output.y[i] = from_float<T>(rectified(sum, output.relu));
}

template <class T>
cudaError_t launch_add_partial_sums(const Output<T>& output, int64_t splits, cudaStream_t stream) {
  return launch_elements(add_partial_sums<T>, output.size(), stream, output, static_cast<int>(splits));
}

}  // namespace cnnkern::cuda
