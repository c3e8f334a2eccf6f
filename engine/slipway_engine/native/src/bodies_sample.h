// What sampling does to whole rows of logits.
#pragma once

namespace {

// Where the largest of `n` numbers is, the first of several; the first that is no number, where there is one.
int64_t largest(const float* x, int64_t n) {
  constexpr int64_t kPiece = 32 * kLanes;
  int64_t start = 0;
  float best = -__builtin_inff(), sum = 0;
  for (int64_t piece = 0; piece < n; piece += kPiece) {
    const int64_t end = piece + kPiece < n ? piece + kPiece : n, whole = piece + (end - piece) / kLanes * kLanes;
    F most = set1(-__builtin_inff()), nothing = zero();
    for (int64_t i = piece; i < whole; i += kLanes) {
      most = max(most, load(x + i));
      nothing = fma(load(x + i), zero(), nothing);
    }
    float found = max_of(most);
    sum += sum_of(nothing);
    for (int64_t i = whole; i < end; i++) {
      found = x[i] > found ? x[i] : found;
      sum += x[i] * 0.0f;
    }
    if (found > best) {
      best = found;
      start = piece;
    }
  }
  if (sum != 0.0f)  // something is infinite or no number, and a maximum may have passed over it
    for (int64_t i = 0; i < n; i++)
      if (x[i] != x[i]) return i;
  while (start < n - 1 && x[start] != best) start++;
  return start;
}

double weigh(const float* x, int64_t n, float temperature, float most, float* out, float* peaks) {
  const F divisor = set1(temperature), highest = set1(most / temperature), low = set1(-87.0f);
  double total = 0;
  const auto weight = [&](F v) {
    const F ahead = sub(div(v, divisor), highest);
    return where_less(ahead, low, zero(), exp_of(ahead));
  };
  for (int64_t piece = 0; piece < n; piece += kPeak) {
    const int64_t end = piece + kPeak < n ? piece + kPeak : n, whole = piece + (end - piece) / kLanes * kLanes;
    F sum = zero(), peak = zero();
    for (int64_t i = piece; i < whole; i += kLanes) {
      const F w = weight(load(x + i));
      store(out + i, w);
      sum = add(sum, w);
      peak = max(peak, w);
    }
    if (whole < end) {
      alignas(64) float last[kLanes];
      for (int i = 0; i < kLanes; i++) last[i] = whole + i < end ? x[whole + i] : -__builtin_inff();
      const F w = weight(load(last));
      store(last, w);
      memcpy(out + whole, last, (end - whole) * sizeof(float));
      sum = add(sum, w);
      peak = max(peak, w);
    }
    total += (double)sum_of(sum);
    peaks[piece / kPeak] = max_of(peak);
  }
  return total;
}

int64_t reach(const float* x, int64_t n, float floor, int32_t* places) {
  int64_t found = 0;
  for (int64_t piece = 0; piece < n; piece += kPeak) {
    const int64_t end = piece + kPeak < n ? piece + kPeak : n;
    if (end - piece == kPeak) {
      F most = load(x + piece);
      for (int64_t i = piece + kLanes; i < end; i += kLanes) most = max(most, load(x + i));
      if (!(max_of(most) >= floor)) continue;
    }
    for (int64_t i = piece; i < end; i++)
      if (x[i] >= floor) places[found++] = (int32_t)i;
  }
  return found;
}

}  // namespace
