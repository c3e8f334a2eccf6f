// Prints linears of every format and the logits of a small random model with every kind of cache, as the portable kernels
// compute them; test_arch.py compares what two architectures print.
#include <cstdio>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "slipway.h"

namespace {

uint32_t state = 1;
float draw() {  // in [-1, 1)
  state = state * 1664525u + 1013904223u;
  return (float)(int32_t)state / 2147483648.0f;
}

std::vector<float> floats(int64_t n, float scale, float offset = 0) {
  std::vector<float> values(n);
  for (float& value : values) value = draw() * scale + offset;
  return values;
}

void check(bool holds) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", slipway_error());
  std::exit(1);
}

slipway_matrix* matrix(slipway_pool* pool, int rows, int width, int format, int parts = 1, bool gated = false) {
  std::vector<std::vector<float>> data;
  std::vector<slipway_source> sources;
  for (int i = 0; i < parts; i++) data.push_back(floats((int64_t)rows * width, 0.3f));
  for (auto& part : data) sources.push_back({0, rows, part.data()});
  slipway_matrix* made = slipway_pack(pool, sources.data(), parts, width, format, gated);
  check(made != nullptr);
  return made;
}

void print(const std::vector<float>& values) {
  for (size_t i = 0; i < values.size(); i += 7) std::printf("%.7g\n", values[i]);
}

void linears(slipway_pool* pool) {
  for (int format : {0, 3, 5})
    for (int rows : {1, 5, 20}) {
      slipway_matrix* w = matrix(pool, 70, 96, format);
      const std::vector<float> x = floats(rows * 96, 1);
      for (int input_bytes : {4, 2, 1}) {
        std::vector<float> y(rows * 70);
        check(!slipway_linear(pool, "portable", w, x.data(), rows, input_bytes, y.data()));
        print(y);
      }
      slipway_matrix_destroy(w);
    }
}

void model(slipway_pool* pool, int format, int kv, int input_bytes) {
  constexpr int kHidden = 64, kInner = 96, kVocab = 50, kLayers = 2, kHeads = 4, kKvHeads = 2, kDim = 16, kTokens = 150;
  slipway_config c = {};
  c.hidden = kHidden, c.intermediate = kInner, c.vocab = kVocab, c.layers = kLayers;
  c.heads = kHeads, c.kv_heads = kKvHeads, c.head_dim = c.turned = kDim, c.input_bytes = input_bytes, c.kv = kv;
  c.norm_eps = 1e-5f, c.attention_scale = 0.25f, c.embedding_scale = c.residual_scale = c.logits_scale = 1;
  c.rope_scale = c.local_rope_scale = 1, c.attention_softcap = 20;
  const std::vector<float> norm = floats(kHidden, 0.2f, 1), frequencies = floats(kDim / 2, 0.2f, 0.3f);
  std::vector<slipway_layer> layers(kLayers);
  std::vector<slipway_matrix*> made;
  for (slipway_layer& l : layers) {
    l = {};
    l.place = (int32_t)(&l - layers.data());
    made.push_back(matrix(pool, (kHeads + 2 * kKvHeads) * kDim, kHidden, format));
    made.push_back(matrix(pool, kHidden, kHeads * kDim, format));
    made.push_back(matrix(pool, kInner, kHidden, format, 2, true));
    made.push_back(matrix(pool, kHidden, kInner, format));
    slipway_matrix** last = &made[made.size() - 4];
    l.qkv = last[0], l.out = last[1], l.gate_up = last[2], l.down = last[3];
    l.attention_norm = l.mlp_norm = norm.data();
  }
  layers[1].window = 40;
  made.push_back(matrix(pool, kVocab, kHidden, format));
  slipway_model* decoder = slipway_model_create(pool, "portable", &c, layers.data(), norm.data(), frequencies.data(),
                                                nullptr, made.back(), made.back());
  check(decoder != nullptr);
  slipway_step s = {};
  s.head_bytes = slipway_kv_head_bytes(&c);
  s.layer_bytes = 2 * kKvHeads * s.head_bytes;
  s.block_bytes = kLayers * s.layer_bytes;
  s.num_blocks = 12;
  std::vector<float> cache(s.num_blocks * s.block_bytes / 4);
  std::vector<float> logits(kVocab);
  std::vector<int64_t> tokens(kTokens);
  for (int64_t& token : tokens) token = (int64_t)((draw() + 1) * 0.5f * kVocab) % kVocab;
  const int32_t blocks[] = {3, 1, 7, 2, 9, 4, 11, 5, 6, 10}, tables[] = {0, 10}, outputs[] = {0};
  s.keys = (uint8_t*)cache.data();
  s.values = s.keys + s.layer_bytes / 2;
  s.sequences = 1, s.blocks = blocks, s.tables = tables, s.output_rows = outputs, s.logits = logits.data();
  for (int64_t at = 0; at < kTokens;) {  // a long chunk, then token by token
    const int32_t count = at ? 1 : 140, starts[] = {0, count};
    s.tokens = count, s.outputs = at ? 1 : 0;
    s.token_ids = tokens.data() + at, s.positions = &at, s.starts = starts;
    check(!slipway_model_step(decoder, &s));
    if (s.outputs) print(logits);
    at += count;
  }
  slipway_model_destroy(decoder);
  for (slipway_matrix* one : made) slipway_matrix_destroy(one);
}

}  // namespace

int main() {
  slipway_pool* pool = slipway_pool_create(2);
  check(pool != nullptr);
  linears(pool);
  for (int kv : {0, 1, 2}) model(pool, 0, kv, 4);
  model(pool, 5, 2, 2);
  model(pool, 3, 2, 1);
  slipway_pool_destroy(pool);
}
