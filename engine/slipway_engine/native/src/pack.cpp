#include "pack.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

namespace slipway {
namespace {

constexpr int64_t kHugePage = 2 << 20;

int64_t whole_pages(int64_t bytes) { return (bytes + kHugePage - 1) / kHugePage * kHugePage; }

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

uint16_t to_half(float value) {  // value >= 0
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (bits >= 0x477ff000) return 0x7bff;  // the largest half
  if (bits < 0x38800000) return (uint16_t)lrintf(value * 16777216.0f);
  bits += 0xfff + (bits >> 13 & 1) - (112u << 23);
  return (uint16_t)(bits >> 13);
}

// A row of floats as GGML's Q8_0 blocks: f16 scale, 32 signed bytes.
void quantise_row(Format format, const uint8_t* row, int64_t k, uint8_t* out) {
  for (int64_t g = 0; g < k; g += kGroup, out += 34) {
    const int64_t count = k - g < kGroup ? k - g : kGroup;
    float values[kGroup] = {}, largest = 0;
    for (int64_t i = 0; i < count; i++) {
      values[i] = element(format, row, g + i);
      largest = fmaxf(largest, fabsf(values[i]));
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

uint8_t* map_pages(int64_t bytes) {
  void* data = mmap(nullptr, whole_pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  madvise(data, whole_pages(bytes), MADV_HUGEPAGE);
#endif
  return (uint8_t*)data;
}

void unmap_pages(uint8_t* data, int64_t bytes) { munmap(data, whole_pages(bytes)); }

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
    std::vector<uint8_t> quantised(out.format == kQ8_0 ? row_bytes(kQ8_0, out.k) : 0);
    pool.share(thread, out.panels, [&](int64_t panel) {
      for (int column = 0; column < kPanel; column++) {
        const int64_t n = panel * kPanel + column;
        const uint8_t* row = source_row(sources, count, gated, n, out.k);
        if (!row) continue;
        const Format format = (Format)sources[0].format;
        if (format != out.format) {
          quantise_row(format, row, out.k, quantised.data());
          row = quantised.data();
        }
        place(out, row, out.data + panel * out.panel_bytes, column);
      }
    });
  };
  pool.run(body);
}

}  // namespace slipway
