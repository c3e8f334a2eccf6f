// The kernels, written once over the sixteen floats of a simd_*.h. Each instruction set's translation unit includes
// this after its own; nothing here has external linkage, so that no unit can lend its code to another.
#pragma once
#include "kernels.h"

namespace {

using namespace slipway;

#define UNROLL _Pragma("GCC unroll 32")

float sum_of(F a) {
  float lanes[16];
  store(lanes, a);
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
}

float max_of(F a) {
  float lanes[16];
  store(lanes, a);
  for (int i = 1; i < 16; i++) lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
  return lanes[0];
}

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

void store_half(const float* x, int64_t n, uint16_t* out) {
  F most = set1(65504.0f), least = set1(-65504.0f);
  for (int64_t i = 0; i < n; i += kLanes) store_f16(out + i, min(max(load(x + i), least), most));
}

// ---- attention ---------------------------------------------------------------------------------------------------

F load_kv(const uint8_t* p, int64_t element, bool half) {
  return half ? load_f16(halves(p) + element) : load((const float*)p + element);
}

// Ask for a split's blocks: they lie apart, so that the processor cannot foresee them.
void prefetch(const Attend& a, int64_t split, int64_t last) {
  const int64_t bytes = a.padded_dim * kBlock * (a.half ? 2 : 4);
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
      store(keys + d * kSplit + at, wanted ? load_kv(k, d * kBlock, a.half) : zero());
    for (int t = 0; t < kBlock; t++) {
      bool seen = wanted && at + t >= from && at + t < to;
      for (int d = 0; d < a.padded_dim; d += kLanes)
        store(values + (at + t) * a.padded_dim + d, seen ? load_kv(v, t * a.padded_dim + d, a.half) : zero());
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
  F shift = set1(low < high ? max_of(most) : 0), sum = zero();
  for (int i = 0; i < width; i += kLanes) {
    F weight = exp_of(sub(load(scores + i), shift));
    store(scores + i, weight);
    sum = add(sum, weight);
  }
  if (low >= high) return;
  state[0] = max_of(most);
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

// A tile of queries of one sequence, and the heads that share a key head. A split's weights are taken from its own
// maximum, so that a split's part of the answer is the same whether splits are computed in turn or side by side.
void attend(const Attend& a, float* scratch) {
  const int rows = a.tokens * a.group;
  const int64_t dim = a.padded_dim, stride = dim + kLanes;
  float *query = scratch, *scores = query + kMaxAttendRows * dim, *states = scores + kMaxAttendRows * kSplit;
  float *mixed = states + kMaxAttendRows * stride, *keys = mixed + kMaxAttendRows * stride;
  float* values = keys + kSplit * dim;
  for (int r = 0; r < rows; r++) {
    const float* from = a.query + r / a.group * a.ld_query + r % a.group * a.head_dim;
    for (int i = 0; i < dim; i++) query[r * dim + i] = i < a.head_dim ? from[i] * a.scale : 0.0f;
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
    const int width = (to + kLanes - 1) / kLanes * kLanes;
    gather(a, split, from, to, keys, values);
    multiply(query, dim, rows, keys, kSplit, dim, scores, kSplit, width / kLanes, false);
    for (int r = 0; r < rows; r++) {
      const int64_t at = a.position + r / a.group - start;
      const int high = (int)(at + 1 < to ? at + 1 : to);
      const int low = (int)(a.window && at - a.window + 1 > 0 ? at - a.window + 1 : 0);
      soften(a, scores + r * kSplit, low, high, width, parts + r * stride);
    }
    multiply(scores, kSplit, rows, values, dim, width, parts + kLanes, stride, dim / kLanes, false);
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
  constexpr int kSums = kIntTileRows * kIntTileVectors;
  alignas(64) static const uint8_t kOnes[64] = {1, 1, 1, 1};
  const int8_t four[4] = {1, 2, 3, 4};
  Sums sums[kSums];
  Bytes8 w = as_bytes(load_words(kOnes));
  Four x = set_four(four);
  UNROLL for (int i = 0; i < kSums; i++) clear(sums[i]);
  for (int64_t turn = 0; turn < turns; turn++)
    UNROLL for (int i = 0; i < kSums; i++) dot(sums[i], w, x);
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
