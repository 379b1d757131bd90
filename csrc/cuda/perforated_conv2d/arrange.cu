// From masks to what the kernels go by. See perforated_conv2d.h.
#include "cuda/device.cuh"
#include "cuda/perforated_conv2d/perforated_conv2d.h"
#include "cuda/scan.cuh"

namespace cnnkern::cuda {
namespace {

// The row of the nearest kept position in the same column, the upper one of two; -1 where there is none.
__global__ void __launch_bounds__(kElementThreads)
    nearest_in_columns(const __grid_constant__ Masks size, const uint8_t* mask, int32_t* rows) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= size.masks * size.width) return;
  const int64_t first = i / size.width * size.area() + i % size.width;
  int kept = -1;
  const auto height = static_cast<int>(size.height);
  for (int y = 0; y < height; ++y) {
    if (mask[first + y * size.width]) kept = y;
    rows[first + y * size.width] = kept;
  }
  int below = -1;
  for (int y = height - 1; y >= 0; --y) {
    int32_t& row = rows[first + y * size.width];
    if (mask[first + y * size.width]) below = y;
    if (below >= 0 && (row < 0 || below - y < y - row)) row = below;
  }
}

// The nearest in the plane is the nearest of its column: looks at the columns to both sides, and no further
// than the best so far.
__global__ void __launch_bounds__(kElementThreads)
    nearest_of_columns(const __grid_constant__ Masks size, const int32_t* rows, int32_t* sources) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i >= size.masks * size.area()) return;
  const int64_t x = i % size.width, y = i / size.width % size.height;
  const int32_t* const row = rows + (i - x);
  int64_t best = INT64_MAX, best_row = -1, best_column = -1;
  for (int64_t distance = 0; distance < size.width && distance * distance <= best; ++distance) {
    for (int side = -1; side <= 1; side += 2) {
      const int64_t column = x + side * distance;
      if (column < 0 || column >= size.width || row[column] < 0) continue;
      const int64_t down = row[column] - y, squared = distance * distance + down * down;
      if (squared < best || (squared == best &&
                             (row[column] < best_row || (row[column] == best_row && column < best_column)))) {
        best = squared;
        best_row = row[column];
        best_column = column;
      }
    }
  }
  sources[i] = static_cast<int32_t>(best_row < 0 ? -1 : best_row * size.width + best_column);
}

__global__ void __launch_bounds__(kElementThreads)
    own_sources(const __grid_constant__ Masks size, const uint8_t* mask, int32_t* sources) {
  const int64_t i = int64_t{blockIdx.x} * kElementThreads + threadIdx.x;
  if (i < size.masks * size.area()) sources[i] = mask[i] ? static_cast<int32_t>(i % size.area()) : -1;
}

constexpr int kArrangeThreads = 256;

// One mask, by one block; the threads have equal shares of its positions. `number` of a kept output is its
// place among these, and that of another its place among those that show the same.
class Arrangement {
 public:
  __device__ Arrangement(int area, const int32_t* sources, int32_t* positions, int32_t* begins,
                         int32_t* number, int32_t* sizes, int* shared)
      : area_(area),
        sources_(sources),
        positions_(positions),
        begins_(begins),
        number_(number),
        sizes_(sizes),
        shared_(shared) {}

  __device__ void run() {
    const int count = number_kept();
    number_others();
    const int listed = find_begins(count);
    for (int p = first_of(area_); p < last_of(area_); ++p) {
      const int source = sources_[p];
      if (source >= 0) positions_[begins_[number_[source]] + (source == p ? 0 : number_[p])] = p;
    }
    list_zeros(listed);
    for (int i = count + static_cast<int>(threadIdx.x); i < area_; i += kArrangeThreads) begins_[i] = ~count;
  }

 private:
  static __device__ int first_of(int size) {
    return min(size, static_cast<int>(threadIdx.x) * ((size + kArrangeThreads - 1) / kArrangeThreads));
  }
  static __device__ int last_of(int size) {
    return min(size, first_of(size) + (size + kArrangeThreads - 1) / kArrangeThreads);
  }

  // How many are kept. Each of them begins as the only one that shows itself.
  __device__ int number_kept() {
    int mine = 0, count;
    for (int p = first_of(area_); p < last_of(area_); ++p) mine += sources_[p] == p;
    int before = sum_before<kArrangeThreads>(mine, shared_, count);
    for (int p = first_of(area_); p < last_of(area_); ++p)
      if (sources_[p] == p) number_[p] = before++;
    for (int i = threadIdx.x; i < count; i += kArrangeThreads) sizes_[i] = 1;
    __syncthreads();
    return count;
  }
  // The threads take neighbouring positions and look at what the others have.
  __device__ void number_others() {
    for (int first = 0; first < area_; first += kArrangeThreads) {
      const int p = first + static_cast<int>(threadIdx.x), source = p < area_ ? sources_[p] : -1;
      const int owner = source >= 0 && source != p ? number_[source] : -1;
      shared_[threadIdx.x] = owner;
      __syncthreads();
      int before = 0, all = 0;
      if (owner >= 0) {
        for (int other = 0; other < kArrangeThreads; ++other) {
          const bool same = shared_[other] == owner;
          before += same && other < static_cast<int>(threadIdx.x);
          all += same;
        }
        number_[p] = sizes_[owner] + before;
      }
      __syncthreads();
      if (owner >= 0 && before == 0) sizes_[owner] += all;
      __syncthreads();
    }
  }
  // From the sizes of the lists; returns how many positions are in them.
  __device__ int find_begins(int count) {
    int mine = 0, listed;
    for (int i = first_of(count); i < last_of(count); ++i) mine += sizes_[i];
    int before = sum_before<kArrangeThreads>(mine, shared_, listed);
    for (int i = first_of(count); i < last_of(count); ++i) {
      begins_[i] = before;
      before += sizes_[i];
    }
    __syncthreads();
    return listed;
  }
  __device__ void list_zeros(int listed) {
    int mine = 0, zeros;
    for (int p = first_of(area_); p < last_of(area_); ++p) mine += sources_[p] < 0;
    int at = listed + sum_before<kArrangeThreads>(mine, shared_, zeros);
    for (int p = first_of(area_); p < last_of(area_); ++p)
      if (sources_[p] < 0) positions_[at++] = ~p;
  }

  int area_;
  const int32_t* sources_;
  int32_t *positions_, *begins_, *number_, *sizes_;
  int* shared_;
};

__global__ void __launch_bounds__(kArrangeThreads)
    arrange(int area, const int32_t* sources, int32_t* arranged, int32_t* scratch) {
  const int64_t mask = blockIdx.x, pair = mask * 2 * area;
  Arrangement(area, sources + mask * area, arranged + pair, arranged + pair + area, scratch + pair,
              scratch + pair + area, reinterpret_cast<int*>(shared_memory()))
      .run();
}

}  // namespace

cudaError_t perforated_conv2d_sources(const Masks& size, const uint8_t* mask, bool nearest, int32_t* sources,
                                      int32_t* scratch, cudaStream_t stream) {
  const int64_t positions = size.masks * size.area();
  if (!nearest) return launch_elements(own_sources, positions, stream, size, mask, sources);
  if (const cudaError_t error =
          launch_elements(nearest_in_columns, size.masks * size.width, stream, size, mask, scratch))
    return error;
  return launch_elements(nearest_of_columns, positions, stream, size, scratch, sources);
}

cudaError_t perforated_conv2d_arrange(const Masks& size, const int32_t* sources, int32_t* arranged,
                                      int32_t* scratch, cudaStream_t stream) {
  return launch(arrange, size.masks, kArrangeThreads, kArrangeThreads * sizeof(int), stream,
                static_cast<int>(size.area()), sources, arranged, scratch);
}

}  // namespace cnnkern::cuda
