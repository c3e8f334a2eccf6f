#include "pack.h"

#include <math.h>
#include <string.h>

namespace slipway {
namespace {

float element(Format format, const uint8_t* row, int64_t k) {
  uint32_t bits;
  float value;
  if (format == kF32) {
    memcpy(&value, row + 4 * k, 4);
    return value;
  }
  uint16_t half;
  memcpy(&half, row + 2 * k, 2);
  if (format == kBF16) {
    bits = (uint32_t)half << 16;
    memcpy(&value, &bits, 4);
    return value;
  }
  const uint32_t exponent = half >> 10 & 31, mantissa = half & 1023;
  value = exponent == 31 ? (mantissa ? NAN : INFINITY) : exponent ? ldexpf(1024 + mantissa, (int)exponent - 25) : ldexpf(mantissa, -24);
  return half & 0x8000 ? -value : value;
}

uint16_t to_half(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits >= 0x477ff000) return sign | 0x7bff;  // the largest half
  if (bits < 0x38800000) return (uint16_t)(sign | lrintf(fabsf(value) * 16777216.0f));
  bits += 0xfff + (bits >> 13 & 1) - (112u << 23);
  return (uint16_t)(sign | bits >> 13);
}

float halved(float value) {  // rounded to a half
  const uint16_t half = to_half(value);
  return element(kF16, (const uint8_t*)&half, 0);
}

// A row of floats as GGML's Q8_0 blocks: f16 scale, 32 signed bytes.
void quantise_bytes(Format format, const uint8_t* row, int64_t k, uint8_t* out) {
  for (int64_t g = 0; g < k; g += kGroup, out += 34) {
    const int64_t count = k - g < kGroup ? k - g : kGroup;
    float values[kGroup] = {}, largest = 0;
    for (int64_t i = 0; i < count; i++) {
      values[i] = element(format, row, g + i);
      const float size = fabsf(values[i]);
      largest = size > largest ? size : largest;
    }
    const uint16_t half = to_half(largest / 127);
    memcpy(out, &half, 2);
    const float scale = element(kF16, out, 0);
    for (int i = 0; i < kGroup; i++) {
      const float q = scale > 0 ? rintf(values[i] / scale) : 0;
      out[2 + i] = (uint8_t)(int8_t)fminf(fmaxf(q, -127), 127);
    }
  }
}

// A block as nibbles: value = scale * nibble + low.
struct Nibbles {
  float scale = 0, low = 0, error = INFINITY;
  float numbers[kGroup];
};

// Take the nibbles between two ends where they are nearer to the values than `best`; return what they are.
Nibbles try_nibbles(const float* values, float low, float high, Nibbles& best) {
  constexpr float kWhole = 12582912.0f;  // adding it leaves no place for a fraction
  Nibbles n;
  n.scale = halved((high - low) / 15);
  n.low = halved(low);
  const float inverse = n.scale > 0 ? 1 / n.scale : 0;
  float errors[kGroup];
  for (int i = 0; i < kGroup; i++) {
    float number = (values[i] - n.low) * inverse + kWhole - kWhole;
    number = number < 0 ? 0 : number > 15 ? 15 : number;
    const float off = number * n.scale + n.low - values[i];
    n.numbers[i] = number;
    errors[i] = off * off;
  }
  n.error = 0;
  for (float error : errors) n.error += error;
  if (n.error < best.error) best = n;
  return n;
}

// A block's nibbles of least square error: the best of a grid of ends drawn in from the extremes, then scale and low
// fitted to the numbers that were chosen, twice.
Nibbles fit_nibbles(const float* values) {
  constexpr float kDrawnIn[] = {0, 0.04f, 0.08f, 0.13f};
  float low = values[0], high = values[0], mean = 0;
  for (int i = 0; i < kGroup; i++) {
    low = values[i] < low ? values[i] : low;
    high = values[i] > high ? values[i] : high;
    mean += values[i] / kGroup;
  }
  Nibbles best;
  for (float below : kDrawnIn)
    for (float above : kDrawnIn) try_nibbles(values, low + (high - low) * below, high - (high - low) * above, best);
  Nibbles fitted = best;
  for (int turn = 0; turn < 2; turn++) {
    float middle = 0, spread = 0, product = 0;
    for (float number : fitted.numbers) middle += number / kGroup;
    for (int i = 0; i < kGroup; i++) {
      spread += (fitted.numbers[i] - middle) * (fitted.numbers[i] - middle);
      product += (fitted.numbers[i] - middle) * (values[i] - mean);
    }
    if (!(spread > 0 && product > 0)) break;
    const float scale = product / spread, start = mean - scale * middle;
    fitted = try_nibbles(values, start, start + 15 * scale, best);
  }
  return best;
}

// A row of floats as GGML's Q4_1 blocks: f16 scale and minimum, 32 nibbles.
void quantise_nibbles(Format format, const uint8_t* row, int64_t k, uint8_t* out) {
  for (int64_t g = 0; g < k; g += kGroup, out += 20) {
    float values[kGroup];
    for (int i = 0; i < kGroup; i++) values[i] = element(format, row, g + i);
    const Nibbles n = fit_nibbles(values);
    const uint16_t scale = to_half(n.scale), low = to_half(n.low);
    memcpy(out, &scale, 2);
    memcpy(out + 2, &low, 2);
    for (int i = 0; i < 16; i++) out[4 + i] = (uint8_t)((int)n.numbers[i] | (int)n.numbers[16 + i] << 4);
  }
}

// Put one row of `format` into its column of a panel.
void place(const Matrix& w, const uint8_t* row, uint8_t* panel, int column) {
  if (w.format == kF32) {
    for (int64_t k = 0; k < w.k; k++) memcpy(panel + (k * kPanel + column) * 4, row + 4 * k, 4);
    return;
  }
  if (!is_quantised(w.format)) {
    for (int64_t k = 0; k < w.k; k++) memcpy(panel + (k * kPanel + column) * 2, row + 2 * k, 2);
    return;
  }
  const int scales = w.format == kQ4_1 ? 2 : 1, quads = w.format == kQ8_0 ? 8 : 4;
  for (int64_t g = 0; g < w.k; g += kGroup, panel += group_bytes(w.format)) {
    for (int s = 0; s < scales; s++, row += 2) memcpy(panel + s * 2 * kPanel + 2 * column, row, 2);
    uint8_t* bytes = panel + scales * 2 * kPanel + 4 * column;
    for (int quad = 0; quad < quads; quad++, row += 4) memcpy(bytes + quad * 4 * kPanel, row, 4);
  }
}

// Where row n of the packed matrix comes from; null where it pads.
const uint8_t* source_row(const slipway_source* sources, int count, bool gated, int64_t n, int64_t k) {
  if (gated) {
    const slipway_source& source = sources[n % kPanel / kLanes];
    const int64_t row = n / kPanel * kLanes + n % kLanes;
    return row < source.rows ? (const uint8_t*)source.data + row * row_bytes((Format)source.format, k) : nullptr;
  }
  for (int s = 0; s < count; n -= sources[s++].rows)
    if (n < sources[s].rows) return (const uint8_t*)sources[s].data + n * row_bytes((Format)sources[s].format, k);
  return nullptr;
}

}  // namespace

int64_t row_bytes(Format format, int64_t k) {
  switch (format) {
    case kF32: return 4 * k;
    case kF16: case kBF16: return 2 * k;
    case kQ8_0: return k / kGroup * 34;
    case kQ4_0: return k / kGroup * 18;
    default: return k / kGroup * 20;
  }
}

void pack(Pool& pool, const slipway_source* sources, int count, bool gated, Matrix& out) {
  auto body = [&](int thread) {
    std::vector<uint8_t> quantised(is_quantised(out.format) ? row_bytes(out.format, out.k) : 0);
    pool.share(thread, out.panels, [&](int64_t panel) {
      for (int column = 0; column < kPanel; column++) {
        const int64_t n = panel * kPanel + column;
        const uint8_t* row = source_row(sources, count, gated, n, out.k);
        if (!row) continue;
        const Format format = (Format)sources[0].format;
        if (format != out.format) {
          (out.format == kQ8_0 ? quantise_bytes : quantise_nibbles)(format, row, out.k, quantised.data());
          row = quantised.data();
        }
        place(out, row, out.data + panel * out.panel_bytes, column);
      }
    });
  };
  pool.run(body);
}

}  // namespace slipway
