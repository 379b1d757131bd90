// Which outputs of a perforated convolution are computed, and who shows them, as kernels look it up. They do
// not trust the arrays, which anyone may have made.
#pragma once
#include "cuda/perforated_conv2d/perforated_conv2d.h"

namespace cnnkern::cuda {

// The kept outputs of all images as rows of a product, and after them a row for each other output: that of
// one which shows zero stands for it, that of one which shows something else for nothing.
struct KeptRows {
  Arranged arranged;
  const int64_t* begin;  // (N + 1), the kept outputs before each image, where each has a mask
  int64_t images;
  int area;

  struct Row {
    int64_t image;
    int first, last;  // in the list of positions
    bool kept;
  };

  KeptRows(const Conv2dShape& s, const Arranged& arranged, const int64_t* begin)
      : arranged(arranged),
        begin(begin),
        images(s.batch),
        area(static_cast<int>(s.out_height * s.out_width)) {}

  __host__ __device__ int64_t all() const { return images * area; }
  // The rows that have something to multiply.
  __device__ int64_t count() const { return begin ? begin[images] : images * count_of(0); }
  __device__ int count_of(int64_t image) const {
    const int last = positions(image)[2 * area - 1];
    return last >= 0 ? area : min(~last, area);
  }
  // Row m of all, the first `count` of which are kept outputs.
  __device__ Row row(int64_t m, int64_t count) const {
    const bool kept = m < count;
    const int64_t rest = kept ? m : m - count;
    if (!begin) {
      const int of_each = kept ? count_of(0) : area - count_of(0);
      const int64_t image = rest / of_each;
      return row_of(image, static_cast<int>(rest - image * of_each) + (kept ? 0 : count_of(0)));
    }
    const auto before = [&](int64_t image) { return kept ? begin[image] : image * area - begin[image]; };
    int64_t first = 0, last = images;  // the image is in [first, last)
    while (last - first > 1) {
      const int64_t middle = (first + last) / 2;
      (before(middle) <= rest ? first : last) = middle;
    }
    return row_of(first, static_cast<int>(rest - before(first)) + (kept ? 0 : count_of(first)));
  }
  // Kept output `index` of an image; from their count on, the others.
  __device__ Row row_of(int64_t image, int index) const {
    const int count = count_of(image);
    if (index >= count) return {image, index, index + 1, false};
    const int32_t* const begins = positions(image) + area;
    return {image, max(begins[index], 0), index + 1 < count ? min(begins[index + 1], area) : area, true};
  }
  // Whether some of the rows from `first` to `last`, of which none is kept, may stand for zeros.
  __device__ bool show_zeros(int64_t first, int64_t last, int64_t count) const {
    const int64_t end = row(last, count).image;
    for (int64_t image = row(first, count).image; image <= end; ++image)
      if (positions(image)[area - 1] < 0) return true;
    return false;
  }
  // Where a kept output is, or -1.
  __device__ int position(const Row& row) const {
    const int position = row.first < row.last ? positions(row.image)[row.first] : -1;
    return position < area ? position : -1;
  }
  // Calls visit(position) with all outputs that show a row.
  template <class Visit>
  __device__ void visit(const Row& row, const Visit& visit) const {
    const int32_t* const list = positions(row.image);
    for (int i = row.first; i < row.last; ++i) {
      const int position = row.kept ? list[i] : ~list[i];
      if (position < 0) return;
      if (position < area) visit(position);
    }
  }

 private:
  __device__ const int32_t* positions(int64_t image) const {
    return arranged.arrays + (arranged.each_image ? image * 2 * area : 0);
  }
};

}  // namespace cnnkern::cuda
