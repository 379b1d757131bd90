// How operands come into shared memory: as tiles of rows of 128 bytes of the summed index.
//
// A source names the rows of a matrix and the 16-byte chunks of a row; a loader moves tiles of it. A source
// has
//   Row row(int64_t)            what stays the same along a row
//   Column column(int)          what stays the same along a column of chunks
//   const T* find(row, column)  where the chunk lies in one piece, aligned; null where it is zeros
//   uint4 gather(row, column)   the chunk put together from its elements
// of which the first loader needs `find` and the second `gather`. Where products have groups, it also has
//   Source of_group(int)        the same of another group
#pragma once
#include "cuda/device.cuh"

namespace cnnkern::cuda {

constexpr int kRowBytes = 128;
constexpr int kChunkBytes = 16;
constexpr int kChunks = kRowBytes / kChunkBytes;
template <class T>
constexpr int kChunkElements = kChunkBytes / static_cast<int>(sizeof(T));
template <class T>
constexpr int kRowElements = kRowBytes / static_cast<int>(sizeof(T));

// Where chunk `chunk` of row `row` lies in a tile: eight rows have their equal chunks in different banks.
__device__ __forceinline__ int swizzled(int row, int chunk) {
  return row * kRowBytes + ((chunk ^ (row & (kChunks - 1))) * kChunkBytes);
}

// Chunks that lie in one piece, by asynchronous copies.
template <class Source, int kRows, int kThreads>
class CopiedRows {
 public:
  static constexpr int kBytes = kRows * kRowBytes;

  __device__ CopiedRows(const Source& source, int64_t first_row, int first_chunk)
      : source_(source), first_chunk_(first_chunk + static_cast<int>(threadIdx.x) % kChunks) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) rows_[i] = source.row(first_row + row_of(i));
  }

  // Starts tile `tile` on its way into `slot`.
  __device__ void fetch(int tile, unsigned char* slot) {
    const auto column = source_.column(first_chunk_ + tile * kChunks);
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      const void* const from = source_.find(rows_[i], column);
      copy_async(slot + swizzled(row_of(i), threadIdx.x % kChunks), from ? from : source_.data,
                 from != nullptr);
    }
  }
  // Finishes what `fetch` left to do, after the arithmetic that hides its latency.
  __device__ void place(unsigned char*) {}
  // Where tile `tile` lies once it is there.
  __device__ const unsigned char* tile(int, const unsigned char* slot) const { return slot; }

 private:
  static constexpr int kTurns = kRows * kChunks / kThreads;
  static_assert(kTurns * kThreads == kRows * kChunks, "every thread has the same number of chunks");
  static __device__ int row_of(int turn) {
    return static_cast<int>(threadIdx.x) / kChunks + turn * (kThreads / kChunks);
  }

  const Source& source_;
  int first_chunk_;
  typename Source::Row rows_[kTurns];
};

// Chunks put together in registers: for NCHW images, and for channels that are no whole number of chunks. The
// lanes of a warp have neighbouring rows, which are neighbours in memory along the width of an image.
template <class Source, int kRows, int kThreads>
class GatheredRows {
 public:
  static constexpr int kBytes = kRows * kRowBytes;

  __device__ GatheredRows(const Source& source, int64_t first_row, int first_chunk)
      : source_(source), first_chunk_(first_chunk), row_(source.row(first_row + threadIdx.x % kRows)) {}

  __device__ void fetch(int tile, unsigned char*) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i)
      held_[i] = source_.gather(row_, source_.column(first_chunk_ + tile * kChunks + chunk_of(i)));
  }
  __device__ void place(unsigned char* slot) {
#pragma unroll
    for (int i = 0; i < kTurns; ++i) store_chunk(slot + swizzled(threadIdx.x % kRows, chunk_of(i)), held_[i]);
  }
  __device__ const unsigned char* tile(int, const unsigned char* slot) const { return slot; }

 private:
  static constexpr int kTurns = kRows * kChunks / kThreads;
  static_assert(kTurns * kThreads == kRows * kChunks && kThreads % kRows == 0,
                "every thread has chunks of one row");
  static __device__ int chunk_of(int turn) {
    return static_cast<int>(threadIdx.x) / kRows + turn * (kThreads / kRows);
  }

  const Source& source_;
  int first_chunk_;
  typename Source::Row row_;
  uint4 held_[kTurns];
};

// Tiles that are in shared memory already, one after the other.
template <int kRows>
class ResidentRows {
 public:
  static constexpr int kBytes = 0;

  explicit __device__ ResidentRows(const unsigned char* tiles) : tiles_(tiles) {}
  __device__ void fetch(int, unsigned char*) {}
  __device__ void place(unsigned char*) {}
  __device__ const unsigned char* tile(int tile, const unsigned char*) const {
    return tiles_ + tile * kRows * kRowBytes;
  }

 private:
  const unsigned char* tiles_;
};

// The rows of a matrix whose rows are whole chunks: packed weights.
template <class T>
struct Matrix {
  const T* data;  // 16-byte aligned; the groups one after the other
  int64_t rows;   // of one group
  int chunks;     // of a row

  using Row = const T*;
  using Column = int;
  __device__ Row row(int64_t index) const {
    return index < rows ? data + index * chunks * kChunkElements<T> : nullptr;
  }
  __device__ Matrix of_group(int group) const {
    return {data + group * rows * chunks * kChunkElements<T>, rows, chunks};
  }
  __device__ Column column(int chunk) const { return chunk; }
  __device__ const T* find(Row row, Column chunk) const {
    return row && chunk < chunks ? row + chunk * kChunkElements<T> : nullptr;
  }
};

}  // namespace cnnkern::cuda
