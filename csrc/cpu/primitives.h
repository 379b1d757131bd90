// The inner loops that every CPU kernel is built from: one table of them per instruction set and type.
//
// Weights come in panels of kPanel output channels, [panel][k][kPanel], whatever the instruction set, so that
// a packed tensor means the same on every machine; a wide instruction set walks several panels at once.
#pragma once
#include <cstdint>

namespace cnnkern {

constexpr int64_t kPanel = 16;

// Elements that a pointer takes in a scratch of T.
template <class T>
constexpr int64_t kPointerSize = static_cast<int64_t>(sizeof(void*) / sizeof(T));

constexpr int64_t panels(int64_t columns) { return (columns + kPanel - 1) / kPanel; }
constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}
// A size rounded up so that arrays of it do not fall into the same cache sets.
constexpr int64_t apart(int64_t size) { return (panels(size) | 1) * kPanel; }

// Where the k values of a pixel lie in A: `rows` rows of `taps` taps of `depth` adjacent values, and k runs
// over them in that order. Some rows and taps may be left out, those of a patch that lie in an image's
// padding: the values there are zero and their products are not computed.
struct Patch {
  int64_t depth;                       // of a tap
  int64_t taps = 1;                    // of a row
  int64_t rows = 1;                    // of the patch
  int64_t first_row = 0, row_end = 1;  // rows [first_row, row_end) take part,
  int64_t first_tap = 0, tap_end = 1;  // and taps [first_tap, tap_end) of them
  int64_t a_row = 0;                   // from one row to the next
  int64_t a_tap = 0;                   // from one tap to the next; where it is `depth`, taps are adjacent

  // All of `rows` rows of `taps` taps.
  static Patch whole(int64_t rows, int64_t a_row, int64_t taps, int64_t a_tap, int64_t depth) {
    return {depth, taps, rows, 0, rows, 0, taps, a_row, a_tap};
  }
  static Patch line(int64_t depth) { return whole(1, 0, 1, 0, depth); }
  int64_t size() const { return rows * taps * depth; }
};

// Values [begin, end) of k.
struct Terms {
  int64_t begin, end;
};

// C[plane][line][pixel][column] (+)= sum over k of A[plane][line][pixel][k] B[k][column]: a matrix product
// whose rows need no packing, since a pixel's patch is read where it lies. All strides and offsets are in
// elements; nothing is owned.
template <class T>
struct Gemm {
  const T* a;       // the patch's row 0, tap 0 of the first pixel of the first line of the first plane
  int64_t a_pixel;  // from one pixel to the next
  int64_t a_line;   // from one line to the next
  int64_t a_plane;  // from one plane to the next
  int64_t pixels;   // in a line
  int64_t lines;    // in a plane
  int64_t planes = 1;
  Patch patch;
  // Where k runs over `term_ranges` ascending ranges instead: `patch` is a line of all its values, of which
  // the k-th is a[k], or a[offset[k]]. There is no ReLU then.
  const Terms* terms;
  int64_t term_ranges;
  const int64_t* offset;  // or null
  const T* b;             // (panels(columns), k, kPanel), whole panels
  int64_t b_panel;        // from one panel to the next
  int64_t b_step;         // from one k to the next: kPanel where packed
  T* c;
  int64_t c_pixel;
  int64_t c_line;
  int64_t c_plane;
  int64_t c_panel;  // kPanel where the columns of C are adjacent
  int64_t columns;
  const T* bias;    // (columns), added when not accumulating; may be null
  bool accumulate;  // start from C
  bool relu;        // max(C, 0) at the end
};

// One output line of two depthwise passes, kH x 1 then 1 x kW, over one panel of channels.
template <class T>
struct SeparableLine {
  const T* const* rows;  // (kernel_height): each (width, kPanel)
  int64_t kernel_height;
  int64_t kernel_width;
  int64_t width;      // of the rows
  int64_t pad_left;   // zeros before column 0
  int64_t stride;     // of the horizontal pass
  int64_t dilation;   // of the horizontal pass
  const T* factor_h;  // (kernel_height, kPanel)
  const T* factor_w;  // (kernel_width, kPanel)
  T* line;            // scratch (padded width, kPanel), zero outside [pad_left, pad_left + width)
  T* out;             // (out_width) pixels of kPanel values
  int64_t out_width;
  int64_t out_pixel;  // from one pixel of out to the next
};

// One output line of a depthwise convolution over one panel of channels.
template <class T>
struct DepthwiseLine {
  const T* x;                 // the tap (0, 0) of the first pixel
  int64_t x_pixel;            // from one output pixel to the next
  const int64_t* tap_offset;  // (taps)
  int64_t taps;
  const T* weight;  // (taps, kPanel)
  const T* bias;    // (channels) or null
  T* out;
  int64_t out_width;
  int64_t out_pixel;
  int64_t channels;  // of this panel, 1 to kPanel
  bool relu;
};

// How the kept values of a channels-last patch are gathered, vector by vector: vector v is put together from
// the windows [vector[v], vector[v + 1]), each a vector of memory at offset[w], of which lane i becomes
// lanes[w][i] - window, or stays what it is where lanes[w][i] is i.
struct GatherWindows {
  const int64_t* vector;  // (vectors + 1)
  const int64_t* offset;  // (windows), from the patch's base
  const int32_t* lanes;   // (windows, Primitives::window)
};

// Values of the kPanel pixels of a panel of a channel-first image, for the k's [first, last):
// to[k - first][lane] = x[base[r] + lane * step + offset[k]] where the run r has the lane and k's tap of it
// is inside the image, else zero. Sets of lanes are bits.
template <class T>
struct GatherPixels {
  const T* x;
  const int64_t* base;    // (runs)
  const uint32_t* lanes;  // (runs)
  int64_t runs;
  int64_t step;
  const uint32_t* rows;     // (kernel_height): the lanes that are inside
  const uint32_t* columns;  // (kernel_width): the lanes that are inside
  int64_t kernel_height;
  int64_t kernel_width;
  const int64_t* begin;   // (taps + 1): the first k of each tap
  const int64_t* offset;  // (k)
  int64_t first, last;
  T* to;  // (last - first, kPanel)
};

// C[row][pixel] (+)= sum over k of A[k][row] B[k][pixel]: packed weights, against pixels that lie in panels.
template <class T>
struct PixelGemm {
  const T* weights;      // (panels(rows), k, kPanel)
  int64_t weight_panel;  // from one panel to the next
  int64_t rows;
  const T* pixels;  // (panels(count), depth, kPanel)
  int64_t depth;
  int64_t count;
  T* c;
  int64_t c_row;    // from one row to the next; pixels are adjacent
  const T* bias;    // (rows), added when not accumulating; may be null
  bool accumulate;  // start from C
};

// A piece of the sum over k: values k, k + 1, ... of pixel i are a[i][offset], a[i][offset + 1], ...
template <class T>
struct PixelStep {
  const T* const* a;  // (pixels)
  int64_t offset;
  int64_t k;
  int64_t length;
};

// C[pixel][column] = sum over k of A[pixel][k] B[k][column] for pixels that lie anywhere, and whose results
// do. The k's are those of a patch's rows.
template <class T>
struct ScatteredGemm {
  const PixelStep<T>* steps;  // (rows, row_steps), in the order of k
  int64_t rows;
  int64_t row_steps;
  int64_t row_depth;  // k's of a row
  const T* zeros;     // where pixels are read that are zero; may be null
  int64_t pixels;
  T* const* c;       // (pixels)
  int64_t c_column;  // from there to column 0
  const T* b;        // (panels(columns), k, kPanel)
  int64_t b_panel;
  int64_t columns;
  const T* bias;  // (columns), may be null
};

template <class T>
struct Primitives {
  int64_t tile_pixels;  // rows of the GEMM tile: pixels that are worked on at once
  // Products that differ only in their pixels and in what takes part of their patches: B is read once for
  // all.
  void (*gemms)(const Gemm<T>* parts, int64_t count);
  void (*separable_line)(const SeparableLine<T>&);
  void (*depthwise_line)(const DepthwiseLine<T>&);
  // to[x][lane] += factor[lane] from[x][lane], for the kPanel lanes of `pixels` pixels.
  void (*multiply_add_line)(const T* factor, const T* from, int64_t from_pixel, T* to, int64_t to_pixel,
                            int64_t pixels);
  // sum[lane] += sum over x of a[x][lane] b[x][lane], for the kPanel lanes of `pixels` pixels.
  void (*dot_line)(const T* a, int64_t a_pixel, const T* b, int64_t b_pixel, int64_t pixels, T* sum);
  // sum[line][lane] += sum over x of lines[line][x][lane] b[x][lane], for `count` lines.
  void (*dot_lines)(const T* const* lines, int64_t count, int64_t line_pixel, const T* b, int64_t b_pixel,
                    int64_t pixels, T* sum);
  // to[column * to_stride + row] = from[row * from_stride + column]
  void (*transpose)(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                    int64_t to_stride);
  // A register-only loop of fused multiply-adds; returns how many floating-point operations it did.
  double (*fma_loop)(int64_t iterations);
  void (*gather_pixels)(const GatherPixels<T>&);
  void (*pixel_gemm)(const PixelGemm<T>&);
  // to[pixel] = the vectors [first, last) of the patch at from[pixel].
  void (*gather_windows)(const T* from, int64_t from_pixel, int64_t pixels, const GatherWindows&,
                         int64_t first, int64_t last, T* to, int64_t to_pixel);
  int64_t window;  // in elements
  // Products that differ only in their pixels and steps: B is read once for all.
  void (*scattered_gemms)(const ScatteredGemm<T>* parts, int64_t count);
  // to[column * to_stride + i] = from[row[i] * from_stride + column] for `rows` rows
  void (*transpose_rows)(const T* from, int64_t from_stride, const int32_t* row, int64_t rows,
                         int64_t columns, T* to, int64_t to_stride);

  void gemm(const Gemm<T>& product) const { gemms(&product, 1); }
};

}  // namespace cnnkern
