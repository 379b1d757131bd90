// The patch matrix of an image without the columns that are pruned, as a source of rows (gemm/rows.cuh), and
// the loader that images need whose channels are neighbours in memory.
#pragma once
#include <type_traits>

#include "cuda/column_sparse_conv2d/column_sparse_conv2d.h"
#include "cuda/conv2d/patches.cuh"

namespace cnnkern::cuda {

template <class T>
struct KeptPatches : Patches<T> {
  const KeptColumn* table;  // of the group
  int chunks;               // of a group
  int end_y, end_x;         // where the patches of an image, and those of a row of outputs, end
  bool aligned;             // a whole chunk of channels lies in one piece

  using Row = typename Patches<T>::Row;
  using Column = int;  // the chunk

  KeptPatches(const Conv2dShape& s, const T* x, const KeptColumn* table, int64_t columns)
      : Patches<T>(s, x),
        table(table),
        chunks(static_cast<int>(columns / kChunkElements<T>)),
        end_y(static_cast<int>(s.out_height * s.stride_height - s.pad_height)),
        end_x(static_cast<int>(s.out_width * s.stride_width - s.pad_width)),
        aligned(this->image.in_pieces()) {}

  __device__ KeptPatches of_group(int group) const {
    KeptPatches other = *this;
    other.image = this->image.of_group(group);
    other.table += int64_t{group} * chunks * kChunkElements<T>;
    return other;
  }
  __device__ Column column(int chunk) const { return chunk; }

  // Lanes have different rows and the same chunk: they take the same branches.
  __device__ uint4 gather(const Row& row, Column chunk) const {
    union {
      uint4 chunk;
      T numbers[kChunkElements<T>];
    } gathered;
    gathered.chunk = make_uint4(0, 0, 0, 0);
    if (chunk >= chunks) return gathered.chunk;
    const KeptColumn* const columns = table + int64_t{chunk} * kChunkElements<T>;
    int tap = -1;
    const T* pixel = nullptr;
#pragma unroll
    for (int i = 0; i < kChunkElements<T>; ++i) {
      const KeptColumn column = columns[i];
      if (column.tap != tap) {
        tap = column.tap;
        int x;
        const int y = steps_to(tap, x);
        pixel = this->image.find(row, y, x, 0);
      }
      if (pixel && has(column)) gathered.numbers[i] = pixel[column.channel * this->image.channel_stride];
    }
    return gathered.chunk;
  }

  __device__ bool has(const KeptColumn& column) const {
    return static_cast<unsigned>(column.channel) < static_cast<unsigned>(this->image.channels);
  }
  // From where the patch begins to what a tap meets.
  __device__ int steps_to(int tap, int& x) const {
    int j;
    const int y = this->by_kernel_width.divide(tap, j) * this->dilation_height;
    x = j * this->dilation_width;
    return y;
  }
  // Goes on to the next row, which may be of the next image.
  __device__ void advance(Row& row) const {
    if ((row.x += this->stride_width) < end_x) return;
    row.x = -this->pad_width;
    if ((row.y += this->stride_height) < end_y) return;
    row.y = -this->pad_height;
    row.image += this->image.image_stride;
  }
};

// Kept columns of a channels_last image. A warp has one row at a time, and a lane one word of it: the lanes'
// channels are as near each other as the kept ones are, and what a column reads is found out once for all
// rows. Where a chunk is a run of neighbouring channels, a lane copies it as it is.
template <class Source, int kRows, int kThreads>
class KeptColumnRows {
 public:
  static constexpr int kBytes = kRows * kRowBytes;

  __device__ KeptColumnRows(const Source& source, int64_t first_row, int first_chunk)
      : source_(source),
        first_chunk_(first_chunk),
        rows_(static_cast<int>(
            min(max(source.rows - first_row - first_of_warp(), int64_t{0}), int64_t{kTurns}))),
        row_(source.row(first_row + first_of_warp())) {}

  __device__ void fetch(int tile, unsigned char* slot) {
    const int chunk = first_chunk_ + tile * kChunks + chunk_of_row();
    const KeptColumn* const columns = source_.table + int64_t{chunk} * kChunkElements<T>;
    const bool there = chunk < source_.chunks;
    is_run_ = there && source_.aligned && is_run(columns);
    Place places[kWordElements];
#pragma unroll
    for (int i = 0; i < kWordElements; ++i)
      places[i] =
          place_of(there ? columns[is_run_ ? 0 : lane_of_chunk() * kWordElements + i] : KeptColumn{-1, 0});
    typename Source::Row row = row_;
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn) {
      const bool present = turn < rows_;
      if (is_run_) {
        const T* const from = present ? find(row, places[0]) : nullptr;
        if (lane_of_chunk() == 0)
          copy_async(slot + swizzled(first_of_warp() + turn, chunk_of_row()), from ? from : source_.data,
                     from != nullptr);
      } else {
        Word word{};
#pragma unroll
        for (int i = 0; i < kWordElements; ++i)
          if (const T* const from = present ? find(row, places[i]) : nullptr) word.numbers[i] = *from;
        held_[turn] = word;
      }
      source_.advance(row);
    }
  }
  __device__ void place(unsigned char* slot) {
    if (is_run_) return;
#pragma unroll
    for (int turn = 0; turn < kTurns; ++turn)
      *reinterpret_cast<Word*>(slot + swizzled(first_of_warp() + turn, chunk_of_row()) +
                               lane_of_chunk() * kWordBytes) = held_[turn];
  }
  __device__ const unsigned char* tile(int, const unsigned char* slot) const { return slot; }

 private:
  using T = std::remove_cv_t<std::remove_pointer_t<decltype(Source::data)>>;
  static constexpr int kWordBytes = 4, kWordElements = kWordBytes / static_cast<int>(sizeof(T));
  static constexpr int kTurns = kRows * 32 / kThreads;
  static_assert(kTurns * kThreads == kRows * 32 && kRowBytes == 32 * kWordBytes, "a warp has whole rows");

  struct alignas(kWordBytes) Word {
    T numbers[kWordElements];
  };
  // What a column reads, from where the patch begins.
  struct Place {
    int y, x;
    int64_t offset;
  };

  static __device__ int first_of_warp() { return static_cast<int>(threadIdx.x) / 32 * kTurns; }
  static __device__ int chunk_of_row() {
    return static_cast<int>(threadIdx.x) % 32 / (kChunkBytes / kWordBytes);
  }
  static __device__ int lane_of_chunk() { return static_cast<int>(threadIdx.x) % (kChunkBytes / kWordBytes); }

  // Columns are in their order: between the first and the last of a run there are all others.
  __device__ bool is_run(const KeptColumn* columns) const {
    const KeptColumn first = columns[0], last = columns[kChunkElements<T> - 1];
    return source_.has(first) && source_.has(last) && first.tap == last.tap &&
           first.channel % kChunkElements<T> == 0 && last.channel - first.channel == kChunkElements<T> - 1;
  }
  __device__ Place place_of(const KeptColumn& column) const {
    if (!source_.has(column)) return {Image<T>::kOutside, 0, 0};
    int x;
    const int y = source_.steps_to(column.tap, x);
    return {y, x, y * source_.image.row_stride + x * source_.image.pixel_stride + column.channel};
  }
  __device__ const T* find(const typename Source::Row& row, const Place& place) const {
    const Image<T>& image = source_.image;
    const int y = row.y + place.y, x = row.x + place.x;
    if (y < 0 || y >= image.height || x < 0 || x >= image.width) return nullptr;
    return row.image + (row.y * image.row_stride + row.x * image.pixel_stride + place.offset);
  }

  const Source& source_;
  int first_chunk_;
  int rows_;                  // of the warp that there are
  typename Source::Row row_;  // of the warp's first
  bool is_run_ = false;
  Word held_[kTurns];
};

}  // namespace cnnkern::cuda
