// Sixteen floats in one AVX-512 register, and exact integer dot products by VNNI.
#pragma once
#include <immintrin.h>
#include <stdint.h>

namespace {

constexpr int kTileVectors = 2, kTileRows = SLIPWAY_TILE_ROWS;      // f32 tile: 24 sums in registers
constexpr int kDirectRows = 4, kDirectPanels = 2;
constexpr int kIntTileVectors = 2, kIntTileRows = SLIPWAY_INT_TILE_ROWS, kWideTileRows = 4;
constexpr int kAttendVectors = 2, kAttendRows = 12;
constexpr int kFewRows = 3, kFewVectors = 4, kDirectAttendRows = 8;

struct F { __m512 v; };
inline F zero() { return {_mm512_setzero_ps()}; }
inline F set1(float x) { return {_mm512_set1_ps(x)}; }
inline F load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F a) { _mm512_storeu_ps(p, a.v); }
inline F add(F a, F b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F sub(F a, F b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F mul(F a, F b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F div(F a, F b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F fma(F a, F b, F c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F max(F a, F b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F min(F a, F b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F abs(F a) { return {_mm512_abs_ps(a.v)}; }
inline F round(F a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
// Lanes are summed in halves: i + (i + 8), and so on; all instruction sets do it alike.
inline float sum_of(F a) {
  __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_add_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}
inline float max_of(F a) {
  __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
  c = _mm_max_ps(c, _mm_movehl_ps(c, c));
  return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
}
// `then` where a < b, else `otherwise`.
inline F where_less(F a, F b, F then, F otherwise) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), otherwise.v, then.v)};
}
// 2 to the power of whole numbers from -126 to 127.
inline F pow2(F n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}
// p * 2^n for a p near 1 and whole numbers up to 127; 0 where that is too small, as for minus infinity.
inline F scale_by(F p, F n) { return {_mm512_scalef_ps(p.v, n.v)}; }
inline F load_f16(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline F load_bf16(const uint16_t* p) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
inline void store_f16(uint16_t* p, F a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline void store_s8(int8_t* p, F a) {
  _mm_storeu_si128((__m128i*)p, _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}

// Sixteen words of four bytes.
struct Words { __m512i v; };
inline Words load_words(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline F signed_byte(Words w, int i) {
  return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(w.v, 24 - 8 * i), 24))};
}
inline Words shift_nibble(Words w) { return {_mm512_srli_epi32(w.v, 4)}; }
inline F nibble(Words w, int i) {  // counted from the low end of the word; the permutation reads no higher bits
  const __m512 values = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return {_mm512_permutexvar_ps(_mm512_srli_epi32(w.v, 4 * i), values)};
}

// Integer sums of sixteen rows of the weights; `four` is four activations.
struct Sums { __m512i v; };
using NibbleSums = Sums;
struct Bytes8 { __m512i v; };
struct Bytes4 { __m512i v; };
inline void clear(Sums& s) { s.v = _mm512_setzero_si512(); }
inline Bytes8 as_bytes(Words w) { return {_mm512_xor_si512(w.v, _mm512_set1_epi8(-128))}; }
inline Bytes4 low_nibbles(Words w) { return {_mm512_and_si512(w.v, _mm512_set1_epi8(15))}; }
inline Bytes4 high_nibbles(Words w) { return low_nibbles({_mm512_srli_epi16(w.v, 4)}); }
using Four = __m512i;
inline Four set_four(const int8_t* p) { return _mm512_set1_epi32(*(const int32_t*)p); }
// Written out, because GCC 12 keeps the intrinsic's sums in memory too.
inline void add_products(__m512i& sum, __m512i positive, __m512i other) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(positive), "v"(other));
}
inline void dot(Sums& s, Bytes8 w, Four x) { add_products(s.v, w.v, x); }
inline void dot(Sums& s, Bytes4 w, Four x) { add_products(s.v, w.v, x); }
// Signed bytes by numbers in [0, 127].
inline void dot_positive(Sums& s, Words w, Four x) { add_products(s.v, x, w.v); }
// The dot product with signed weights: they were biased by 128 to be unsigned.
inline F finish_bytes(Sums s, int32_t isum) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(s.v, _mm512_set1_epi32(128 * isum)))};
}
inline F finish_nibbles(Sums s, int32_t bias) {
  return {_mm512_cvtepi32_ps(_mm512_sub_epi32(s.v, _mm512_set1_epi32(bias)))};
}
inline F finish_nibbles(Sums s) { return {_mm512_cvtepi32_ps(s.v)}; }

}  // namespace
