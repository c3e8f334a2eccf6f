// The kernels, written once over the sixteen floats of a simd_*.h. Each instruction set's translation unit includes
// this after its own; nothing here has external linkage, so that no unit can lend its code to another.
#pragma once
#include <string.h>

#include "kernels.h"

namespace {

using namespace slipway;

#define UNROLL _Pragma("GCC unroll 32")

// e to the x within 1 ulp or so; 0 below -87, never infinite.
F exp_of(F x) {
  F low = set1(-87.0f), clamped = min(max(x, low), set1(88.0f));
  F n = round(mul(clamped, set1(1.44269504088896341f)));
  F r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  p = add(fma(mul(r, r), p, r), set1(1.0f));
  return where_less(x, low, zero(), mul(p, pow2(n)));
}

F tanh_of(F x) {  // 1 - 2 / (e^2x + 1)
  F e = exp_of(min(add(x, x), set1(80.0f)));
  return sub(set1(1.0f), div(set1(2.0f), add(e, set1(1.0f))));
}

F gate(F x, Finish finish) {
  if (finish == Finish::kSwiGLU) return div(x, add(set1(1.0f), exp_of(sub(zero(), x))));
  F inner = mul(set1(0.7978845608028654f), fma(mul(mul(x, x), x), set1(0.044715f), x));
  return mul(mul(set1(0.5f), x), add(set1(1.0f), tanh_of(inner)));
}

// ---- f32 tiles: c[rows][vectors] = a[rows][k] * b[k][vectors], continuing from c where `more` -------------------

template <int ROWS, int VECTORS>
void tile(const float* a, int64_t lda, const float* b, int64_t ldb, int64_t k, float* c, int64_t ldc, bool more) {
  F sums[ROWS][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = more ? load(c + r * ldc + v * kLanes) : zero();
  for (int64_t i = 0; i < k; i++) {
    F w[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) w[v] = load(b + i * ldb + v * kLanes);
    UNROLL for (int r = 0; r < ROWS; r++) {
      F x = set1(a[r * lda + i]);
      UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = fma(x, w[v], sums[r][v]);
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) store(c + r * ldc + v * kLanes, sums[r][v]);
}

using Tile = void (*)(const float*, int64_t, const float*, int64_t, int64_t, float*, int64_t, bool);

template <int VECTORS>
Tile tile_of(int rows) {
  static const Tile tiles[] = {tile<1, VECTORS>, tile<2, VECTORS>, tile<3, VECTORS>, tile<4, VECTORS>,
#if SLIPWAY_TILE_ROWS >= 6
                               tile<5, VECTORS>, tile<6, VECTORS>,
#endif
#if SLIPWAY_TILE_ROWS >= 12
                               tile<7, VECTORS>, tile<8, VECTORS>, tile<9, VECTORS>, tile<10, VECTORS>,
                               tile<11, VECTORS>, tile<12, VECTORS>,
#endif
  };
  return tiles[rows - 1];
}

// Any number of rows, in tiles of about equal height.
void multiply(const float* a, int64_t lda, int rows, const float* b, int64_t ldb, int64_t k, float* c, int64_t ldc,
              int64_t vectors, bool more) {
  int tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t v = 0; v < vectors; v += kTileVectors) {
    bool narrow = vectors - v < kTileVectors;
    for (int t = 0, row = 0; t < tiles; t++) {
      int height = rows * (t + 1) / tiles - row;
      Tile run = narrow ? tile_of<1>(height) : tile_of<kTileVectors>(height);
      run(a + row * lda, lda, b + v * kLanes, ldb, k, c + row * ldc + v * kLanes, ldc, more);
      row += height;
    }
  }
}

// ---- unpacking: k rows of 32 floats, the checkpoint's own values ------------------------------------------------

const uint16_t* halves(const uint8_t* p) { return (const uint16_t*)p; }

void unpack_q8(const uint8_t* group, float* out) {
  F scale[2] = {load_f16(halves(group)), load_f16(halves(group) + kLanes)};
  for (int j = 0; j < 8; j++)
    for (int v = 0; v < 2; v++) {
      Words w = load_words(group + 64 + j * 128 + v * 64);
      UNROLL for (int i = 0; i < 4; i++) store(out + (4 * j + i) * kPanel + v * kLanes, mul(signed_byte(w, i), scale[v]));
    }
}

// Scales and minima of a block of nibbles: the value is scale * nibble + low, rounded once.
void nibble_scales(Format format, const uint8_t* group, int v, F* scale, F* low) {
  *scale = load_f16(halves(group) + v * kLanes);
  *low = format == kQ4_1 ? load_f16(halves(group) + kPanel + v * kLanes) : mul(*scale, set1(-8.0f));
}

void unpack_q4(Format format, const uint8_t* group, float* out) {
  const uint8_t* bytes = group + (format == kQ4_1 ? 128 : 64);
  for (int v = 0; v < 2; v++) {
    F scale, low;
    nibble_scales(format, group, v, &scale, &low);
    for (int j = 0; j < 4; j++) {
      Words w = load_words(bytes + j * 128 + v * 64);
      UNROLL for (int i = 0; i < 4; i++) {
        store(out + (4 * j + i) * kPanel + v * kLanes, fma(nibble(w, 2 * i), scale, low));
        store(out + (16 + 4 * j + i) * kPanel + v * kLanes, fma(nibble(w, 2 * i + 1), scale, low));
      }
    }
  }
}

// Return k rows of 32 floats from row `k0` of a panel on, unpacked into `out` where they are not floats already.
const float* unpack(const Matrix& w, const uint8_t* panel, int64_t k0, int64_t k, float* out) {
  if (w.format == kF32) return (const float*)panel + k0 * kPanel;
  if (!is_quantised(w.format)) {
    const uint16_t* from = halves(panel) + k0 * kPanel;
    for (int64_t i = 0; i < k * kPanel; i += kLanes)
      store(out + i, w.format == kF16 ? load_f16(from + i) : load_bf16(from + i));
    return out;
  }
  for (int64_t i = 0; i < k; i += kGroup) {
    const uint8_t* group = panel + (k0 + i) / kGroup * group_bytes(w.format);
    if (w.format == kQ8_0) unpack_q8(group, out + i * kPanel);
    else unpack_q4(w.format, group, out + i * kPanel);
  }
  return out;
}

void unpack_row(const Matrix& w, int64_t row, float scale, float* out) {
  alignas(64) float slab[kGroup * kPanel];
  const uint8_t* panel = w.data + row / kPanel * w.panel_bytes;
  for (int64_t k = 0; k < w.k; k += kGroup) {
    int64_t count = w.k - k < kGroup ? w.k - k : kGroup;
    const float* values = unpack(w, panel, k, count, slab);
    for (int64_t i = 0; i < count; i++) out[k + i] = scale * values[i * kPanel + row % kPanel];
  }
}

// ---- linears -----------------------------------------------------------------------------------------------------

// Take a panel's sums [rows, 32] to where they belong.
void finish(const Epilogue& e, const float* sums, int rows, int64_t panel) {
  F scale = set1(e.scale);
  F bias[2] = {zero(), zero()};
  if (e.bias)
    for (int v = 0; v < 2; v++) bias[v] = load(e.bias + panel * kPanel + v * kLanes);
  for (int r = 0; r < rows; r++, sums += kPanel) {
    F first = add(load(sums), bias[0]), second = add(load(sums + kLanes), bias[1]);
    if (e.finish == Finish::kSwiGLU || e.finish == Finish::kGeGLU) {
      store(e.y + r * e.ldy + panel * kLanes, mul(gate(first, e.finish), second));
      continue;
    }
    float* y = e.y + r * e.ldy + panel * kPanel;
    if (e.columns && e.columns < (panel + 1) * kPanel) {
      float last[kPanel];
      store(last, mul(first, scale));
      store(last + kLanes, mul(second, scale));
      for (int64_t i = 0; i < e.columns - panel * kPanel; i++) y[i] = last[i];
      continue;
    }
    bool adds = e.finish == Finish::kAdd;
    store(y, fma(first, scale, adds ? load(y) : zero()));
    store(y + kLanes, fma(second, scale, adds ? load(y + kLanes) : zero()));
  }
}

// Few rows: the weights are unpacked in registers and used at once, the same values in the same order as by slabs.
template <Format FORMAT, int ROWS, int PANELS>
void direct(const Matrix& w, int64_t panel, const float* x, int64_t ldx, float* out) {
  constexpr int kVectors = PANELS * 2;
  F sums[ROWS][kVectors];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < kVectors; v++) sums[r][v] = zero();
  const uint8_t* data[PANELS];
  UNROLL for (int p = 0; p < PANELS; p++) data[p] = w.data + (panel + p) * w.panel_bytes;
  auto use = [&](F weight, int v, int64_t k) __attribute__((always_inline)) {
    UNROLL for (int r = 0; r < ROWS; r++) sums[r][v] = fma(set1(x[r * ldx + k]), weight, sums[r][v]);
  };
  if constexpr (!(FORMAT >= kQ8_0)) {
    for (int64_t k = 0; k < w.k; k++)
      UNROLL for (int v = 0; v < kVectors; v++) {
        const int64_t at = k * kPanel + v % 2 * kLanes;
        if constexpr (FORMAT == kF32) use(load((const float*)data[v / 2] + at), v, k);
        else if constexpr (FORMAT == kF16) use(load_f16(halves(data[v / 2]) + at), v, k);
        else use(load_bf16(halves(data[v / 2]) + at), v, k);
      }
  } else {
    constexpr int kBytes = FORMAT == kQ8_0 ? 64 + 1024 : FORMAT == kQ4_0 ? 64 + 512 : 128 + 512;
    constexpr int kHeader = FORMAT == kQ4_1 ? 128 : 64;
    for (int64_t k = 0; k < w.k; k += kGroup) {
      F scale[kVectors], low[kVectors];
      UNROLL for (int v = 0; v < kVectors; v++) {
        if constexpr (FORMAT == kQ8_0) scale[v] = load_f16(halves(data[v / 2]) + v % 2 * kLanes);
        else nibble_scales(FORMAT, data[v / 2], v % 2, &scale[v], &low[v]);
      }
      if constexpr (FORMAT == kQ8_0) {
        for (int j = 0; j < 8; j++)
          UNROLL for (int v = 0; v < kVectors; v++) {
            Words words = load_words(data[v / 2] + kHeader + j * 128 + v % 2 * 64);
            UNROLL for (int i = 0; i < 4; i++) use(mul(signed_byte(words, i), scale[v]), v, k + 4 * j + i);
          }
      } else {
        for (int high = 0; high < 2; high++)
          for (int j = 0; j < 4; j++)
            UNROLL for (int v = 0; v < kVectors; v++) {
              Words words = load_words(data[v / 2] + kHeader + j * 128 + v % 2 * 64);
              if (high) words = shift_nibble(words);
              UNROLL for (int i = 0; i < 4; i++)
                use(fma(nibble(words, 2 * i), scale[v], low[v]), v, k + 16 * high + 4 * j + i);
            }
      }
      UNROLL for (int p = 0; p < PANELS; p++) data[p] += kBytes;
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < kVectors; v++)
      store(out + (v / 2 * kDirectRows + r) * kPanel + v % 2 * kLanes, sums[r][v]);
}

template <Format...>
struct Formats {};
using AllFormats = Formats<kF32, kF16, kBF16, kQ8_0, kQ4_0, kQ4_1>;
using Direct = void (*)(const Matrix&, int64_t, const float*, int64_t, float*);

template <int PANELS, Format... FORMATS>
Direct direct_of(Format format, int rows, Formats<FORMATS...>) {
  static const Direct kernels[][kDirectRows] = {
#if SLIPWAY_TILE_ROWS >= 12
      {direct<FORMATS, 1, PANELS>, direct<FORMATS, 2, PANELS>, direct<FORMATS, 3, PANELS>, direct<FORMATS, 4, PANELS>}...
#else
      {direct<FORMATS, 1, PANELS>, direct<FORMATS, 2, PANELS>}...
#endif
  };
  return kernels[format][rows - 1];
}

void linear_f32(const Matrix& w, const float* x, int64_t ldx, int rows, int64_t panel, int64_t panel_end,
                const Epilogue& e, float* scratch) {
  float *slab = scratch, *sums = scratch + kSlab * kPanel;
  if (rows <= kDirectRows) {
    while (panel < panel_end) {
      const bool wide = panel_end - panel >= kDirectPanels;
      const Direct run = wide ? direct_of<kDirectPanels>(w.format, rows, AllFormats()) : direct_of<1>(w.format, rows, AllFormats());
      run(w, panel, x, ldx, sums);
      for (int p = 0; p < (wide ? kDirectPanels : 1); p++) finish(e, sums + p * kDirectRows * kPanel, rows, panel++);
    }
    return;
  }
  for (; panel < panel_end; panel++) {
    const uint8_t* data = w.data + panel * w.panel_bytes;
    for (int64_t k0 = 0; k0 < w.k; k0 += kSlab) {
      int64_t k = w.k - k0 < kSlab ? w.k - k0 : kSlab;
      const float* b = unpack(w, data, k0, k, slab);
      multiply(x + k0, ldx, rows, b, kPanel, k, sums, kPanel, kPanel / kLanes, k0 > 0);
    }
    finish(e, sums, rows, panel);
  }
}

template <bool FIRST, class A, class B> struct Choose { using Type = A; };
template <class A, class B> struct Choose<false, A, B> { using Type = B; };

// Integer tile: sums over a block of 32 are exact, then enter the float sum with the scales of both sides.
template <Format FORMAT, int ROWS, int VECTORS, int PLANES>
void int_tile(const uint8_t* panel, int first, const QuantisedRows& x, int row, float* out) {
  constexpr bool kBytes = FORMAT == kQ8_0;
  constexpr int kHeader = FORMAT == kQ4_1 ? 128 : 64, kQuads = kBytes ? 8 : 4;
  using Weights = typename Choose<kBytes, Bytes8, Bytes4>::Type;
  using Whole = typename Choose<kBytes, Sums, NibbleSums>::Type;
  const int64_t plane = x.groups * kGroup, ldq = plane * PLANES;
  const int8_t* q = x.q + row * ldq;
  const int32_t* isums = x.isum + row * x.groups * PLANES;
  const float *scales = x.scale + row * x.groups, *lows = x.sum + row * x.groups;
  F sums[ROWS][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) sums[r][v] = zero();
  for (int64_t g = 0; g < x.groups; g++, panel += group_bytes(FORMAT), q += kGroup) {
    Whole whole[ROWS][PLANES][VECTORS];
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int p = 0; p < PLANES; p++)
        UNROLL for (int v = 0; v < VECTORS; v++) clear(whole[r][p][v]);
    auto add_quad = [&](const Weights(&weights)[VECTORS], int k) __attribute__((always_inline)) {
      UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int p = 0; p < PLANES; p++) {
          const Four four = set_four(q + r * ldq + p * plane + k);
          UNROLL for (int v = 0; v < VECTORS; v++) dot(whole[r][p][v], weights[v], four);
        }
    };
    UNROLL for (int j = 0; j < kQuads; j++) {
      Words words[VECTORS];
      Weights weights[VECTORS];
      UNROLL for (int v = 0; v < VECTORS; v++) words[v] = load_words(panel + kHeader + j * 128 + (first + v) * 64);
      if constexpr (kBytes) {
        UNROLL for (int v = 0; v < VECTORS; v++) weights[v] = as_bytes(words[v]);
        add_quad(weights, 4 * j);
      } else {
        UNROLL for (int v = 0; v < VECTORS; v++) weights[v] = low_nibbles(words[v]);
        add_quad(weights, 4 * j);
        UNROLL for (int v = 0; v < VECTORS; v++) weights[v] = high_nibbles(words[v]);
        add_quad(weights, 16 + 4 * j);
      }
    }
    auto finished = [&](const Whole& sum, int r, int p) __attribute__((always_inline)) {
      const int32_t isum = isums[(r * PLANES + p) * x.groups + g];
      if constexpr (kBytes) return finish_bytes(sum, isum);
      else return finish_nibbles(sum, FORMAT == kQ4_0 ? 8 * isum : 0);
    };
    UNROLL for (int v = 0; v < VECTORS; v++) {
      const F scale = load_f16(halves(panel) + (first + v) * kLanes);
      UNROLL for (int r = 0; r < ROWS; r++) {
        F product = finished(whole[r][0][v], r, 0);
        if constexpr (PLANES == 2) product = fma(product, set1((float)kRadix), finished(whole[r][1][v], r, 1));
        sums[r][v] = fma(product, mul(scale, set1(scales[r * x.groups + g])), sums[r][v]);
      }
      if constexpr (FORMAT == kQ4_1) {
        const F low = load_f16(halves(panel) + kPanel + (first + v) * kLanes);
        UNROLL for (int r = 0; r < ROWS; r++) sums[r][v] = fma(low, set1(lows[r * x.groups + g]), sums[r][v]);
      }
    }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) store(out + r * kPanel + v * kLanes, sums[r][v]);
}

using IntTile = void (*)(const uint8_t*, int, const QuantisedRows&, int, float*);

template <Format FORMAT>
IntTile int_tile_of(int rows, int planes) {
  static const IntTile narrow[] = {int_tile<FORMAT, 1, kIntTileVectors, 1>, int_tile<FORMAT, 2, kIntTileVectors, 1>,
#if SLIPWAY_INT_TILE_ROWS >= 6
                                   int_tile<FORMAT, 3, kIntTileVectors, 1>, int_tile<FORMAT, 4, kIntTileVectors, 1>,
                                   int_tile<FORMAT, 5, kIntTileVectors, 1>, int_tile<FORMAT, 6, kIntTileVectors, 1>,
#endif
  };
  static const IntTile wide[] = {int_tile<FORMAT, 1, kIntTileVectors, 2>,
#if SLIPWAY_INT_TILE_ROWS >= 6
                                 int_tile<FORMAT, 2, kIntTileVectors, 2>, int_tile<FORMAT, 3, kIntTileVectors, 2>,
                                 int_tile<FORMAT, 4, kIntTileVectors, 2>,
#endif
  };
  return planes == 2 ? wide[rows - 1] : narrow[rows - 1];
}

void linear_int(const Matrix& w, const QuantisedRows& x, int rows, int64_t panel, int64_t panel_end, const Epilogue& e,
                float* scratch) {
  float* sums = scratch + kSlab * kPanel;
  const int most = x.planes == 2 ? kWideTileRows : kIntTileRows, tiles = (rows + most - 1) / most;
  for (; panel < panel_end; panel++) {
    const uint8_t* data = w.data + panel * w.panel_bytes;
    for (int first = 0; first < kPanel / kLanes; first += kIntTileVectors)
      for (int t = 0, row = 0; t < tiles; t++) {
        const int height = rows * (t + 1) / tiles - row;
        const IntTile run = w.format == kQ8_0   ? int_tile_of<kQ8_0>(height, x.planes)
                            : w.format == kQ4_0 ? int_tile_of<kQ4_0>(height, x.planes)
                                                : int_tile_of<kQ4_1>(height, x.planes);
        run(data, first, x, row, sums + row * kPanel + first * kLanes);
        row += height;
      }
    finish(e, sums, rows, panel);
  }
}

// ---- rows --------------------------------------------------------------------------------------------------------

// One row to whole numbers; reads whole groups, so the caller pads the row with zeros.
void quantise(const float* x, int64_t k, const QuantisedRows& out) {
  const float most = out.planes == 2 ? 127.0f * kRadix + 127 : 127.0f;
  const int64_t plane = out.groups * kGroup;
  for (int64_t g = 0; g * kGroup < k; g++, x += kGroup) {
    const float largest = max_of(max(abs(load(x)), abs(load(x + kLanes))));
    float inverse = largest > 0 ? most / largest : 0.0f;
    if (!(inverse < 3.0e38f)) inverse = 0.0f;  // a subnormal row is zero
    F sums[2] = {zero(), zero()};  // exact: whole numbers below 2^12
    for (int v = 0; v < 2; v++) {
      F number = round(mul(load(x + v * kLanes), set1(inverse)));
      int8_t* q = out.q + g * kGroup + v * kLanes;
      if (out.planes == 2) {
        const F high = round(mul(number, set1(1.0f / kRadix))), low = fma(high, set1(-(float)kRadix), number);
        store_s8(q + plane, low);
        sums[1] = add(sums[1], low);
        number = high;
      }
      store_s8(q, number);
      sums[0] = add(sums[0], number);
    }
    float total = 0;
    for (int p = 0; p < out.planes; p++) {
      const float sum = sum_of(sums[p]);
      out.isum[p * out.groups + g] = (int32_t)sum;
      total = total * kRadix + sum;
    }
    out.scale[g] = inverse > 0 ? largest / most : 0.0f;
    out.sum[g] = out.scale[g] * total;
  }
}

// Reads and writes whole vectors; `x` and `weight` are padded with zeros.
void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
  F squares = zero();
  for (int64_t i = 0; i < n; i += kLanes) squares = fma(load(x + i), load(x + i), squares);
  F factor = set1(1.0f / __builtin_sqrtf(sum_of(squares) / (float)n + eps));
  for (int64_t i = 0; i < n; i += kLanes) store(out + i, mul(mul(load(x + i), factor), load(weight + i)));
}

// The largest number's size in a row of whole vectors.
float largest_of(const float* x, int64_t n) {
  F most = zero();
  for (int64_t i = 0; i < n; i += kLanes) most = max(most, abs(load(x + i)));
  return max_of(most);
}

// A head to whole numbers of one or two bytes, plane after plane, with one scale, which is returned.
float quantise_head(const float* x, int64_t n, int planes, int8_t* q, int32_t* isum) {
  const float most = planes == 2 ? 127.0f * kRadix + 127 : 127.0f, largest = largest_of(x, n);
  float inverse = largest > 0 ? most / largest : 0.0f;
  if (!(inverse < 3.0e38f)) inverse = 0.0f;
  F sums[2] = {zero(), zero()};
  for (int64_t i = 0; i < n; i += kLanes) {
    F number = round(mul(load(x + i), set1(inverse)));
    if (planes == 2) {
      const F high = round(mul(number, set1(1.0f / kRadix))), low = fma(high, set1(-(float)kRadix), number);
      store_s8(q + n + i, low);
      sums[1] = add(sums[1], low);
      number = high;
    }
    store_s8(q + i, number);
    sums[0] = add(sums[0], number);
  }
  for (int p = 0; p < planes; p++) isum[p] = (int32_t)sum_of(sums[p]);
  return inverse > 0 ? largest / most : 0.0f;
}

void turn(float* head, const float* turns, int half) {
  int i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const F a = load(head + i), b = load(head + half + i), c = load(turns + i), s = load(turns + half + i);
    store(head + i, sub(mul(a, c), mul(b, s)));
    store(head + half + i, add(mul(b, c), mul(a, s)));
  }
  for (; i < half; i++) {
    const float a = head[i], b = head[half + i];
    head[i] = a * turns[i] - b * turns[half + i];
    head[half + i] = b * turns[i] + a * turns[half + i];
  }
}

template <class T>
void scatter(const T* from, bool key, int slot, int64_t n, T* block) {
  if (!key) memcpy(block + slot * n, from, n * sizeof(T));
  else
    for (int64_t i = 0; i < n; i++) block[i * kBlock + slot] = from[i];
}

void place(const float* head, Kv kv, bool key, int slot, int64_t n, uint8_t* block) {
  alignas(64) uint16_t half[kMaxHeadDim];
  alignas(64) int8_t q[kMaxHeadDim];
  if (kv == kKvF32) return scatter(head, key, slot, n, (float*)block);
  if (kv == kKvF16) {
    const F most = set1(65504.0f), least = set1(-65504.0f);
    for (int64_t i = 0; i < n; i += kLanes) store_f16(half + i, min(max(load(head + i), least), most));
    return scatter(half, key, slot, n, (uint16_t*)block);
  }
  int32_t isum;
  const float scale = quantise_head(head, n, 1, q, &isum);
  memcpy(block + n * kBlock + slot * 4, &scale, 4);
  if (key)
    for (int64_t i = 0; i < n; i += 4) memcpy(block + i * kBlock + slot * 4, q + i, 4);
  else
    for (int64_t i = 0; i < n; i++) block[(slot / 4 * n + i) * 4 + slot % 4] = (uint8_t)q[i];
}

// ---- attention ---------------------------------------------------------------------------------------------------

F load_kv(const uint8_t* p, int64_t element, bool half) {
  return half ? load_f16(halves(p) + element) : load((const float*)p + element);
}

// Ask for a split's blocks: they lie apart, so that the processor cannot foresee them.
void prefetch(const Attend& a, int64_t split, int64_t last) {
  const int64_t bytes = kv_head_bytes(a.kv, a.padded_dim);
  for (int64_t at = split * kSplit; at <= last && at < (split + 1) * kSplit; at += kBlock) {
    const int64_t block = a.blocks[at / kBlock] * a.block_bytes;
    for (int64_t i = 0; i < bytes; i += 64) {
      __builtin_prefetch(a.keys + block + i, 0, 2);
      __builtin_prefetch(a.values + block + i, 0, 2);
    }
  }
}

// Bring the keys [from, to) of a split near, as [padded_dim][kSplit] and [keys][padded_dim]; what no query of the
// tile may see is zero, so that neither a freed block nor a stale slot is ever multiplied.
void gather(const Attend& a, int64_t split, int from, int to, float* keys, float* values) {
  for (int at = 0; at < to; at += kBlock) {
    bool wanted = at + kBlock > from;
    int64_t block = wanted ? a.blocks[(split * kSplit + at) / kBlock] : 0;
    const uint8_t *k = a.keys + block * a.block_bytes, *v = a.values + block * a.block_bytes;
    for (int d = 0; d < a.padded_dim; d++)
      store(keys + d * kSplit + at, wanted ? load_kv(k, d * kBlock, a.kv == kKvF16) : zero());
    for (int t = 0; t < kBlock; t++) {
      bool seen = wanted && at + t >= from && at + t < to;
      for (int d = 0; d < a.padded_dim; d += kLanes)
        store(values + (at + t) * a.padded_dim + d, seen ? load_kv(v, t * a.padded_dim + d, a.kv == kKvF16) : zero());
    }
  }
}

// A row's state: [0] the maximum, [1] the sum of weights, from [16] on the mix of values.
void empty(float* state) {
  state[0] = -__builtin_inff();
  state[1] = 0;
}

// Turn scores into weights in place, maximum and sum into `state`; the row's keys are [low, high) of the split.
void soften(const Attend& a, float* scores, int low, int high, int width, float* state) {
  empty(state);
  alignas(64) static const float kCount[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const F first = set1((float)low), end = set1((float)high), none = set1(-__builtin_inff());
  F most = none;
  for (int i = 0; i < width; i += kLanes) {
    F score = load(scores + i);
    if (a.softcap > 0) score = mul(tanh_of(mul(score, set1(1.0f / a.softcap))), set1(a.softcap));
    if (i < low || i + kLanes > high) {
      const F key = add(load(kCount), set1((float)i));
      score = where_less(key, end, where_less(key, first, none, score), none);
    }
    store(scores + i, score);
    most = max(most, score);
  }
  const float largest = max_of(most);
  F shift = set1(low < high ? largest : 0), sum = zero();
  for (int i = 0; i < width; i += kLanes) {
    F weight = exp_of(sub(load(scores + i), shift));
    store(scores + i, weight);
    sum = add(sum, weight);
  }
  if (low >= high) return;
  state[0] = largest;
  state[1] = sum_of(sum);
}

void absorb(float* state, const float* other, int64_t dim) {
  if (other[1] == 0) return;
  if (state[1] == 0) {
    for (int64_t i = 0; i < dim + kLanes; i += kLanes) store(state + i, load(other + i));
    return;
  }
  float maximum = other[0] > state[0] ? other[0] : state[0];
  F keep = exp_of(set1(state[0] - maximum)), take = exp_of(set1(other[0] - maximum));
  alignas(64) float factors[32];
  store(factors, keep);
  store(factors + 16, take);
  state[0] = maximum;
  state[1] = state[1] * factors[0] + other[1] * factors[16];
  for (int64_t i = kLanes; i < dim + kLanes; i += kLanes)
    store(state + i, fma(load(other + i), take, mul(load(state + i), keep)));
}

void write_mix(const float* state, int head_dim, int64_t padded, float* out) {
  alignas(64) float mix[kMaxHeadDim];
  F total = set1(state[1] > 0 ? state[1] : 1.0f);
  for (int64_t i = 0; i < padded; i += kLanes) store(mix + i, div(load(state + kLanes + i), total));
  for (int i = 0; i < head_dim; i++) out[i] = mix[i];
}

void merge(const Attend& a, int row, float* out) {
  alignas(64) float state[kMaxHeadDim + kLanes];
  empty(state);
  int64_t stride = a.padded_dim + kLanes;
  for (int64_t split = 0; split < a.split_end; split++)
    absorb(state, a.partial + split * a.partial_stride + row * stride, a.padded_dim);
  write_mix(state, a.head_dim, a.padded_dim, out);
}

// ---- attention over signed bytes ----------------------------------------------------------------------------------
//
// Queries become whole numbers with one scale a row, weights times the values' scales likewise, of 14 bits; so sums of
// products are exact, whatever the tile, and the cache is read in place.

constexpr int kWeightRadix = 128;  // a weight is 128 * high + low, both in [0, 127]

struct BytesOf {  // of a split: where its blocks are
  const uint8_t* keys[kSplit / kBlock];
  const uint8_t* values[kSplit / kBlock];
};

template <int ROWS, int PLANES, int VECTORS>
void score_tile(const uint8_t* const* blocks, int64_t dim, const int8_t* q, const int32_t* isums, const float* scales,
                float* scores) {
  Sums sums[ROWS][PLANES][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int p = 0; p < PLANES; p++)
      UNROLL for (int v = 0; v < VECTORS; v++) clear(sums[r][p][v]);
  const uint8_t* at[VECTORS];
  UNROLL for (int v = 0; v < VECTORS; v++) at[v] = blocks[v];
  for (int64_t d = 0; d < dim; d += 4) {
    Bytes8 keys[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) keys[v] = as_bytes(load_words(at[v] + d * kBlock));
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int p = 0; p < PLANES; p++) {
        const Four four = set_four(q + (r * PLANES + p) * dim + d);
        UNROLL for (int v = 0; v < VECTORS; v++) dot(sums[r][p][v], keys[v], four);
      }
  }
  UNROLL for (int v = 0; v < VECTORS; v++) {
    const F scale = load((const float*)(at[v] + dim * kBlock));
    UNROLL for (int r = 0; r < ROWS; r++) {
      F sum = finish_bytes(sums[r][0][v], isums[r * PLANES]);
      if constexpr (PLANES == 2)
        sum = fma(sum, set1((float)kRadix), finish_bytes(sums[r][1][v], isums[r * PLANES + 1]));
      store(scores + r * kSplit + v * kBlock, mul(sum, mul(scale, set1(scales[r]))));
    }
  }
}

template <int ROWS, int VECTORS>
void mix_tile(const uint8_t* const* blocks, int64_t dim, int64_t first, const uint8_t* weights, int from, int to,
              const float* scales, float* out, int64_t stride) {
  Sums sums[ROWS][2][VECTORS];
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int p = 0; p < 2; p++)
      UNROLL for (int v = 0; v < VECTORS; v++) clear(sums[r][p][v]);
  for (int t = from; t < to; t += 4) {
    Words values[VECTORS];
    const uint8_t* at = blocks[t / kBlock] + (t % kBlock * dim + first * 4);
    UNROLL for (int v = 0; v < VECTORS; v++) values[v] = load_words(at + v * 64);
    UNROLL for (int r = 0; r < ROWS; r++)
      UNROLL for (int p = 0; p < 2; p++) {
        const Four four = set_four((const int8_t*)weights + (r * 2 + p) * kSplit + t);
        UNROLL for (int v = 0; v < VECTORS; v++) dot_positive(sums[r][p][v], values[v], four);
      }
  }
  UNROLL for (int r = 0; r < ROWS; r++)
    UNROLL for (int v = 0; v < VECTORS; v++) {
      const F sum = fma(finish_bytes(sums[r][0][v], 0), set1((float)kWeightRadix), finish_bytes(sums[r][1][v], 0));
      store(out + r * stride + v * kLanes, mul(sum, set1(scales[r])));
    }
}

template <int... HEIGHTS>
struct Heights {};
#if SLIPWAY_INT_TILE_ROWS >= 6
using NarrowHeights = Heights<1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12>;
using WideHeights = Heights<1, 2, 3, 4, 5, 6>;
#else
using NarrowHeights = Heights<1, 2, 3, 4>;
using WideHeights = Heights<1, 2>;
#endif
using ScoreTile = void (*)(const uint8_t* const*, int64_t, const int8_t*, const int32_t*, const float*, float*);
using MixTile = void (*)(const uint8_t* const*, int64_t, int64_t, const uint8_t*, int, int, const float*, float*, int64_t);

template <int PLANES, int VECTORS, int... HEIGHTS>
ScoreTile score_tile_of(int rows, Heights<HEIGHTS...>) {
  static const ScoreTile tiles[] = {score_tile<HEIGHTS, PLANES, VECTORS>...};
  return tiles[rows - 1];
}

template <int VECTORS, int... HEIGHTS>
MixTile mix_tile_of(int rows, Heights<HEIGHTS...>) {
  static const MixTile tiles[] = {mix_tile<HEIGHTS, VECTORS>...};
  return tiles[rows - 1];
}

// Scores of the keys of blocks [from, to) of a split.
void score(const Attend& a, const BytesOf& bytes, int from, int to, const int8_t* q, const int32_t* isums,
           const float* scales, int rows, float* scores) {
  const int most = a.planes == 2 ? kAttendRows / 2 : kAttendRows, tiles = (rows + most - 1) / most;
  const int64_t dim = a.padded_dim;
  for (int block = from; block < to; block += kAttendVectors) {
    const bool narrow = to - block < kAttendVectors;
    for (int t = 0, row = 0; t < tiles; t++) {
      const int height = rows * (t + 1) / tiles - row;
      const ScoreTile run = a.planes == 2 ? (narrow ? score_tile_of<2, 1>(height, WideHeights())
                                                    : score_tile_of<2, kAttendVectors>(height, WideHeights()))
                                          : (narrow ? score_tile_of<1, 1>(height, NarrowHeights())
                                                    : score_tile_of<1, kAttendVectors>(height, NarrowHeights()));
      run(bytes.keys + block, dim, q + row * a.planes * dim, isums + row * a.planes, scales + row,
          scores + row * kSplit + block * kBlock);
      row += height;
    }
  }
}

// A row's weights times the values' scales as whole numbers; the scale is returned. A slot that the row does not see
// may hold any scale.
float weigh(const BytesOf& bytes, int64_t dim, int from, int to, float* weights, uint8_t* out) {
  F most = zero();
  for (int i = from; i < to; i += kLanes) {
    const F weight = load(weights + i), scale = load((const float*)(bytes.values[i / kBlock] + dim * kBlock));
    const F product = where_less(zero(), weight, mul(weight, scale), zero());
    store(weights + i, product);
    most = max(most, product);
  }
  const float largest = max_of(most), full = 127.0f * kWeightRadix + 127;
  float inverse = largest > 0 ? full / largest : 0.0f;
  if (!(inverse < 3.0e38f)) inverse = 0.0f;
  for (int i = from; i < to; i += kLanes) {
    const F number = round(mul(load(weights + i), set1(inverse)));
    const F high = round(fma(number, set1(1.0f / kWeightRadix), set1(-63.5f / kWeightRadix)));
    store_s8((int8_t*)out + i, high);
    store_s8((int8_t*)out + kSplit + i, fma(high, set1(-(float)kWeightRadix), number));
  }
  return inverse > 0 ? largest / full : 0.0f;
}

// What the rows take of the values of keys [from, to).
void mix(const BytesOf& bytes, int64_t dim, const uint8_t* weights, int from, int to, const float* scales, int rows,
         float* out, int64_t stride) {
  const int most = kAttendRows / 2, tiles = (rows + most - 1) / most;
  for (int64_t first = 0; first < dim; first += kAttendVectors * kLanes) {
    const bool narrow = dim - first < kAttendVectors * kLanes;
    for (int t = 0, row = 0; t < tiles; t++) {
      const int height = rows * (t + 1) / tiles - row;
      const MixTile run = narrow ? mix_tile_of<1>(height, WideHeights()) : mix_tile_of<kAttendVectors>(height, WideHeights());
      run(bytes.values, dim, first, weights + row * 2 * kSplit, from, to, scales + row, out + row * stride + first, stride);
      row += height;
    }
  }
}

// ---- attention, any cache -----------------------------------------------------------------------------------------

// A tile of queries of one sequence, and the heads that share a key head. A split's weights are taken from its own
// maximum, so that a split's part of the answer is the same whether splits are computed in turn or side by side.
void attend(const Attend& a, float* scratch) {
  const int rows = a.tokens * a.group;
  const bool bytes = a.kv == kKvS8;
  const int64_t dim = a.padded_dim, stride = dim + kLanes;
  float *query = scratch, *scores = query + kMaxAttendRows * dim, *states = scores + kMaxAttendRows * kSplit;
  float *mixed = states + kMaxAttendRows * stride, *keys = mixed + kMaxAttendRows * stride;
  float* values = keys + kSplit * dim;
  uint8_t* weights = (uint8_t*)(values + kSplit * dim);
  float scales[kMaxAttendRows], weight_scales[kMaxAttendRows];
  int32_t isums[2 * kMaxAttendRows];
  for (int r = 0; r < rows; r++) {
    alignas(64) float head[kMaxHeadDim];
    float* to = bytes ? head : query + r * dim;
    const float* from = a.query + r / a.group * a.ld_query + r % a.group * a.head_dim;
    for (int i = 0; i < dim; i++) to[i] = i < a.head_dim ? from[i] * a.scale : 0.0f;
    if (bytes) scales[r] = quantise_head(head, dim, a.planes, (int8_t*)query + r * a.planes * dim, isums + r * a.planes);
    empty(states + r * stride);
  }
  const int64_t last = a.position + a.tokens - 1;
  const int64_t oldest = a.window && a.position >= a.window ? a.position - a.window + 1 : 0;
  prefetch(a, a.split, last);
  for (int64_t split = a.split; split < a.split_end; split++) {
    if (split + 1 < a.split_end) prefetch(a, split + 1, last);
    const int64_t start = split * kSplit;
    const int to = (int)(last + 1 - start < kSplit ? last + 1 - start : kSplit);
    const int from = (int)(oldest > start ? oldest - start : 0);
    float* parts = a.partial ? a.partial + split * a.partial_stride : mixed;
    if (from >= to) {
      for (int r = 0; r < rows; r++) empty(parts + r * stride);
      continue;
    }
    const int first = from / kBlock, end = (to + kBlock - 1) / kBlock, width = end * kBlock;
    BytesOf at;
    if (bytes) {
      for (int block = first; block < end; block++) {
        const int64_t place = a.blocks[start / kBlock + block] * a.block_bytes;
        at.keys[block] = a.keys + place;
        at.values[block] = a.values + place;
      }
      score(a, at, first, end, (const int8_t*)query, isums, scales, rows, scores);
    } else {
      gather(a, split, from, to, keys, values);
      multiply(query, dim, rows, keys, kSplit, dim, scores, kSplit, width / kLanes, false);
    }
    for (int r = 0; r < rows; r++) {
      const int64_t position = a.position + r / a.group - start;
      const int high = (int)(position + 1 < to ? position + 1 : to);
      const int low = (int)(a.window && position - a.window + 1 > 0 ? position - a.window + 1 : 0);
      soften(a, scores + r * kSplit, low, high, width, parts + r * stride);
      if (bytes) weight_scales[r] = weigh(at, dim, first * kBlock, width, scores + r * kSplit, weights + r * 2 * kSplit);
    }
    if (bytes) mix(at, dim, weights, first * kBlock, to, weight_scales, rows, parts + kLanes, stride);
    else multiply(scores, kSplit, rows, values, dim, width, parts + kLanes, stride, dim / kLanes, false);
    if (!a.partial)
      for (int r = 0; r < rows; r++) absorb(states + r * stride, parts + r * stride, dim);
  }
  if (a.partial) return;
  for (int r = 0; r < rows; r++)
    write_mix(states + r * stride, a.head_dim, dim, a.out + r / a.group * a.ld_out + r % a.group * a.head_dim);
}

// ---- the machine's rates -------------------------------------------------------------------------------------------

constexpr int kSpins = kTileRows * kTileVectors;

double spin_floats(int64_t turns, float* sink) {
  F sums[kSpins], factor = set1(0.5f), step = set1(1.0f);
  UNROLL for (int i = 0; i < kSpins; i++) sums[i] = set1((float)i);
  for (int64_t turn = 0; turn < turns; turn++)
    UNROLL for (int i = 0; i < kSpins; i++) sums[i] = fma(sums[i], factor, step);
  UNROLL for (int i = 1; i < kSpins; i++) sums[0] = add(sums[0], sums[i]);
  *sink = sum_of(sums[0]);
  return (double)turns * kSpins * kLanes * 2;
}

double spin_integers(int64_t turns, float* sink) {
  constexpr int kSums = kIntTileRows * kIntTileVectors;  // each of inputs of its own, lest they be seen to be equal
  alignas(64) uint8_t bytes[8][64];
  for (int i = 0; i < 512; i++) bytes[i / 64][i % 64] = (uint8_t)(i * 7 + turns);
  Sums sums[kSums];
  Four x[kSums];
  UNROLL for (int i = 0; i < kSums; i++) clear(sums[i]), x[i] = set_four((const int8_t*)bytes[0] + 4 * i);
  for (int64_t turn = 0; turn < turns; turn++) {
    const Bytes8 w = as_bytes(load_words(bytes[turn % 8]));
    UNROLL for (int i = 0; i < kSums; i++) dot(sums[i], w, x[i]);
  }
  *sink = 0;
  UNROLL for (int i = 0; i < kSums; i++) *sink += sum_of(finish_bytes(sums[i], 0));
  return (double)turns * kSums * kLanes * 8;
}

double read(const uint8_t* data, int64_t bytes, float* sink) {
  F sums[4] = {zero(), zero(), zero(), zero()};
  for (int64_t at = 0; at + 256 <= bytes; at += 256)
    UNROLL for (int i = 0; i < 4; i++) sums[i] = max(sums[i], load((const float*)(data + at) + i * kLanes));
  *sink = sum_of(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
  return (double)(bytes / 256 * 256);
}

}  // namespace
