// See plan.h. Rows first, since the greatest of a window's rows serves all windows of an output row that a
// column is in, and is found in whole vectors in either layout.
#include "cpu/int8_max_pool2d/int8_max_pool2d.h"

#include <cstring>

#include "cpu/int8_max_pool2d/plan.h"
#include "cpu/parallel.h"
#include "cpu/registry.h"

namespace cnnkern {
namespace {

// How many of `pixels` pixels, `step` bytes apart, end with `reach` bytes within the first `bytes`.
int64_t within(int64_t bytes, int64_t reach, int64_t step, int64_t pixels) {
  return reach > bytes ? 0 : std::min(pixels, (bytes - reach) / step + 1);
}

// Rows of windows, one thread's.
class Pooling {
 public:
  Pooling(const Int8MaxPool2dParams& params, uint8_t* scratch)
      : params_(params),
        plan_(params),
        kernels_(int8_primitives()),
        row_offsets_(reinterpret_cast<int64_t*>(scratch)),
        column_offsets_(row_offsets_ + plan_.height.kernel),
        band_(scratch + plan_.offsets_bytes),
        phases_(band_ + plan_.band_bytes),
        least_(params.is_signed ? 0x80 : 0) {
    const PoolAxis& width = plan_.width;
    for (int64_t i = 0; i < plan_.height.kernel; ++i)
      row_offsets_[i] = i * plan_.height.dilation * plan_.image_row;
    for (int64_t j = 0; j < width.kernel; ++j) {
      const int64_t column = j * width.dilation;
      column_offsets_[j] = plan_.split
                               ? column % width.stride * plan_.rows * plan_.phase_row + column / width.stride
                               : column * plan_.pixel;
    }
    for (int64_t r = 0; r < plan_.rows; ++r) fill(band_ + r * plan_.band_row, plan_.left);
  }

  // Rows [begin, end) of y, the rows of all planes counted.
  void compute(int64_t begin, int64_t end) const {
    const int64_t out = plan_.height.out;
    for (int64_t row = begin; row < end;) {
      const int64_t count = std::min(plan_.rows, end - row);
      for (int64_t r = 0, same; r < count; r += same) {
        const int64_t first = (row + r) % out;
        same = std::min(out - first, count - r);
        rows_of_plane((row + r) / out, first, same, band_ + r * plan_.band_row);
      }
      columns(row, count, end);
      row += count;
    }
  }

 private:
  void fill(uint8_t* to, int64_t bytes) const { std::memset(to, least_, static_cast<size_t>(bytes)); }

  // The greatest of the rows of the windows of `count` output rows, to rows of the band.
  void rows_of_plane(int64_t plane, int64_t first, int64_t count, uint8_t* band) const {
    const PoolAxis& height = plan_.height;
    const int64_t size = plan_.planes * height.in * plan_.image_row;  // of x
    for (int64_t r = 0; r < count;) {
      const int64_t y = (first + r) * height.stride - height.pad, behind = height.in - y;
      const int64_t begin = y < 0 ? std::min(height.kernel, (-y + height.dilation - 1) / height.dilation) : 0;
      const int64_t end =
          behind > 0 ? std::min(height.kernel, (behind - 1) / height.dilation + 1) : int64_t{0};
      uint8_t* const to = band + r * plan_.band_row + plan_.left;
      if (end <= begin) {
        fill(to, plan_.image_row);
        ++r;
        continue;
      }
      const int64_t reach = (height.kernel - 1) * height.dilation + 1;
      const bool whole = begin == 0 && end == height.kernel;
      const int64_t same = whole ? std::min(count - r, (behind - reach) / height.stride + 1) : 1;
      const int64_t at = (plane * height.in + y + begin * height.dilation) * plan_.image_row;
      const int64_t last = (end - begin - 1) * height.dilation * plan_.image_row;
      const int64_t step = height.stride * plan_.image_row;
      kernels_.max_line({params_.x + at, step, row_offsets_, end - begin, to, plan_.band_row, same,
                         plan_.image_row,
                         within(size - at, last + round_up(plan_.image_row, kMostVectorBytes), step, same),
                         params_.is_signed});
      r += same;
    }
    for (int64_t r = 0; plan_.windows_end > plan_.right && r < count; ++r)
      fill(band + r * plan_.band_row + plan_.right, plan_.windows_end - plan_.right);
  }

  // The greatest of their columns, to y, of which this thread has the rows in front of `end`.
  void columns(int64_t row, int64_t count, int64_t end) const {
    uint8_t* const y = params_.y + row * plan_.out_row;
    const uint8_t* const windows = band_ + plan_.skipped;
    const int64_t bytes = (end - row) * plan_.out_row, step = plan_.width.stride * plan_.pixel;
    if (params_.channels_last) {
      for (int64_t r = 0; r < count; ++r)
        to_output(windows + r * plan_.band_row, step, y + r * plan_.out_row, plan_.pixel, plan_.width.out,
                  bytes - r * plan_.out_row);
    } else if (!plan_.split) {
      to_output(windows, plan_.band_row, y, plan_.out_row, count, bytes);
    } else {
      kernels_.split_columns({windows, plan_.band_row, count, plan_.width.stride, plan_.phases,
                              plan_.in_phase, phases_, plan_.phase_row, plan_.rows * plan_.phase_row});
      to_output(phases_, plan_.phase_row, y, plan_.out_row, count, bytes);
    }
  }

  // `count` pieces of y that are adjacent, with `bytes` bytes before another thread's.
  void to_output(const uint8_t* from, int64_t step, uint8_t* y, int64_t piece, int64_t count,
                 int64_t bytes) const {
    const int64_t whole = within(bytes, round_up(piece, kMostVectorBytes), piece, count);
    kernels_.max_line(
        {from, step, column_offsets_, plan_.width.kernel, y, piece, count, piece, whole, params_.is_signed});
  }

  const Int8MaxPool2dParams& params_;
  const MaxPoolPlan plan_;
  const Int8Primitives& kernels_;
  int64_t* const row_offsets_;
  int64_t* const column_offsets_;
  uint8_t* const band_;
  uint8_t* const phases_;
  const uint8_t least_;
};

}  // namespace

int64_t int8_max_pool2d_scratch(const Int8MaxPool2dParams& params, int64_t threads) {
  return MaxPoolPlan(params).bytes() * threads;
}

void int8_max_pool2d(const Int8MaxPool2dParams& params, uint8_t* scratch, int64_t threads) {
  const MaxPoolPlan plan(params);
  const int64_t rows = plan.planes * plan.height.out;
  if (plan.is_empty()) {
    std::memset(params.y, params.is_signed ? 0x80 : 0, static_cast<size_t>(rows * plan.out_row));
    return;
  }
  parallel(threads, [&](const Worker& worker) {
    const auto [begin, end] = worker.share(rows);
    Pooling(params, scratch + worker.index * plan.bytes()).compute(begin, end);
  });
}

}  // namespace cnnkern
