// int8 GEMM for x86-64 with AMX: a tile register holds 16 rows of 64 bytes, and one instruction multiplies a
// tile of 16 pixels by 16 quads of k with one of 16 quads by 16 output channels, the form that weights are
// packed in.
//
// A block is two tiles of pixels by two panels of output channels, whose sums stay in four tile registers;
// then they go through memory into the vectors of the epilogue. Tiles of pixels are of equal size: where a
// line is no multiple of it, the last one begins earlier and computes some pixels twice. Runs that a tile's
// depth does not divide well are left to the AVX-512 kernel, and so is all that is no matrix product.
#include "cpu/isa/isa.h"

#if defined(__x86_64__) && !defined(CNNKERN_SIMDE)
#include <immintrin.h>
#pragma GCC target("amx-tile,amx-int8,avx512f,avx512dq,avx512bw,avx512vl,avx512vnni,avx2,fma")

namespace cnnkern::amx {
namespace {
#include "cpu/isa/prelude.inc"

#include "cpu/isa/int8_zmm.inc"

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileQuads = 16;
constexpr int64_t kLeastQuads = 4;  // with fewer, most of a multiplication is for nothing

// What ldtilecfg reads: bytes of a row and rows of each tile register.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int64_t tile_rows, int64_t bytes) {
    rows[tile] = static_cast<uint8_t>(tile_rows);
    row_bytes[tile] = static_cast<uint16_t>(bytes);
  }
};

// The largest divisor of `quads` that a tile holds.
int64_t quads_of_tile(int64_t quads) {
  int64_t step = kTileQuads;
  while (quads % step != 0) --step;
  return step;
}

constexpr int64_t kTileSums = kTileRows * kPanel;

// The sums of one or two tiles of pixels, at a0 and a1, against one or two panels, to `sums`
// (panels, 2, kTileRows, kPanel). Tile registers: 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights.
template <int Tiles, int Panels>
INLINE void multiply(const Int8Gemm& g, const uint8_t* a0, const uint8_t* a1, const int8_t* b,
                     int64_t b_panel, int64_t quads, int32_t* sums) {
  constexpr int64_t kBytes = kPanel * kQuad;  // of a row of weights
  _tile_zero(0);
  if constexpr (Tiles == 2) _tile_zero(1);
  if constexpr (Panels == 2) _tile_zero(2);
  if constexpr (Tiles == 2 && Panels == 2) _tile_zero(3);
  for (int64_t r = 0; r < g.runs; ++r, a0 += g.a_run, a1 += g.a_run) {
    for (int64_t k = 0; k < g.quads * kQuad; k += quads * kQuad, b += quads * kBytes) {
      _tile_loadd(6, b, kBytes);
      _tile_loadd(4, a0 + k, g.a_pixel);
      _tile_dpbusd(0, 4, 6);
      if constexpr (Tiles == 2) {
        _tile_loadd(5, a1 + k, g.a_pixel);
        _tile_dpbusd(1, 5, 6);
      }
      if constexpr (Panels == 2) {
        _tile_loadd(7, b + b_panel, kBytes);
        _tile_dpbusd(2, 4, 7);
      }
      if constexpr (Tiles == 2 && Panels == 2) _tile_dpbusd(3, 5, 7);
    }
  }
  _tile_stored(0, sums, kPanel * sizeof(int32_t));
  if constexpr (Tiles == 2) _tile_stored(1, sums + kTileSums, kPanel * sizeof(int32_t));
  if constexpr (Panels == 2) _tile_stored(2, sums + 2 * kTileSums, kPanel * sizeof(int32_t));
  if constexpr (Tiles == 2 && Panels == 2) _tile_stored(3, sums + 3 * kTileSums, kPanel * sizeof(int32_t));
}

// The tiles of pixels of a product: all of `rows` pixels, `count` to a line.
struct PixelTiles {
  int64_t rows, count;

  explicit PixelTiles(int64_t pixels) : count((pixels + kTileRows - 1) / kTileRows) {
    rows = (pixels + count - 1) / count;
  }
};

struct Place {
  const uint8_t* a;
  int64_t c;
};

Place place_of(const Int8Gemm& g, const PixelTiles& tiles, int64_t index) {
  const int64_t l = index / tiles.count, t = index % tiles.count, line = l % g.lines, plane = l / g.lines;
  const int64_t x = t + 1 < tiles.count ? t * tiles.rows : g.pixels - tiles.rows;
  return {g.a + plane * g.a_plane + line * g.a_line + x * g.a_pixel,
          plane * g.c_plane + line * g.c_line + x * g.c_pixel};
}

template <int Tiles, int Panels>
void block(const Int8Gemm& g, int64_t quads, int64_t rows, Place first, Place second, const int8_t* b,
           int64_t b_panel, int64_t column) {
  alignas(64) int32_t sums[4 * kTileSums];
  multiply<Tiles, Panels>(g, first.a, second.a, b, b_panel, quads, sums);
  for (int t = 0; t < Tiles; ++t) {
    const int64_t at = (t == 0 ? first.c : second.c) + column / kPanel * g.c_panel;
    for (int j = 0; j < Panels; ++j) {
      const int64_t lanes = g.columns - column - j * kPanel;
      const int32_t* const from = sums + (2 * j + t) * kTileSums;
      for (int64_t m = 0; m < rows; ++m)
        finish(g.epilogue, column + j * kPanel, Vec::load_integers(from + m * kPanel), lanes, g.c,
               at + m * g.c_pixel + j * g.c_panel);
    }
  }
}

void tile_gemm(const Int8Gemm& g) {
  const int64_t quads = quads_of_tile(g.quads);
  if (quads < kLeastQuads || g.pixels == 0) return gemm(g);
  const PixelTiles tiles(g.pixels);
  TileShapes shapes;
  for (int tile = 0; tile < 4; ++tile) shapes.set(tile, tiles.rows, kPanel * sizeof(int32_t));
  for (int tile = 4; tile < 6; ++tile) shapes.set(tile, tiles.rows, quads * kQuad);
  for (int tile = 6; tile < 8; ++tile) shapes.set(tile, quads, kPanel * kQuad);
  __asm__ volatile("" : : "m"(shapes));  // the intrinsic names its first bytes alone
  _tile_loadconfig(&shapes);
  const int64_t b_panel = g.runs * g.quads * kPanel * kQuad, count = g.planes * g.lines * tiles.count;
  for (int64_t column = 0; column < g.columns; column += 2 * kPanel) {
    const int8_t* const b = g.b + column / kPanel * b_panel;
    const bool pair = g.columns - column > kPanel;
    for (int64_t i = 0; i < count; i += 2) {
      const Place first = place_of(g, tiles, i), second = i + 1 < count ? place_of(g, tiles, i + 1) : first;
      const auto run = i + 1 < count ? (pair ? block<2, 2> : block<2, 1>) : pair ? block<1, 2> : block<1, 1>;
      run(g, quads, tiles.rows, first, second, b, b_panel, column);
    }
  }
  _tile_release();
}

}  // namespace

const Int8Primitives kInt8Primitives = {
    "amx",    kTileRows,         false,        tile_gemm, depthwise_line, transpose, transpose_rows,
    quantize, quantize_elements, add_elements, max_line,  split_columns};
}  // namespace cnnkern::amx
#endif
