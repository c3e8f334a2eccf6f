// Packed weights back to floats: k rows of 32, the checkpoint's own values.
#pragma once

namespace {

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

}  // namespace
