// What the instruction-set translation units share with the rest: the packed layout and the table of kernels.
//
// A matrix [n, k] is packed in panels of 32 rows. A panel holds, for all of k in order:
//   F32, F16, BF16   k times 32 elements, one of each row
//   Q8_0             blocks of 32 k: 32 scales (f16), then 8 groups of 32 rows x 4 consecutive k (signed bytes)
//   Q4_0             blocks of 32 k: 32 scales, then 4 groups of 32 rows x 4 bytes; the byte i of group j holds
//                    k = 4j + i in its low nibble and k = 16 + 4j + i in its high one, both biased by 8
//   Q4_1             as Q4_0, with 32 minima (f16) after the scales and no bias
// Bytes are the checkpoint's own, in another order. Rows that pad the last panel are zero.
//
// Every result is accumulated over k in rising order, one fused multiply-add after the other, and no kernel lets a
// row's arithmetic depend on the rows beside it: a row has the same bits in any batch.
#pragma once
#include <stdint.h>

namespace slipway {

constexpr int kPanel = 32;       // rows of a matrix in a panel
constexpr int kLanes = 16;       // floats in the unit that kernels compute with
constexpr int kGroup = 32;       // elements of a quantised block, along k
constexpr int kPeak = 64;        // numbers of which sampling keeps the largest
constexpr int kBlock = 16;       // tokens in a KV block
constexpr int kSplit = 128;      // keys that attention handles at a time; splits start at its multiples
constexpr int kSlab = 128;       // k that is unpacked at a time
constexpr int kRowBlock = 256;   // rows of a linear's input that one task computes
constexpr int kDirectRowsMax = 4, kDirectPanelsMax = 2;  // few rows: so many panels make a task
constexpr int kMaxHeadDim = 512;
constexpr int kMaxAttendRows = 96;

enum Format : int32_t { kF32 = 0, kF16 = 1, kBF16 = 2, kQ8_0 = 3, kQ4_0 = 4, kQ4_1 = 5, kFormats = 6 };

// How the cache holds keys and values. S8: signed bytes in [-127, 127] and, after a head's bytes of a block, one scale
// (f32) a token. Its keys lie as [padded_dim / 4][16 tokens][4], its values as [16 tokens / 4][padded_dim][4].
enum Kv : int32_t { kKvF32 = 0, kKvF16 = 1, kKvS8 = 2, kKvs = 3 };

struct Matrix {
  Format format;
  int64_t n, k;         // as the model sees it
  int64_t panels;       // ceil(n / 32)
  int64_t panel_bytes;
  uint8_t* data;
};

// Rows of activations as whole numbers with one scale in 32 along k: of one signed byte in [-127, 127], or of two,
// 255 * high + low, in [-32512, 32512]. A row lies plane after plane: its high bytes, then its low ones.
constexpr int kRadix = 255;
struct QuantisedRows {
  int8_t* q;      // [planes][groups * 32]
  int32_t* isum;  // [planes][groups], each the sum of 32 bytes
  float* scale;   // [groups]
  float* sum;     // [groups], scale * (sum of the 32 numbers)
  int64_t groups;
  int planes;
};

enum class Finish : int32_t { kStore, kAdd, kSwiGLU, kGeGLU };

// What becomes of a panel's sums: y = scale * (sum + bias), added to y, or gated (16 gate rows, then their 16 up rows).
struct Epilogue {
  float* y;
  int64_t ldy;
  const float* bias;  // panels * 32 floats, or null
  Finish finish;
  float scale;
  int64_t columns = 0;  // of y, where whole panels do not fit into it; else 0
};

struct Attend {
  const float* query;  // first token's first head of the group
  float* out;
  int64_t ld_query, ld_out;  // from token to token
  int tokens, group, head_dim, padded_dim;
  int64_t position;  // of the first token; the others follow it
  const uint8_t* keys;    // of this layer and head: block b at b * block_bytes, [padded_dim, 16]
  const uint8_t* values;  // likewise, [16, padded_dim]; for S8 see there
  int64_t block_bytes;
  const int32_t* blocks;
  Kv kv;
  int planes;  // of the whole numbers that an S8 cache's queries become: 1 or 2
  float scale, softcap;
  int64_t window;          // keys a query sees, 0 = all
  int64_t split, split_end;
  float* partial;          // [split, token * group][padded_dim + 16], or null: all splits are here, write `out`
  int64_t partial_stride;  // from split to split
  const Attend* next = nullptr;  // what this thread is likely to do after it, to be fetched meanwhile
};

struct Kernels {
  const char* name;
  void (*linear_f32)(const Matrix& w, const float* x, int64_t ldx, int rows, int64_t panel, int64_t panel_end,
                     const Epilogue& e, float* scratch);
  void (*linear_int)(const Matrix& w, const QuantisedRows& x, int rows, int64_t panel, int64_t panel_end,
                    const Epilogue& e, float* scratch);
  void (*quantise)(const float* x, int64_t k, const QuantisedRows& out);
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* out);
  // out += scale * x, whole vectors.
  void (*add_rows)(const float* x, float scale, int64_t n, float* out);
  // Where the largest of n numbers is, the first of several; one that is no number is larger than any.
  int64_t (*largest)(const float* x, int64_t n);
  // e^((x - most) / temperature) to `out`, 0 below e^-87, and the largest of each kPeak to `peaks`; returns the sum.
  double (*weigh)(const float* x, int64_t n, float temperature, float most, float* out, float* peaks);
  // The places of what is at least `floor`, rising; returns how many.
  int64_t (*reach)(const float* x, int64_t n, float floor, int32_t* places);
  // x = cap * tanh(x / cap), any n.
  void (*soft_cap)(float* x, int64_t n, float cap);
  void (*attend)(const Attend& a, float* scratch);
  void (*merge)(const Attend& a, int row, float* out);
  // Turn the halves of a head against each other, by `half` cosines and as many sines.
  void (*turn)(float* head, const float* turns, int half);
  // A head's key or value, padded with zeros, into a slot of its block.
  void (*place)(const float* head, Kv kv, bool key, int slot, int64_t padded_dim, uint8_t* block);
  void (*unpack_row)(const Matrix& w, int64_t row, float scale, float* out);
  // Rates of one thread: a loop of nothing but multiply-adds (of floats, of bytes) in registers, or of loads.
  // They return how many operations or bytes they did; the result goes to `sink` so that it has to be computed.
  double (*spin_floats)(int64_t turns, float* sink);
  double (*spin_integers)(int64_t turns, float* sink);
  double (*read)(const uint8_t* data, int64_t bytes, float* sink);
};

constexpr int64_t kScratchFloats =
    kSlab * kPanel + kRowBlock * kPanel  // linear: an unpacked slab, a panel's sums
    + 64;
constexpr int64_t attend_scratch_floats(int64_t padded_dim) {
  return kMaxAttendRows * (3 * padded_dim + 2 * kLanes + kSplit + kSplit / 2) + 2 * kSplit * padded_dim + 64;
}
constexpr int64_t kv_head_bytes(Kv kv, int64_t padded_dim) {
  return padded_dim * kBlock * (kv == kKvF32 ? 4 : kv == kKvF16 ? 2 : 1) + (kv == kKvS8 ? kBlock * 4 : 0);
}

// Panels that make a task of a linear: several where there are few rows, or so many panels that each thread has many.
inline int64_t panels_of_task(int64_t rows, int64_t panels, int threads) {
  if (rows <= kDirectRowsMax) return kDirectPanelsMax;
  const int64_t together = rows < kRowBlock ? kRowBlock / rows : 1;
  return panels < 256 * threads ? 1 : together < 8 ? together : 8;
}

inline int64_t group_bytes(Format f) {
  return f == kQ8_0 ? 64 + 1024 : f == kQ4_0 ? 64 + 512 : 128 + 512;
}
inline bool is_quantised(Format f) { return f >= kQ8_0; }
inline int64_t panel_bytes(Format f, int64_t k) {
  if (f == kF32) return k * kPanel * 4;
  if (f == kF16 || f == kBF16) return k * kPanel * 2;
  return k / kGroup * group_bytes(f);
}

// Elsewhere than on x86-64, or where it is asked for, the portable kernels are the only ones.
#if defined(__x86_64__) && !defined(SLIPWAY_PORTABLE_ONLY)
#define SLIPWAY_X86 1
#endif

const Kernels* portable_kernels();
#if SLIPWAY_X86
const Kernels* avx2_kernels();
const Kernels* avxvnni_kernels();
const Kernels* avx512_kernels();
#endif

}  // namespace slipway
