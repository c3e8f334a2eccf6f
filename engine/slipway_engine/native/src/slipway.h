/* The library's whole surface: plain C, called through ctypes with addresses of memory that the caller keeps.
 * Functions that can fail return null or non-zero and leave a sentence in slipway_error() of the same thread. */
#pragma once
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SLIPWAY_ABI 8
#if defined(__GNUC__)
#define SLIPWAY_API __attribute__((visibility("default")))
#else
#define SLIPWAY_API
#endif

typedef struct slipway_pool slipway_pool;
typedef struct slipway_matrix slipway_matrix;
typedef struct slipway_model slipway_model;

/* Rows of a weight as the checkpoint holds them, contiguous; `format` is kernels.h's. */
typedef struct {
  int32_t format;
  int64_t rows;
  const void* data;
} slipway_source;

typedef struct {
  int32_t hidden, intermediate, vocab, layers, heads, kv_heads, head_dim;
  int32_t gelu;        /* 1: gated by tanh-GELU, 0: by SiLU */
  int32_t input_bytes; /* quantised matrices take their inputs as 4: f32, 2 or 1: whole numbers of so many bytes */
  int32_t kv;          /* what the cache holds: 0 f32, 1 f16, 2 signed bytes with a scale for each token and head */
  int32_t turned;      /* the first elements of a head that the rotary embedding turns; the others stay */
  int32_t experts, experts_per_token; /* 0: one MLP a layer */
  int32_t experts_normalised;         /* 1: the shares of a token's experts add up to 1 */
  int32_t wide_norms;  /* 1: query and key norms are over all heads of a token together, 0: over each head */
  /* A soft cap of 0 is none. Rope scales multiply what turns; `local` ones belong to layers with a window. */
  float norm_eps, attention_scale, embedding_scale, residual_scale, logits_scale, attention_softcap, logits_softcap;
  float rope_scale, local_rope_scale;
} slipway_config;

/* Matrices stay the caller's; vectors are copied. A null vector is absent. */
typedef struct {
  const slipway_matrix *qkv, *out, *gate_up, *down;
  const float *qkv_bias, *out_bias, *gate_bias, *up_bias, *down_bias;
  const float *attention_norm, *mlp_norm, *query_norm, *key_norm;
  const float *attention_post_norm, *mlp_post_norm; /* of what attention and MLP add */
  /* Instead of gate_up and down, where the configuration has experts: a matrix [experts, hidden], and theirs. */
  const slipway_matrix* router;
  const slipway_matrix *const *expert_gate_up, *const *expert_down;
  int64_t window;                   /* 0: full attention */
  int32_t group, place;             /* whose blocks hold its keys and values, and where in them */
} slipway_layer;

/* One step. Tokens lie flattened: those of sequence s are [starts[s], starts[s + 1]), at consecutive positions.
 * The cache: at place p of block b, head h has its keys at keys + p * layer_bytes + b * block_bytes + h * head_bytes,
 * [padded head_dim, 16], and its values likewise, [16, padded head_dim]; signed bytes lie as kernels.h says.
 * Each group of layers has a table of each sequence, with its blocks up to the last token's; those before the
 * windows of the group's layers may be left out. */
typedef struct {
  int32_t tokens, sequences, outputs;
  const int64_t* token_ids;
  const int64_t* positions; /* of each sequence's first token */
  const int32_t* starts;
  const int32_t* blocks;
  const int32_t* tables;      /* of row r, group * sequences + sequence, are blocks [tables[r], tables[r + 1]) */
  const int32_t* output_rows; /* tokens whose logits are wanted, rising */
  float* logits;              /* [outputs, vocabulary] */
  float* largest;             /* [outputs], or null: of each row; what is no number is larger than any */
  int64_t* places;            /* [outputs]: of the first that is as large */
  uint8_t *keys, *values;
  int64_t num_blocks, layer_bytes, block_bytes, head_bytes;
} slipway_step;

SLIPWAY_API int32_t slipway_abi(void);
SLIPWAY_API const char* slipway_error(void);
/* The instruction sets that this processor runs, best first, separated by spaces. */
SLIPWAY_API const char* slipway_instruction_sets(void);

SLIPWAY_API slipway_pool* slipway_pool_create(int32_t threads);
SLIPWAY_API void slipway_pool_destroy(slipway_pool* pool);

/* Pack sources one below the other (or, `gated`, two sources row by row: 16 of the first, 16 of the second) into a
 * matrix of `format`: the sources' own, or Q8_0 or Q4_1 from floats. */
SLIPWAY_API slipway_matrix* slipway_pack(slipway_pool* pool, const slipway_source* sources, int32_t count, int64_t k,
                                         int32_t format, int32_t gated);
SLIPWAY_API int64_t slipway_matrix_bytes(const slipway_matrix* matrix);
SLIPWAY_API void slipway_matrix_destroy(slipway_matrix* matrix);
/* y [rows, n] = x [rows, k] times the matrix, transposed: the linear of a step, alone. */
SLIPWAY_API int32_t slipway_linear(slipway_pool* pool, const char* isa, const slipway_matrix* matrix, const float* x,
                                   int64_t rows, int32_t input_bytes, float* y);

SLIPWAY_API slipway_model* slipway_model_create(slipway_pool* pool, const char* isa, const slipway_config* config,
                                                const slipway_layer* layers, const float* final_norm,
                                                const float* inverse_frequencies, /* turned / 2 */
                                                const float* local_frequencies,   /* of layers with a window, or null */
                                                const slipway_matrix* embedding, const slipway_matrix* head);
SLIPWAY_API void slipway_model_destroy(slipway_model* model);
SLIPWAY_API int32_t slipway_model_step(slipway_model* model, const slipway_step* step);
/* Seconds that steps took since the last call for: embedding, norms, QKV, heads into the cache, attention, its output,
 * MLP, head. The first call begins to count. */
SLIPWAY_API void slipway_model_times(slipway_model* model, double seconds[8]);
/* Bytes that steps need for each position of the longest sequence: where threads share a long context, they keep what each found. */
SLIPWAY_API int64_t slipway_context_bytes(const slipway_config* config, int32_t threads);
/* Bytes that the keys, or the values, of one head take in a block. */
SLIPWAY_API int64_t slipway_kv_head_bytes(const slipway_config* config);
/* Bytes of the workspace that steps of `tokens` tokens and `outputs` logits rows need. */
SLIPWAY_API int64_t slipway_workspace_bytes(const slipway_config* config, int32_t threads, int64_t tokens);

/* How a row's next token is drawn. `likeliest` is the place of its largest logit, which is finite. */
typedef struct {
  int64_t row, likeliest;
  float temperature, min_p, top_p; /* above 0; 0 for none; 1 for none */
  int32_t top_k;                   /* 0: none */
  uint64_t stream;                 /* of the row's noise, and its place in it */
  int64_t position;
} slipway_draw;

/* Draw a token for each of `count` rows of `logits` [rows, vocab]. */
SLIPWAY_API int32_t slipway_sample(slipway_pool* pool, const char* isa, const float* logits, int64_t rows, int64_t vocab,
                                   const slipway_draw* draws, int32_t count, int64_t* tokens);

/* Rates of this machine a second, by simple loops on all threads: f32 and 8-bit operations (a multiply-add is two)
 * in registers, bytes read of `data`. */
SLIPWAY_API double slipway_measure_flops(slipway_pool* pool, const char* isa);
SLIPWAY_API double slipway_measure_integers(slipway_pool* pool, const char* isa);
SLIPWAY_API double slipway_measure_reads(slipway_pool* pool, const char* isa, const uint8_t* data, int64_t bytes);

#ifdef __cplusplus
}
#endif
