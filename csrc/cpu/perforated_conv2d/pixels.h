// The patches of a band's kept outputs, as the product reads them: where they lie in a channels-last image,
// with a pointer for each patch, or, for those of which a part lies outside the image, for each tap.
#pragma once
#include "cpu/conv2d/rectangles.h"
#include "cpu/perforated_conv2d/plan.h"
#include "cpu/primitives.h"

namespace cnnkern {

// Output positions [begin, end) along an axis have all taps inside the image.
struct Inner {
  int64_t begin, end;
  explicit Inner(const ConvolutionAxis& axis) {
    const int64_t room = axis.in_size - 1 + axis.pad - (axis.kernel - 1) * axis.dilation;
    begin = (axis.pad + axis.stride - 1) / axis.stride;
    end = std::max(begin, room < 0 ? 0 : room / axis.stride + 1);
  }
  // 0 before, 1 within, 2 behind.
  int64_t side(int64_t position) const { return (position >= begin) + (position >= end); }
};

constexpr int64_t kSides = 9;  // of the image that a patch can lie on, of which ...
constexpr int64_t kInside = 4;

// Calls body(j, y, x, side) for the kept outputs j of a piece.
template <class Body>
void for_kept(const Conv2dShape& s, const Piece& piece, const Body& body) {
  if (piece.count() == 0) return;
  const Inner vertically(vertical(s)), horizontally(horizontal(s));
  int64_t y = piece.kept[piece.first] / s.out_width, side = 3 * vertically.side(y);
  for (int64_t j = piece.first; j < piece.last; ++j) {
    while (piece.kept[j] >= (y + 1) * s.out_width) side = 3 * vertically.side(++y);
    const int64_t x = piece.kept[j] - y * s.out_width;
    body(j, y, x, side + horizontally.side(x));
  }
}

// Where the patches of a piece's kept outputs lie, and where their results go.
template <class T>
struct PieceAt {
  const T* x;          // pixel (0, 0) of the channels-last image, or the pixels of the kept outputs alone,
  bool x_by_position;  // which 1 x 1 patches can be read from
  T* y;
  int64_t y_pixel;     // from one result to the next,
  bool y_by_position;  // where they are those of all outputs, else of the piece's kept ones
  // Tap (0, 0) of the j-th kept output, which lies at (top, left) and may be outside.
  const T* patch(const Conv2dShape& s, const Piece& piece, int64_t j, int64_t top, int64_t left) const {
    return x +
           (x_by_position ? top * row_pitch(s) + left * s.in_channels : (j - piece.first) * s.in_channels);
  }
  T* result(const Piece& piece, int64_t j) const {
    return y + (y_by_position ? piece.kept[j] : j - piece.first) * y_pixel;
  }
};

// The patches of a band in an order in which those on the same side of the image follow one another.
template <class T>
struct Pixels {
  const T** inside;  // (inside_count): tap (0, 0)
  const T** border;  // (taps, border_count)
  T** c;             // (inside_count + border_count)
  const T* zeros;
  int64_t inside_count, border_count;
};

template <class T>
void find_pixels(const Conv2dShape& s, const Piece* pieces, const PieceAt<T>* at, int64_t count,
                 Pixels<T>& to) {
  int64_t next[kSides] = {};
  for (int64_t i = 0; i < count; ++i)
    for_kept(s, pieces[i], [&](int64_t, int64_t, int64_t, int64_t side) { ++next[side]; });
  to.inside_count = next[kInside];
  to.border_count = 0;
  for (int64_t side = 0; side < kSides; ++side) {
    if (side == kInside) continue;
    to.border_count += next[side];
    next[side] = to.border_count - next[side];
  }
  next[kInside] = 0;
  to.border = to.inside + to.inside_count;
  for (int64_t i = 0; i < count; ++i) {
    for_kept(s, pieces[i], [&](int64_t j, int64_t y, int64_t x, int64_t side) {
      const int64_t top = y * s.stride_height - s.pad_height, left = x * s.stride_width - s.pad_width;
      const T* const tap = at[i].patch(s, pieces[i], j, top, left);
      const int64_t index = next[side]++;
      to.c[index + (side == kInside ? 0 : to.inside_count)] = at[i].result(pieces[i], j);
      if (side == kInside) {
        to.inside[index] = tap;
        return;
      }
      const T** entry = to.border + index;
      for (int64_t row = 0; row < s.kernel_height; ++row) {
        const int64_t in_y = top + row * s.dilation_height;
        for (int64_t column = 0; column < s.kernel_width; ++column, entry += to.border_count) {
          const int64_t in_x = left + column * s.dilation_width;
          const bool outside = in_y < 0 || in_y >= s.in_height || in_x < 0 || in_x >= s.in_width;
          *entry = outside ? to.zeros
                           : tap + row * s.dilation_height * row_pitch(s) +
                                 column * s.dilation_width * s.in_channels;
        }
      }
    });
  }
}

// The products of the two kinds of patches, for one group; returns how many there are. `steps` has room for
// 2 * taps.
template <class T>
int64_t fill_parts(const Conv2dShape& s, const Pixels<T>& pixels, int64_t group, PixelStep<T>* steps,
                   ScatteredGemm<T>* parts) {
  const int64_t channels = s.in_channels / s.groups, taps = s.kernel_height * s.kernel_width;
  const bool whole_rows = s.groups == 1 && s.dilation_width == 1;  // whose taps lie together
  ScatteredGemm<T> any{};
  any.rows = s.kernel_height;
  any.row_depth = s.kernel_width * channels;
  int64_t count = 0;
  if (pixels.inside_count > 0) {
    ScatteredGemm<T>& part = parts[count++] = any;
    part.steps = steps;
    part.row_steps = whole_rows ? 1 : s.kernel_width;
    part.pixels = pixels.inside_count;
    part.c = pixels.c;
    for (int64_t tap = 0; tap < taps; tap += s.kernel_width / part.row_steps) {
      const int64_t row = tap / s.kernel_width, column = tap % s.kernel_width;
      *steps++ = {pixels.inside,
                  row * s.dilation_height * row_pitch(s) + column * s.dilation_width * s.in_channels +
                      group * channels,
                  tap * channels, any.row_depth / part.row_steps};
    }
  }
  if (pixels.border_count > 0) {
    ScatteredGemm<T>& part = parts[count++] = any;
    part.steps = steps;
    part.row_steps = s.kernel_width;
    part.zeros = pixels.zeros;
    part.pixels = pixels.border_count;
    part.c = pixels.c + pixels.inside_count;
    for (int64_t tap = 0; tap < taps; ++tap)
      *steps++ = {pixels.border + tap * pixels.border_count, group * channels, tap * channels, channels};
  }
  return count;
}

}  // namespace cnnkern
