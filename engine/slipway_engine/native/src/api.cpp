// The C surface: checks arguments, chooses the instruction set, and keeps exceptions inside.
#include <algorithm>
#include <chrono>
#include <exception>
#include <string>

#include "memory.h"
#include "model.h"
#include "pack.h"
#include "sample.h"

using namespace slipway;

struct slipway_pool : Pool {
  using Pool::Pool;
};
struct slipway_matrix : Matrix {
  Piece memory;
};
struct slipway_model : Model {
  using Model::Model;
};

namespace {

constexpr int kMaxThreads = 1024;
thread_local std::string last_error;

const Kernels* kernels_named(const char* name) {
  const std::string wanted = name;
#if SLIPWAY_X86
  if (wanted == "avx512" && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return avx512_kernels();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (wanted == "avxvnni" && avx2 && __builtin_cpu_supports("avxvnni")) return avxvnni_kernels();
  if (wanted == "avx2" && avx2) return avx2_kernels();
#endif
  return wanted == "portable" ? portable_kernels() : nullptr;
}

const Kernels& kernels_for(const char* isa) {
  const Kernels* kernels = kernels_named(isa);
  if (!kernels) throw std::string("This processor does not run the instruction set ") + isa + ".";
  return *kernels;
}

// Run `body`; an exception becomes the thread's error and `failed` the result.
template <class Result, class Body>
Result guarded(Result failed, Body body) {
  try {
    return body();
  } catch (const std::string& sentence) {
    last_error = sentence;
  } catch (const std::exception& error) {
    last_error = std::string("The native library failed: ") + error.what() + ".";
  }
  return failed;
}

void require(bool holds, const char* sentence) {
  if (!holds) throw std::string(sentence);
}

bool is_format(int32_t format) { return format >= 0 && format < kFormats; }

slipway_matrix* pack_sources(Pool& pool, const slipway_source* sources, int count, int64_t k, Format format, bool gated) {
  require(count > 0 && k > 0 && is_format(format) && (!gated || count == 2), "A matrix needs sources of a known format.");
  require(!is_quantised(format) || k % kGroup == 0, "A quantised matrix needs a width that 32 divides.");
  int64_t rows = 0;
  for (int i = 0; i < count; i++) {
    const Format from = (Format)sources[i].format;
    require(is_format(from) && from == sources[0].format && sources[i].rows > 0, "The sources differ in format, or are empty.");
    require(from == format || ((format == kQ8_0 || format == kQ4_1) && !is_quantised(from)),
            "Only floats can be packed in another format, as Q8_0 or Q4_1.");
    rows += gated ? (sources[i].rows + kLanes - 1) / kLanes * kLanes : sources[i].rows;
  }
  require(!gated || sources[0].rows == sources[1].rows, "Gate and up projection must have the same rows.");
  auto matrix = std::make_unique<slipway_matrix>();
  static_cast<Matrix&>(*matrix) = {format, rows, k, (rows + kPanel - 1) / kPanel, panel_bytes(format, k), nullptr};
  matrix->memory = take_memory(matrix->panels * matrix->panel_bytes);
  matrix->data = matrix->memory.data;
  pack(pool, sources, count, gated, *matrix);
  return matrix.release();
}

void check_config(const slipway_config& c) {
  require(c.hidden > 0 && c.intermediate > 0 && c.vocab > 0 && c.layers > 0, "The model has no size.");
  require(c.heads > 0 && c.kv_heads > 0 && c.heads % c.kv_heads == 0, "Key heads must divide query heads.");
  require(c.heads / c.kv_heads <= kMaxAttendRows, "At most 96 query heads may share a key head.");
  require(c.input_bytes == 1 || c.input_bytes == 2 || c.input_bytes == 4, "Inputs have 1, 2 or 4 bytes.");
  require(c.kv >= 0 && c.kv < kKvs, "The cache holds f32, f16 or signed bytes.");
  require(c.experts >= 0 && c.experts <= 4096 && c.experts_per_token >= (c.experts > 0) &&
              c.experts_per_token <= c.experts,
          "A token takes between one and all of at most 4,096 experts.");
  require(c.turned >= 0 && c.turned <= c.head_dim && c.turned % 2 == 0, "An even part of a head turns.");
  require(c.head_dim > 0 && c.head_dim <= kMaxHeadDim && c.head_dim % 2 == 0, "The head size must be even and at most 512.");
}

void check_matrix(const Matrix* m, int64_t n, int64_t k) {
  require(m && m->n == n && m->k == k, "A matrix does not have the shape that the configuration asks for.");
}

void check_layer(const slipway_config& c, const slipway_layer& l) {
  const int64_t query = (int64_t)c.heads * c.head_dim, kv = (int64_t)c.kv_heads * c.head_dim;
  check_matrix((const Matrix*)l.qkv, query + 2 * kv, c.hidden);
  check_matrix((const Matrix*)l.out, c.hidden, query);
  const int64_t gated = (c.intermediate + kLanes - 1) / kLanes * kPanel;
  if (!c.experts) {
    check_matrix((const Matrix*)l.gate_up, gated, c.hidden);
    check_matrix((const Matrix*)l.down, c.hidden, c.intermediate);
  } else {
    check_matrix((const Matrix*)l.router, c.experts, c.hidden);
    require(l.expert_gate_up && l.expert_down, "A layer lacks its experts.");
  }
  for (int e = 0; e < c.experts; e++) {
    const Matrix *gate_up = (const Matrix*)l.expert_gate_up[e], *down = (const Matrix*)l.expert_down[e];
    check_matrix(gate_up, gated, c.hidden);
    check_matrix(down, c.hidden, c.intermediate);
    require(gate_up->format == ((const Matrix*)l.expert_gate_up[0])->format &&
                down->format == ((const Matrix*)l.expert_down[0])->format,
            "A layer's experts differ in format.");
  }
  require((l.attention_norm || l.attention_post_norm) && (l.mlp_norm || l.mlp_post_norm), "A layer lacks a norm.");
  require(!l.query_norm == !l.key_norm, "Queries and keys are both normed, or neither.");
  require(l.group >= 0 && l.group < c.layers && l.place >= 0 && l.place < c.layers && l.window >= 0,
          "A layer's keys and values have no place.");
}

}  // namespace

int32_t slipway_abi(void) { return SLIPWAY_ABI; }

const char* slipway_error(void) { return last_error.c_str(); }

const char* slipway_instruction_sets(void) {
  static const std::string found = [] {
    std::string names;
    for (const char* name : {"avx512", "avxvnni", "avx2", "portable"})
      if (kernels_named(name)) names += (names.empty() ? "" : " ") + std::string(name);
    return names;
  }();
  return found.c_str();
}

slipway_pool* slipway_pool_create(int32_t threads) {
  return guarded((slipway_pool*)nullptr, [&] {
    require(threads > 0 && threads <= kMaxThreads, "A pool has between 1 and 1,024 threads.");
    return new slipway_pool(threads);
  });
}

void slipway_pool_destroy(slipway_pool* pool) { delete pool; }

slipway_matrix* slipway_pack(slipway_pool* pool, const slipway_source* sources, int32_t count, int64_t k, int32_t format,
                             int32_t gated) {
  return guarded((slipway_matrix*)nullptr,
                 [&] { return pack_sources(*pool, sources, count, k, (Format)format, gated != 0); });
}

int64_t slipway_matrix_bytes(const slipway_matrix* matrix) { return matrix->panels * matrix->panel_bytes; }

void slipway_matrix_destroy(slipway_matrix* matrix) { delete matrix; }

int32_t slipway_linear(slipway_pool* pool, const char* isa, const slipway_matrix* matrix, const float* x, int64_t rows,
                       int32_t input_bytes, float* y) {
  return guarded(1, [&] {
    const Kernels& kernels = kernels_for(isa);
    require(rows > 0, "A product needs rows.");
    require(input_bytes == 1 || input_bytes == 2 || input_bytes == 4, "Inputs have 1, 2 or 4 bytes.");
    const bool integers = input_bytes < 4 && is_quantised(matrix->format);
    const int64_t k = matrix->k, groups = integers ? k / kGroup : 0, planes = input_bytes;
    std::vector<int8_t> q(groups * kGroup * rows * planes);
    std::vector<float> scale(groups * rows), sum(groups * rows), scratch(kScratchFloats * pool->size());
    std::vector<int32_t> isum(groups * rows * planes);
    auto at = [&](int64_t row) {
      return QuantisedRows{q.data() + row * planes * groups * kGroup, isum.data() + row * planes * groups,
                           scale.data() + row * groups, sum.data() + row * groups, groups, (int)planes};
    };
    const int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
    const int64_t step = panels_of_task(rows, matrix->panels, pool->size()), strips = (matrix->panels + step - 1) / step;
    auto body = [&](int thread) {
      if (integers) pool->share(thread, rows, [&](int64_t row) { kernels.quantise(x + row * k, k, at(row)); });
      pool->share(thread, strips * blocks, [&](int64_t i) {
        const int64_t block = i / strips, panel = i % strips * step, panel_end = std::min(panel + step, matrix->panels);
        const int64_t row = rows * block / blocks, count = rows * (block + 1) / blocks - row;
        const Epilogue e{y + row * matrix->n, matrix->n, nullptr, Finish::kStore, 1.0f, matrix->n};
        float* own = scratch.data() + thread * kScratchFloats;
        if (integers) kernels.linear_int(*matrix, at(row), (int)count, panel, panel_end, e, own);
        else kernels.linear_f32(*matrix, x + row * k, k, (int)count, panel, panel_end, e, own);
      });
    };
    pool->run(body);
    return 0;
  });
}

slipway_model* slipway_model_create(slipway_pool* pool, const char* isa, const slipway_config* config,
                                    const slipway_layer* layers, const float* final_norm,
                                    const float* inverse_frequencies, const float* local_frequencies,
                                    const slipway_matrix* embedding, const slipway_matrix* head) {
  return guarded((slipway_model*)nullptr, [&] {
    check_config(*config);
    for (int i = 0; i < config->layers; i++) check_layer(*config, layers[i]);
    check_matrix(embedding, config->vocab, config->hidden);
    check_matrix(head, config->vocab, config->hidden);
    return new slipway_model(*pool, kernels_for(isa), *config, layers, final_norm, inverse_frequencies,
                             local_frequencies, *embedding, *head);
  });
}

void slipway_model_destroy(slipway_model* model) { delete model; }

int32_t slipway_model_step(slipway_model* model, const slipway_step* step) {
  return guarded(1, [&] {
    if (const char* sentence = model->check(*step)) throw std::string(sentence);
    model->run(*step);
    return 0;
  });
}

void slipway_model_times(slipway_model* model, double seconds[8]) { model->times(seconds); }

int64_t slipway_context_bytes(const slipway_config* config, int32_t threads) {
  return Model::context_bytes(*config, threads);
}

int64_t slipway_kv_head_bytes(const slipway_config* config) {
  return kv_head_bytes((Kv)config->kv, (config->head_dim + kLanes - 1) / kLanes * kLanes);
}

int64_t slipway_workspace_bytes(const slipway_config* config, int32_t threads, int64_t tokens) {
  return Model::workspace_bytes(*config, threads, tokens);
}

int32_t slipway_sample(slipway_pool* pool, const char* isa, const float* logits, int64_t rows, int64_t vocab,
                       const slipway_draw* draws, int32_t count, int64_t* tokens) {
  return guarded(1, [&] {
    const Kernels& kernels = kernels_for(isa);
    for (int i = 0; i < count; i++) {
      const slipway_draw& d = draws[i];
      require(d.row >= 0 && d.row < rows && d.likeliest >= 0 && d.likeliest < vocab, "A draw lies outside the logits.");
      require(d.temperature > 0 && d.top_p > 0 && d.top_k >= 0, "A draw needs a temperature and a nucleus.");
    }
    auto body = [&](int thread) {
      pool->share(thread, count, [&](int64_t i) {
        tokens[i] = draw_token(kernels, logits + draws[i].row * vocab, vocab, draws[i]);
      });
    };
    pool->run(body);
    return 0;
  });
}

namespace {

// Operations a second of all threads together, the best of three.
template <class Work>
double best_rate(Pool& pool, Work work) {
  double best = 0;
  for (int turn = 0; turn < 3; turn++) {
    std::vector<double> done(pool.size());
    auto body = [&](int thread) { pool.share(thread, pool.size(), [&](int64_t i) { done[i] = work(i); }); };
    const auto began = std::chrono::steady_clock::now();
    pool.run(body);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    double sum = 0;
    for (double one : done) sum += one;
    best = std::max(best, sum / took.count());
  }
  return best;
}

}  // namespace

double slipway_measure_flops(slipway_pool* pool, const char* isa) {
  return guarded(0.0, [&] {
    const Kernels& kernels = kernels_for(isa);
    return best_rate(*pool, [&](int64_t) { float sink; return kernels.spin_floats(20'000'000, &sink); });
  });
}

double slipway_measure_integers(slipway_pool* pool, const char* isa) {
  return guarded(0.0, [&] {
    const Kernels& kernels = kernels_for(isa);
    return best_rate(*pool, [&](int64_t) { float sink; return kernels.spin_integers(20'000'000, &sink); });
  });
}

double slipway_measure_reads(slipway_pool* pool, const char* isa, const uint8_t* data, int64_t bytes) {
  return guarded(0.0, [&] {
    const Kernels& kernels = kernels_for(isa);
    const int64_t share = bytes / pool->size() / 256 * 256;
    return best_rate(*pool, [&](int64_t thread) {
      float sink;
      double done = 0;
      for (int turn = 0; turn < 10; turn++) done += kernels.read(data + thread * share, share, &sink);
      return done;
    });
  });
}
