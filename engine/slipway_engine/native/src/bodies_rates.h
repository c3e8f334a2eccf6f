// The machine's rates, by simple loops.
#pragma once

namespace {

constexpr int kSpins = kTileRows * kTileVectors;

double spin_floats(int64_t turns, float* sink) {
  F sums[kSpins], factor = set1(0.5f), step = set1(1.0f);
  alignas(64) float values[kSpins * kLanes];  // of values of their own, lest they be seen to be equal
  for (int i = 0; i < kSpins * kLanes; i++) values[i] = (float)(i + turns % 7);
  UNROLL for (int i = 0; i < kSpins; i++) sums[i] = load(values + i * kLanes);
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
