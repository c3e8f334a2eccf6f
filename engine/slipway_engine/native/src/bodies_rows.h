// What is done to rows: norms, whole numbers, rotation, and their place in the cache.
#pragma once

namespace {

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

void add_rows(const float* x, float scale, int64_t n, float* out) {
  for (int64_t i = 0; i < n; i += kLanes) store(out + i, fma(load(x + i), set1(scale), load(out + i)));
}

// What is not finite stays, so that somebody notices.
void soft_cap(float* x, int64_t n, float cap) {
  const F down = set1(1.0f / cap), up = set1(cap), infinite = set1(__builtin_inff());
  const auto capped = [&](F v) { return where_less(abs(v), infinite, mul(tanh_of(mul(v, down)), up), v); };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, capped(load(x + i)));
  if (i == n) return;
  alignas(64) float last[kLanes] = {};
  memcpy(last, x + i, (n - i) * sizeof(float));
  store(last, capped(load(last)));
  memcpy(x + i, last, (n - i) * sizeof(float));
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

}  // namespace
