// Sixteen floats as the compiler vectorises them: the path of every processor without one of its own.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

namespace {

constexpr int kTileVectors = 1, kTileRows = SLIPWAY_TILE_ROWS;
constexpr int kDirectRows = 2, kDirectPanels = 1;
constexpr int kIntTileVectors = 1, kIntTileRows = SLIPWAY_INT_TILE_ROWS, kWideTileRows = 1;
constexpr int kAttendVectors = 1, kAttendRows = 4;
constexpr int kFewRows = 1, kFewVectors = 2, kDirectAttendRows = 4;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));

struct F { Floats v; };
inline F set1(float x) { return {Floats{} + x}; }
inline F zero() { return {Floats{}}; }
inline F load(const float* p) { F a; memcpy(&a, p, 64); return a; }
inline void store(float* p, F a) { memcpy(p, &a, 64); }
inline F add(F a, F b) { return {a.v + b.v}; }
inline F sub(F a, F b) { return {a.v - b.v}; }
inline F mul(F a, F b) { return {a.v * b.v}; }
inline F div(F a, F b) { return {a.v / b.v}; }
inline F fma(F a, F b, F c) { return {a.v * b.v + c.v}; }
inline F max(F a, F b) { return {a.v > b.v ? a.v : b.v}; }
inline F min(F a, F b) { return {a.v < b.v ? a.v : b.v}; }
inline F abs(F a) { return {a.v < 0 ? -a.v : a.v}; }
// Lanes are summed in halves: i + (i + 8), and so on; all instruction sets do it alike.
inline float sum_of(F a) {
  float lanes[16];
  store(lanes, a);
  for (int width = 8; width; width /= 2)
    for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
  return lanes[0];
}
inline float max_of(F a) {
  float lanes[16];
  store(lanes, a);
  for (int i = 1; i < 16; i++) lanes[0] = lanes[i] > lanes[0] ? lanes[i] : lanes[0];
  return lanes[0];
}
inline F where_less(F a, F b, F then, F otherwise) { return {a.v < b.v ? then.v : otherwise.v}; }
inline F round(F a) {  // to even, for |a| < 2^22: adding 1.5 * 2^23 leaves no place for a fraction
  Floats magic = Floats{} + 12582912.0f;
  return {(a.v + magic) - magic};
}
inline F pow2(F n) { return {(Floats)((__builtin_convertvector(n.v, Ints) + 127) << 23)}; }
inline float half_to_float(uint16_t h) {
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff, bits;
  if (magnitude >= 0x7c00) bits = 0x7f800000 | (magnitude & 0x3ff) << 13;
  else if (magnitude >= 0x400) bits = (magnitude << 13) + (112u << 23);
  else {
    float subnormal = (float)magnitude * 5.9604644775390625e-8f;
    memcpy(&bits, &subnormal, 4);
  }
  bits |= sign;
  float f;
  memcpy(&f, &bits, 4);
  return f;
}
inline uint16_t float_to_half(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00);
  if (magnitude >= 0x47800000) return (uint16_t)(sign | 0x7c00);
  if (magnitude < 0x38800000) {  // subnormal: the sum with 0.5 rounds at the last place of a half
    float shifted;
    memcpy(&shifted, &magnitude, 4);
    shifted += 0.5f;
    memcpy(&magnitude, &shifted, 4);
    return (uint16_t)(sign | (magnitude - 0x3f000000));
  }
  magnitude += 0xfff + (magnitude >> 13 & 1) - (112u << 23);
  return (uint16_t)(sign | magnitude >> 13);
}
// p * 2^n for a p near 1 and whole numbers up to 127; 0 where that is too small, as for minus infinity.
inline F scale_by(F p, F n) {
  const F least = set1(-126.0f);
  return where_less(n, least, zero(), mul(p, pow2(max(n, least))));
}
inline F load_f16(const uint16_t* p) {
  F a;
  for (int i = 0; i < 16; i++) a.v[i] = half_to_float(p[i]);
  return a;
}
inline F load_bf16(const uint16_t* p) {
  Ints bits;
  for (int i = 0; i < 16; i++) bits[i] = (int32_t)((uint32_t)p[i] << 16);
  return {(Floats)bits};
}
inline void store_f16(uint16_t* p, F a) {
  for (int i = 0; i < 16; i++) p[i] = float_to_half(a.v[i]);
}
inline void store_s8(int8_t* p, F a) {
  for (int i = 0; i < 16; i++) p[i] = (int8_t)(a.v[i] < -127 ? -127 : a.v[i] > 127 ? 127 : a.v[i]);
}

struct Words { Ints v; };
inline Words load_words(const uint8_t* p) { Words w; memcpy(&w, p, 64); return w; }
inline F signed_byte(Words w, int i) { return {__builtin_convertvector((w.v << (24 - 8 * i)) >> 24, Floats)}; }
inline Words shift_nibble(Words w) { return {w.v >> 4}; }
inline F nibble(Words w, int i) { return {__builtin_convertvector((w.v >> (4 * i)) & 15, Floats)}; }

struct Sums { Ints v; };
using NibbleSums = Sums;
struct Bytes8 { Ints v; };
struct Bytes4 { Ints v; };
struct Four { int32_t x[4]; };
inline void clear(Sums& s) { s.v = Ints{}; }
inline Four set_four(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }
inline Bytes8 as_bytes(Words w) { return {w.v}; }
inline Bytes4 low_nibbles(Words w) { return {w.v & 0x0f0f0f0f}; }
inline Bytes4 high_nibbles(Words w) { return {(w.v >> 4) & 0x0f0f0f0f}; }
inline void dot(Sums& s, Bytes8 w, Four x) {
  for (int i = 0; i < 4; i++) s.v += ((w.v << (24 - 8 * i)) >> 24) * x.x[i];
}
inline void dot(Sums& s, Bytes4 w, Four x) {
  for (int i = 0; i < 4; i++) s.v += ((w.v >> (8 * i)) & 15) * x.x[i];
}
inline void dot_positive(Sums& s, Words w, Four x) { dot(s, Bytes8{w.v}, x); }
inline F finish_bytes(Sums s, int32_t) { return {__builtin_convertvector(s.v, Floats)}; }
inline F finish_nibbles(Sums s, int32_t bias = 0) { return {__builtin_convertvector(s.v - bias, Floats)}; }

}  // namespace
