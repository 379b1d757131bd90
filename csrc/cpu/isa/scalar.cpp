// Inner loops for any CPU and for float64, on the compiler's own 16-byte vectors.
#include "cpu/isa/isa.h"

namespace cnnkern::scalar {
namespace {
#include "cpu/isa/prelude.inc"

template <class Type>
struct Loops {
  using T = Type;

  struct Vec {
    typedef T Reg __attribute__((vector_size(16)));
    typedef T Unaligned __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));
    static constexpr int64_t kLanes = 16 / sizeof(T);
    static INLINE Reg zero() { return Reg{}; }
    static INLINE Reg load(const T* p) { return *reinterpret_cast<const Unaligned*>(p); }
    static INLINE Reg load(const T* p, int64_t lanes) {
      Reg v = zero();
      for (int64_t i = 0; i < kLanes; ++i) {
        if (i < lanes) v[i] = p[i];
      }
      return v;
    }
    using Lanes = const int32_t*;
    static INLINE Lanes lanes(const int32_t* p) { return p; }
    // See GatherWindows.
    static INLINE Reg merge(Reg values, Reg window, Lanes lanes) {
      for (int64_t i = 0; i < kLanes; ++i) {
        if (lanes[i] >= kLanes) values[i] = window[lanes[i] - kLanes];
      }
      return values;
    }
    static INLINE Reg load_where(Reg other, const T* p, uint32_t bits) {
      return load_every(other, p, 1, bits);
    }
    static INLINE Reg load_even_where(Reg other, const T* p, uint32_t bits) {
      return load_every(other, p, 2, bits);
    }
    static INLINE Reg load_every(Reg other, const T* p, int64_t step, uint32_t bits) {
      for (int64_t i = 0; i < kLanes; ++i) {
        if (bits >> i & 1) other[i] = p[i * step];
      }
      return other;
    }
    static INLINE Reg broadcast(const T* p) { return zero() + *p; }
    static INLINE Reg fma(Reg a, Reg b, Reg c) { return a * b + c; }
    static INLINE Reg add(Reg a, Reg b) { return a + b; }
    static INLINE Reg max(Reg a, Reg b) { return b > a ? b : a; }
    static INLINE void store(T* p, Reg v) { *reinterpret_cast<Unaligned*>(p) = v; }
    static INLINE void store(T* p, Reg v, int64_t lanes) {
      for (int64_t i = 0; i < kLanes; ++i) {
        if (i < lanes) p[i] = v[i];
      }
    }
  };

  static constexpr int kTilePixels = 2;
  static constexpr int kTileVectors = static_cast<int>(kPanel / Vec::kLanes);
  static constexpr int kOffsetTilePixels = kTilePixels;
  static constexpr int kOffsetTileVectors = kTileVectors;
  static constexpr int64_t kBlockK = 256;
  static constexpr int kPixelTileRows = 2;
  static constexpr int kPixelTileVectors = kTileVectors;

#include "cpu/isa/depthwise.inc"
#include "cpu/isa/fma_loop.inc"
#include "cpu/isa/gathered.inc"
#include "cpu/isa/gemm.inc"
#include "cpu/isa/scattered.inc"

  static void transpose(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to,
                        int64_t to_stride) {
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = 0; i < rows; ++i) to[j * to_stride + i] = from[i * from_stride + j];
    }
  }

  static void transpose_rows(const T* from, int64_t from_stride, const int32_t* row, int64_t rows,
                             int64_t columns, T* to, int64_t to_stride) {
    for (int64_t j = 0; j < columns; ++j) {
      for (int64_t i = 0; i < rows; ++i) to[j * to_stride + i] = from[row[i] * from_stride + j];
    }
  }

  static constexpr Primitives<T> table() {
    return {.tile_pixels = kTilePixels,
            .gemms = gemms,
            .separable_line = separable_line,
            .depthwise_line = depthwise_line,
            .multiply_add_line = multiply_add_line,
            .dot_line = dot_line,
            .dot_lines = dot_lines,
            .transpose = transpose,
            .fma_loop = fma_loop,
            .gather_pixels = gather_pixels,
            .pixel_gemm = pixel_gemm,
            .gather_windows = gather_windows,
            .window = Vec::kLanes,
            .scattered_gemms = scattered_gemms,
            .transpose_rows = transpose_rows};
  }
};
}  // namespace

const Primitives<float> kPrimitives = Loops<float>::table();
const Primitives<double> kPrimitivesDouble = Loops<double>::table();
}  // namespace cnnkern::scalar
