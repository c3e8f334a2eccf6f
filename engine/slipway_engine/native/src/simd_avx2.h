// Sixteen floats in two AVX2 registers; integer dot products by VNNI where it is, else by the sign trick:
// |w| <= 128 and |x| <= 127, so the pairs that vpmaddubsw adds never saturate, and the sums are VNNI's.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace {

constexpr int kTileVectors = 1, kTileRows = SLIPWAY_TILE_ROWS;       // f32 tile: 12 sums in registers
constexpr int kDirectRows = 2, kDirectPanels = 1;
constexpr int kIntTileVectors = 1, kIntTileRows = SLIPWAY_INT_TILE_ROWS, kWideTileRows = 1;
constexpr int kAttendVectors = 1, kAttendRows = 4;
constexpr int kFewRows = 1, kFewVectors = 2, kDirectAttendRows = 4;

struct F { __m256 lo, hi; };
inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set1(float x) { __m256 v = _mm256_set1_ps(x); return {v, v}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F a) { _mm256_storeu_ps(p, a.lo); _mm256_storeu_ps(p + 8, a.hi); }
inline F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
inline F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
inline F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
inline F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
inline F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
inline F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
inline F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
inline F abs(F a) {
  __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
inline F round(F a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, mode), _mm256_round_ps(a.hi, mode)};
}
// Lanes are summed in halves: i + (i + 8), and so on; all instruction sets do it alike.
inline float sum_of(F a) {
  __m256 b = _mm256_add_ps(a.lo, a.hi);
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float max_of(F a) {
  __m256 b = _mm256_max_ps(a.lo, a.hi);
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
inline F where_less(F a, F b, F then, F otherwise) {
  return {_mm256_blendv_ps(otherwise.lo, then.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(otherwise.hi, then.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
inline __m256 pow2_8(__m256 n) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
}
inline F pow2(F n) { return {pow2_8(n.lo), pow2_8(n.hi)}; }
// p * 2^n for a p near 1 and whole numbers up to 127; 0 where that is too small, as for minus infinity.
inline F scale_by(F p, F n) {
  const F least = set1(-126.0f);
  return where_less(n, least, zero(), mul(p, pow2(max(n, least))));
}
inline F load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p + 1))};
}
inline __m256 widen_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline F load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline void store_f16(uint16_t* p, F a) {
  constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(a.lo, mode));
  _mm_storeu_si128((__m128i*)p + 1, _mm256_cvtps_ph(a.hi, mode));
}
inline void store_s8(int8_t* p, F a) {
  __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi));
  words = _mm256_permute4x64_epi64(words, 0xD8);
  __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128((__m128i*)p, bytes);
}

struct Words { __m256i lo, hi; };
inline Words load_words(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)p + 1)};
}
inline __m256 signed_byte_8(__m256i w, int i) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(w, 24 - 8 * i), 24));
}
inline F signed_byte(Words w, int i) { return {signed_byte_8(w.lo, i), signed_byte_8(w.hi, i)}; }
inline Words shift_nibble(Words w) { return {_mm256_srli_epi32(w.lo, 4), _mm256_srli_epi32(w.hi, 4)}; }
inline __m256 nibble_8(__m256i w, int i) {
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(w, 4 * i), _mm256_set1_epi32(15)));
}
inline F nibble(Words w, int i) { return {nibble_8(w.lo, i), nibble_8(w.hi, i)}; }

struct Sums { __m256i lo, hi; };
inline void clear(Sums& s) { s.lo = s.hi = _mm256_setzero_si256(); }
using Four = __m256i;
inline Four set_four(const int8_t* p) { return _mm256_set1_epi32(*(const int32_t*)p); }
struct Bytes4 { __m256i lo, hi; };
inline Bytes4 low_nibbles(Words w) {
  __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(w.lo, mask), _mm256_and_si256(w.hi, mask)};
}
inline Bytes4 high_nibbles(Words w) { return low_nibbles({_mm256_srli_epi16(w.lo, 4), _mm256_srli_epi16(w.hi, 4)}); }
inline F minus(Sums s, int32_t bias) {
  __m256i b = _mm256_set1_epi32(bias);
  return {_mm256_cvtepi32_ps(_mm256_sub_epi32(s.lo, b)), _mm256_cvtepi32_ps(_mm256_sub_epi32(s.hi, b))};
}

#ifdef __AVXVNNI__

using NibbleSums = Sums;
struct Bytes8 { __m256i lo, hi; };
inline Bytes8 as_bytes(Words w) {
  __m256i bias = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(w.lo, bias), _mm256_xor_si256(w.hi, bias)};
}
// Written out, because GCC 12 keeps the intrinsic's sums in memory too.
inline void add_products(__m256i& sum, __m256i positive, __m256i other) {
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(positive), "x"(other));
}
inline void dot(Sums& s, Bytes8 w, Four x) {
  add_products(s.lo, w.lo, x);
  add_products(s.hi, w.hi, x);
}
inline void dot(Sums& s, Bytes4 w, Four x) {
  add_products(s.lo, w.lo, x);
  add_products(s.hi, w.hi, x);
}
inline void dot_positive(Sums& s, Words w, Four x) {
  add_products(s.lo, x, w.lo);
  add_products(s.hi, x, w.hi);
}
inline F finish_bytes(Sums s, int32_t isum) { return minus(s, 128 * isum); }
inline F finish_nibbles(Sums s, int32_t bias = 0) { return minus(s, bias); }

#else

// GCC would add up the products as a tree, which it then has to keep in memory; so each sum is one that it cannot see
// through.
inline void keep(__m256i& a, __m256i& b) { asm("" : "+x"(a), "+x"(b)); }
inline __m256i pairs(__m256i words) { return _mm256_madd_epi16(words, _mm256_set1_epi16(1)); }
struct Bytes8 { __m256i lo, hi; };
inline Bytes8 as_bytes(Words w) { return {w.lo, w.hi}; }
inline __m256i sign_trick(__m256i w, __m256i x) {
  return pairs(_mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)));
}
inline void dot(Sums& s, Bytes8 w, Four x) {
  s.lo = _mm256_add_epi32(s.lo, sign_trick(w.lo, x));
  s.hi = _mm256_add_epi32(s.hi, sign_trick(w.hi, x));
  keep(s.lo, s.hi);
}
inline void dot_positive(Sums& s, Words w, Four x) {
  s.lo = _mm256_add_epi32(s.lo, pairs(_mm256_maddubs_epi16(x, w.lo)));
  s.hi = _mm256_add_epi32(s.hi, pairs(_mm256_maddubs_epi16(x, w.hi)));
  keep(s.lo, s.hi);
}
inline F finish_bytes(Sums s, int32_t) { return minus(s, 0); }
// Eight products of pairs of nibbles fit 16 bits: 8 * 2 * 15 * 127 = 30,480.
struct NibbleSums { __m256i lo, hi; };
inline void clear(NibbleSums& s) { s.lo = s.hi = _mm256_setzero_si256(); }
inline void dot(NibbleSums& s, Bytes4 w, Four x) {
  s.lo = _mm256_add_epi16(s.lo, _mm256_maddubs_epi16(w.lo, x));
  s.hi = _mm256_add_epi16(s.hi, _mm256_maddubs_epi16(w.hi, x));
  keep(s.lo, s.hi);
}
inline F finish_nibbles(NibbleSums s, int32_t bias = 0) { return minus({pairs(s.lo), pairs(s.hi)}, bias); }

#endif

}  // namespace
