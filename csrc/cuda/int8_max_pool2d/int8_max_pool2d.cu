// A thread has adjacent channels of a pixel of y, or adjacent pixels of a row of it.
#include "cuda/int8_max_pool2d/int8_max_pool2d.h"

#include "cuda/divider.cuh"
#include "cuda/launch.h"
#include "cuda/numbers.cuh"

namespace cnnkern::cuda {
namespace {

constexpr int kAdjacent = 4;

// The values of a window that are inside the image: begin, begin + dilation, ... in front of end.
struct Inside {
  int64_t begin, end;

  __device__ __forceinline__ Inside(const PoolAxis& a, int window) {
    const int64_t first = window * a.stride - a.pad, behind = first + (a.kernel - 1) * a.dilation + 1;
    begin = first < 0 ? first + (-first + a.dilation - 1) / a.dilation * a.dilation : first;
    end = behind < a.in ? behind : a.in;
  }
};

// Some images. T is u8 or s8.
template <class T>
struct Pooling {
  const T* x;
  T* y;
  PoolAxis height, width;
  int64_t channels;
  int items;        // one for each thread
  Divider pieces;   // of a pixel, or of a row of y
  Divider columns;  // of y
  Divider rows;     // of y

  static constexpr T kLeast = T(-1) < T(0) ? T(-128) : T(0);
};

template <class T, int kCount>
__global__ void __launch_bounds__(kElementThreads) pool_channels(const __grid_constant__ Pooling<T> p) {
  const int64_t item = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (item >= p.items) return;
  int piece, column, row;
  const int image =
      p.rows.divide(p.columns.divide(p.pieces.divide(static_cast<int>(item), piece), column), row);
  const Inside down(p.height, row), along(p.width, column);
  Together<T, kCount> most;
#pragma unroll
  for (int i = 0; i < kCount; ++i) most.numbers[i] = Pooling<T>::kLeast;
  for (int64_t y = down.begin; y < down.end; y += p.height.dilation) {
    const T* const line = p.x + (image * p.height.in + y) * p.width.in * p.channels + piece * kCount;
    for (int64_t x = along.begin; x < along.end; x += p.width.dilation) {
      const auto values = *reinterpret_cast<const Together<T, kCount>*>(line + x * p.channels);
#pragma unroll
      for (int i = 0; i < kCount; ++i)
        most.numbers[i] = values.numbers[i] > most.numbers[i] ? values.numbers[i] : most.numbers[i];
    }
  }
  *reinterpret_cast<Together<T, kCount>*>(p.y + item * kCount) = most;
}

// kTogether: rows of y are whole pieces, aligned.
template <class T, bool kTogether>
__global__ void __launch_bounds__(kElementThreads) pool_rows(const __grid_constant__ Pooling<T> p) {
  const int64_t item = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (item >= p.items) return;
  int piece, row;
  const int64_t plane = p.rows.divide(p.pieces.divide(static_cast<int>(item), piece), row);
  const Inside down(p.height, row);
  const T* const image = p.x + plane * p.height.in * p.width.in;
  const int64_t first = piece * kAdjacent;
  Together<T, kAdjacent> most;
#pragma unroll
  for (int i = 0; i < kAdjacent; ++i) {
    T greatest = Pooling<T>::kLeast;
    const Inside along(p.width, static_cast<int>(first) + i);
    for (int64_t y = down.begin; y < down.end; y += p.height.dilation) {
      for (int64_t x = along.begin; x < along.end; x += p.width.dilation) {
        const T value = image[y * p.width.in + x];
        greatest = value > greatest ? value : greatest;
      }
    }
    most.numbers[i] = greatest;
  }
  T* const to = p.y + (plane * p.height.out + row) * p.width.out + first;
  if constexpr (kTogether) {
    *reinterpret_cast<Together<T, kAdjacent>*>(to) = most;
  } else {
#pragma unroll
    for (int i = 0; i < kAdjacent; ++i)
      if (first + i < p.width.out) to[i] = most.numbers[i];
  }
}

// `piece`: elements of y for a thread.
template <class T>
cudaError_t launch_images(void (*kernel)(Pooling<T>), const Int8MaxPool2dParams& p, int64_t piece,
                          cudaStream_t stream) {
  constexpr int64_t kMostItems = 2147483647;
  const int64_t line = p.channels_last ? p.channels : p.width.out, pieces = (line + piece - 1) / piece;
  const int64_t lines = p.channels_last ? p.height.out * p.width.out : p.channels * p.height.out;
  if (lines > kMostItems / pieces) return cudaErrorInvalidConfiguration;
  const int64_t at_once = kMostItems / (lines * pieces);
  for (int64_t n = 0; n < p.batch; n += at_once) {
    const int64_t images = p.batch - n < at_once ? p.batch - n : at_once;
    const Pooling<T> pooling{reinterpret_cast<const T*>(p.x) + n * p.channels * p.height.in * p.width.in,
                             reinterpret_cast<T*>(p.y) + n * p.channels * p.height.out * p.width.out,
                             p.height,
                             p.width,
                             p.channels,
                             static_cast<int>(images * lines * pieces),
                             Divider(pieces),
                             Divider(p.width.out),
                             Divider(p.height.out)};
    if (const cudaError_t error = launch_elements(kernel, pooling.items, stream, pooling)) return error;
  }
  return cudaSuccess;
}

template <class T>
cudaError_t launch_pooling(const Int8MaxPool2dParams& p, cudaStream_t stream) {
  const bool together = (p.channels_last ? p.channels : p.width.out) % kAdjacent == 0 &&
                        reinterpret_cast<uintptr_t>(p.x) % kAdjacent == 0 &&
                        reinterpret_cast<uintptr_t>(p.y) % kAdjacent == 0;
  if (!p.channels_last)
    return launch_images<T>(together ? pool_rows<T, true> : pool_rows<T, false>, p, kAdjacent, stream);
  return together ? launch_images<T>(pool_channels<T, kAdjacent>, p, kAdjacent, stream)
                  : launch_images<T>(pool_channels<T, 1>, p, 1, stream);
}

}  // namespace

cudaError_t int8_max_pool2d(const Int8MaxPool2dParams& params, cudaStream_t stream) {
  return params.is_signed ? launch_pooling<int8_t>(params, stream) : launch_pooling<uint8_t>(params, stream);
}

}  // namespace cnnkern::cuda
