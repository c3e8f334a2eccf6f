#include "model.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace slipway {
namespace {

constexpr int64_t kSpareTasks = 8;      // attention tasks for each thread, below which a long context is split

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

std::vector<float> padded(const float* from, int64_t n, int64_t to) {
  std::vector<float> copy;
  if (from) {
    copy.assign(from, from + n);
    copy.resize(round_up(n, to));
  }
  return copy;
}

// 16 of the gate's, then 16 of the up projection's, as their rows lie in the packed matrix.
std::vector<float> woven(const float* gate, const float* up, int64_t n) {
  std::vector<float> both;
  if (!gate && !up) return both;
  both.resize(round_up(n, kLanes) * 2);
  for (int64_t i = 0; i < n; i++) {
    const int64_t at = i / kLanes * kPanel + i % kLanes;
    if (gate) both[at] = gate[i];
    if (up) both[at + kLanes] = up[i];
  }
  return both;
}

const float* or_null(const std::vector<float>& v) { return v.empty() ? nullptr : v.data(); }

}  // namespace

double Clock::now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Model::Model(Pool& pool, const Kernels& kernels, const slipway_config& config, const slipway_layer* layers,
             const float* final_norm, const float* inverse_frequencies, const float* local_frequencies,
             const Matrix& embedding, const Matrix& head)
    : pool_(pool), kernels_(kernels), config_(config), padded_dim_(round_up(config.head_dim, kLanes)),
      final_norm_(padded(final_norm, config.hidden, kLanes)),
      frequencies_(inverse_frequencies, inverse_frequencies + config.turned / 2),
      local_frequencies_(local_frequencies ? local_frequencies : inverse_frequencies,
                         (local_frequencies ? local_frequencies : inverse_frequencies) + config.turned / 2),
      embedding_(embedding), head_(head) {
  const int64_t query = (int64_t)config.heads * config.head_dim, kv = (int64_t)config.kv_heads * config.head_dim;
  for (int i = 0; i < config.layers; i++) {
    const slipway_layer& l = layers[i];
    layers_.push_back({(const Matrix*)l.qkv, (const Matrix*)l.out, (const Matrix*)l.gate_up, (const Matrix*)l.down,
                       padded(l.qkv_bias, query + 2 * kv, kPanel), padded(l.out_bias, config.hidden, kPanel),
                       woven(l.gate_bias, l.up_bias, config.intermediate),
                       padded(l.down_bias, config.hidden, kPanel), padded(l.attention_norm, config.hidden, kLanes),
                       padded(l.mlp_norm, config.hidden, kLanes),
                       padded(l.query_norm, config.wide_norms ? query : config.head_dim, kLanes),
                       padded(l.key_norm, config.wide_norms ? kv : config.head_dim, kLanes),
                       padded(l.attention_post_norm, config.hidden, kLanes),
                       padded(l.mlp_post_norm, config.hidden, kLanes), (const Matrix*)l.router, {}, {}, l.window, l.group, l.place});
    block_places_ = std::max(block_places_, l.place + 1);
    if (l.group >= (int)reaches_.size()) reaches_.resize(l.group + 1, -1);
    int64_t& reach = reaches_[l.group];
    reach = reach == 0 || l.window == 0 ? 0 : std::max(reach, l.window);
    for (int e = 0; e < config.experts; e++) {
      layers_.back().expert_gate_up.push_back((const Matrix*)l.expert_gate_up[e]);
      layers_.back().expert_down.push_back((const Matrix*)l.expert_down[e]);
    }
  }
  hidden_.shape(config.hidden);
  normed_.shape(config.hidden);
  heads_.shape(query + 2 * kv);
  mixed_.shape(query);
  inner_.shape(config.intermediate);
  routes_.shape(config.experts);
  gathered_.shape(config.hidden);
  answers_.shape(config.hidden);
  scratch_floats_ = round_up(std::max({kScratchFloats, attend_scratch_floats(padded_dim_), query + kLanes,
                                      (int64_t)config.hidden + kLanes}), kLanes);
  scratch_.reserve(scratch_floats_ * pool.size());
}

int64_t Model::workspace_bytes(const slipway_config& c, int threads, int64_t tokens) {
  const int64_t query = (int64_t)c.heads * c.head_dim, kv = (int64_t)c.kv_heads * c.head_dim;
  const int64_t answers = std::max(1, c.experts_per_token);
  int64_t floats = 2 * c.hidden + query + 2 * kv + query + answers * c.intermediate + 2 * c.head_dim;
  floats += (5 + answers) * (kPanel + kLanes);
  if (c.experts) floats += c.experts + answers * (2 * c.hidden + 2 * (kPanel + kLanes) + 8);
  const int64_t bytes = answers * std::max<int64_t>({c.hidden, query, c.intermediate});
  const int64_t attend = attend_scratch_floats(round_up(c.head_dim, kLanes));
  const int64_t scratch = std::max({kScratchFloats, attend, query + kLanes, (int64_t)c.hidden + kLanes}) + kLanes;
  return tokens * (4 * floats + 2 * bytes + 16 * (bytes / kGroup + 1) + 64) + 4 * scratch * threads;
}

// The parts of cut contexts, of which there are fewer than kSpareTasks a thread, a state for each split and head.
int64_t Model::context_bytes(const slipway_config& c, int threads) {
  const int64_t sequences = (kSpareTasks * threads + c.kv_heads - 1) / c.kv_heads;
  return sequences * c.heads * (round_up(c.head_dim, kLanes) + kLanes) * 4 / kSplit + 1;
}

const char* Model::check(const slipway_step& s) const {
  if (s.tokens < 1 || s.sequences < 1 || s.outputs < 0) return "A step needs tokens and sequences.";
  if (block_places_ * s.layer_bytes > s.block_bytes) return "A block has no room for its layers.";
  if (s.starts[0] != 0 || s.starts[s.sequences] != s.tokens) return "The sequences do not cover the step's tokens.";
  for (int i = 0; i < s.tokens; i++)
    if (s.token_ids[i] < 0 || s.token_ids[i] >= config_.vocab) return "A token id lies outside the vocabulary.";
  for (int i = 0; i < s.outputs; i++)
    if (s.output_rows[i] < (i ? s.output_rows[i - 1] + 1 : 0) || s.output_rows[i] >= s.tokens)
      return "The rows of outputs must rise, within the step's tokens.";
  for (int i = 0; i < s.sequences; i++) {
    if (s.starts[i + 1] <= s.starts[i] || s.positions[i] < 0) return "A sequence has no token, or a negative position.";
  }
  return check_tables(s);
}

const char* Model::check_tables(const slipway_step& s) const {
  const int64_t rows = (int64_t)reaches_.size() * s.sequences;
  if (s.tables[0] != 0) return "The tables do not begin with the blocks.";
  for (int64_t row = 0; row < rows; row++) {
    const int64_t reach = reaches_[row / s.sequences], position = s.positions[row % s.sequences];
    if (s.tables[row + 1] <= s.tables[row]) return "A sequence has no block.";
    const int64_t oldest = reach > 0 ? std::max<int64_t>(position - reach + 1, 0) : 0;
    if (first_block(s, row) > oldest / kBlock) return "A sequence lacks blocks that its layers see.";
    for (int64_t b = s.tables[row]; b < s.tables[row + 1]; b++)
      if (s.blocks[b] < 0 || s.blocks[b] >= s.num_blocks) return "A block lies outside the cache.";
  }
  return nullptr;
}

// The place in its sequence of a table's first block: the table's last holds the sequence's last token.
int64_t Model::first_block(const slipway_step& s, int64_t row) const {
  const int64_t sequence = row % s.sequences, given = s.tables[row + 1] - s.tables[row];
  const int64_t end = s.positions[sequence] + s.starts[sequence + 1] - s.starts[sequence];
  return std::max<int64_t>((end + kBlock - 1) / kBlock - given, 0);
}

void Model::find_tables(const slipway_step& step) {
  tables_.resize(reaches_.size() * step.sequences);
  for (size_t row = 0; row < tables_.size(); row++)
    tables_[row] = step.blocks + (step.tables[row] - first_block(step, row));
}

void Model::run(const slipway_step& step) {
  clock_.start();
  prepare(step);
  auto body = [this, &step](int thread) { step_on(thread, step); };
  pool_.run(body);
  if (step.largest) take_largest(step);
}

void Model::prepare(const slipway_step& step) {
  const int64_t answers = (int64_t)step.tokens * std::max(1, config_.experts_per_token);
  for (Rows* rows : {&hidden_, &normed_, &heads_, &mixed_}) rows->data.reserve(rows->stride * step.tokens);
  inner_.data.reserve(inner_.stride * answers);
  if (config_.experts) {
    routes_.data.reserve(routes_.stride * step.tokens);
    for (Rows* rows : {&gathered_, &answers_}) rows->data.reserve(rows->stride * answers);
    chosen_.resize(answers);
    places_.resize(answers);
    shares_.resize(answers);
  }
  const int64_t widest = std::max({normed_.stride, mixed_.stride, inner_.stride});
  bytes_.reserve(2 * answers * widest);
  for (Buffer<float>* buffer : {&scales_, &sums_}) buffer->reserve(answers * widest / kGroup + 1);
  isums_.reserve(2 * (answers * widest / kGroup + 1));
  turns_.reserve((int64_t)step.tokens * 2 * config_.turned);
  sequence_of_.resize(step.tokens);
  if (step.largest) largest_.resize(step.outputs * cuts_of_rows(step.outputs));
  for (int s = 0; s < step.sequences; s++)
    std::fill(sequence_of_.begin() + step.starts[s], sequence_of_.begin() + step.starts[s + 1], s);
  find_tables(step);
  plan_attention(step);
}

// Cut the step's attention into tasks. Where there would be too few for the threads, the long contexts of single
// tokens are cut along the keys too; their parts are merged in order, so the cut does not change the answer.
void Model::plan_attention(const slipway_step& step) {
  tasks_.clear();
  merges_.clear();
  const int tile = kMaxAttendRows / (config_.heads / config_.kv_heads);
  int64_t tiles = 0, partials = 0;
  for (int s = 0; s < step.sequences; s++) tiles += (step.starts[s + 1] - step.starts[s] + tile - 1) / tile;
  const bool few = tiles * config_.kv_heads < kSpareTasks * pool_.size() && pool_.size() > 1;
  for (int s = 0; s < step.sequences; s++)
    for (int token = step.starts[s]; token < step.starts[s + 1]; token += tile) {
      const int tokens = std::min(tile, step.starts[s + 1] - token);
      const int64_t end = step.positions[s] + token - step.starts[s] + tokens, splits = (end + kSplit - 1) / kSplit;
      const bool cut = few && tokens == 1 && splits > 1;
      for (int head = 0; head < config_.kv_heads; head++) {
        if (!cut) {
          tasks_.push_back({s, token, tokens, head, 0, splits, -1});
          continue;
        }
        for (int64_t split = 0; split < splits; split++)
          tasks_.push_back({s, token, 1, head, split, split + 1, partials});
        merges_.push_back({s, token, 1, head, 0, splits, partials});
        partials += splits * (config_.heads / config_.kv_heads) * (padded_dim_ + kLanes);
      }
    }
  partials_.reserve(partials);
}

void Model::step_on(int thread, const slipway_step& step) {
  pool_.share(thread, step.tokens, [&](int64_t token) { embed(token, step); });
  clock_.mark(thread, Clock::kEmbed);
  for (size_t i = 0; i < layers_.size(); i++) run_layer(thread, layers_[i], i, step);
  if (!step.outputs) return;
  norm(thread, step.outputs, final_norm_, head_);
  linear(thread, head_, normed_, step.outputs,
         {step.logits, config_.vocab, nullptr, Finish::kStore, config_.logits_scale, config_.vocab});
  if (config_.logits_softcap > 0)
    pool_.share(thread, step.outputs, [&](int64_t row) {
      kernels_.soft_cap(step.logits + row * config_.vocab, config_.vocab, config_.logits_softcap);
    });
  if (step.largest) {
    const int64_t cuts = cuts_of_rows(step.outputs);
    pool_.share(thread, step.outputs * cuts, [&](int64_t i) {
      const int64_t first = config_.vocab * (i % cuts) / cuts, end = config_.vocab * (i % cuts + 1) / cuts;
      largest_[i] = first + kernels_.largest(step.logits + i / cuts * config_.vocab + first, end - first);
    });
  }
  clock_.mark(thread, Clock::kHead);
}

// Few rows of logits are cut, so that each thread looks through what it has just written.
int64_t Model::cuts_of_rows(int64_t rows) const {
  return rows < pool_.size() ? std::min(pool_.size(), config_.vocab) : 1;
}

void Model::take_largest(const slipway_step& step) const {
  const int64_t cuts = cuts_of_rows(step.outputs);
  for (int64_t row = 0; row < step.outputs; row++) {
    const float* logits = step.logits + row * config_.vocab;
    int64_t best = largest_[row * cuts];
    for (int64_t i = row * cuts + 1; i < (row + 1) * cuts && !std::isnan(logits[best]); i++)
      if (!(logits[largest_[i]] <= logits[best])) best = largest_[i];
    step.largest[row] = logits[best];
    step.places[row] = best;
  }
}

// A token's row of the embedding, and the cosines and sines of its position.
void Model::embed(int64_t token, const slipway_step& step) {
  kernels_.unpack_row(embedding_, step.token_ids[token], config_.embedding_scale, hidden_.row(token));
  const int s = sequence_of_[token];
  const float position = (float)(step.positions[s] + token - step.starts[s]);
  float* turns = turns_.get() + token * 2 * config_.turned;
  turns_of(position, frequencies_, config_.rope_scale, turns);
  turns_of(position, local_frequencies_, config_.local_rope_scale, turns + config_.turned);
}

void Model::turns_of(float position, const std::vector<float>& frequencies, float scale, float* turns) const {
  const int half = config_.turned / 2;
  for (int i = 0; i < half; i++) {
    const float angle = position * frequencies[i];
    turns[i] = cosf(angle) * scale;
    turns[half + i] = sinf(angle) * scale;
  }
}

// Add a linear's rows, normed where they are normed, to the residual.
void Model::add_linear(int thread, const Matrix& w, const Rows& x, int64_t rows, const std::vector<float>& bias,
                       const std::vector<float>& post_norm) {
  if (post_norm.empty()) {
    linear_of(thread, w, x, rows, {hidden_.row(0), hidden_.stride, or_null(bias), Finish::kAdd, config_.residual_scale});
    return;
  }
  linear_of(thread, w, x, rows, {normed_.row(0), normed_.stride, or_null(bias), Finish::kStore, 1.0f});
  pool_.share(thread, rows, [&](int64_t row) {
    kernels_.rms_norm(normed_.row(row), post_norm.data(), config_.hidden, config_.norm_eps, normed_.row(row));
    kernels_.add_rows(normed_.row(row), config_.residual_scale, config_.hidden, hidden_.row(row));
  });
}

void Model::run_layer(int thread, const Layer& layer, int64_t index, const slipway_step& step) {
  int64_t rows = step.tokens;
  norm(thread, rows, layer.attention_norm, *layer.qkv);
  clock_.mark(thread, Clock::kNorm);
  linear(thread, *layer.qkv, normed_, rows,
         {heads_.row(0), heads_.stride, or_null(layer.qkv_bias), Finish::kStore, 1.0f});
  clock_.mark(thread, Clock::kQkv);
  pool_.share(thread, rows, [&](int64_t token) { place_heads(thread, token, layer, step); });
  clock_.mark(thread, Clock::kPlace);
  attention(thread, layer, step);
  clock_.mark(thread, Clock::kAttention);
  if (index == config_.layers - 1 && step.outputs < rows) {
    pool_.share(thread, 1, [&](int64_t) { keep_outputs(step); });
    rows = step.outputs;
    if (!rows) return;
  }
  add_linear(thread, *layer.out, mixed_, rows, layer.out_bias, layer.attention_post_norm);
  clock_.mark(thread, Clock::kOut);
  norm(thread, rows, layer.mlp_norm, config_.experts ? *layer.router : *layer.gate_up);
  clock_.mark(thread, Clock::kNorm);
  if (config_.experts) {
    run_experts(thread, layer, rows);
    clock_.mark(thread, Clock::kMlp);
    return;
  }
  linear(thread, *layer.gate_up, normed_, rows,
         {inner_.row(0), inner_.stride, or_null(layer.gate_up_bias),
          config_.gelu ? Finish::kGeGLU : Finish::kSwiGLU, 1.0f});
  add_linear(thread, *layer.down, inner_, rows, layer.down_bias, layer.mlp_post_norm);
  clock_.mark(thread, Clock::kMlp);
}

// Norm one kind of a token's heads, all together.
void Model::norm_all_heads(int thread, float* heads, int64_t n, const std::vector<float>& weight) {
  float* own = scratch(thread);
  std::fill(own + n, own + round_up(n, kLanes), 0.0f);
  memcpy(own, heads, n * sizeof(float));
  kernels_.rms_norm(own, weight.data(), n, config_.norm_eps, own);
  memcpy(heads, own, n * sizeof(float));
}

// Norm and turn a token's queries and keys; its keys and values enter the cache.
void Model::place_heads(int thread, int64_t token, const Layer& layer, const slipway_step& step) {
  const int s = sequence_of_[token], dim = config_.head_dim;
  const int64_t position = step.positions[s] + token - step.starts[s];
  const float* turns = turns_.get() + (2 * token + (layer.window ? 1 : 0)) * config_.turned;
  const int64_t block = table(layer, s, step)[position / kBlock];
  const int slot = (int)(position % kBlock);
  const bool each = !config_.wide_norms && !layer.query_norm.empty();
  if (config_.wide_norms && !layer.query_norm.empty()) {
    const int64_t query = (int64_t)config_.heads * dim, kv = (int64_t)config_.kv_heads * dim;
    norm_all_heads(thread, heads_.row(token), query, layer.query_norm);
    norm_all_heads(thread, heads_.row(token) + query, kv, layer.key_norm);
  }
  alignas(64) float head[kMaxHeadDim] = {};
  for (int h = 0; h < config_.heads + 2 * config_.kv_heads; h++) {
    float* from = heads_.row(token) + h * dim;
    const bool query = h < config_.heads, key = !query && h < config_.heads + config_.kv_heads;
    const std::vector<float>& weight = query ? layer.query_norm : layer.key_norm;
    memcpy(head, from, dim * sizeof(float));
    if ((query || key) && each) kernels_.rms_norm(head, weight.data(), dim, config_.norm_eps, head);
    if (query || key) kernels_.turn(head, turns, config_.turned / 2);
    if (query) {
      memcpy(from, head, dim * sizeof(float));
      continue;
    }
    const int64_t shared = (h - config_.heads) % config_.kv_heads;
    uint8_t* to = (key ? step.keys : step.values) + layer.place * step.layer_bytes + block * step.block_bytes;
    kernels_.place(head, (Kv)config_.kv, key, slot, padded_dim_, to + shared * step.head_bytes);
  }
}

void Model::attention(int thread, const Layer& layer, const slipway_step& step) {
  pool_.share(thread, tasks_.size(), [&](int64_t i) {
    Attend a = attend_of(tasks_[i], layer, step), next;
    if (i + 1 < (int64_t)tasks_.size()) {
      next = attend_of(tasks_[i + 1], layer, step);
      a.next = &next;
    }
    kernels_.attend(a, scratch(thread));
  });
  if (merges_.empty()) return;
  const int group = config_.heads / config_.kv_heads;
  pool_.share(thread, (int64_t)merges_.size() * group, [&](int64_t i) {
    const Attend a = attend_of(merges_[i / group], layer, step);
    kernels_.merge(a, i % group, a.out + i % group * config_.head_dim);
  });
}

Attend Model::attend_of(const Task& task, const Layer& layer, const slipway_step& step) const {
  const int group = config_.heads / config_.kv_heads;
  const int64_t at = (int64_t)task.head * group * config_.head_dim;
  const int64_t place = layer.place * step.layer_bytes + task.head * step.head_bytes;
  return {heads_.row(task.token) + at, mixed_.row(task.token) + at, heads_.stride, mixed_.stride, task.tokens, group,
          config_.head_dim, (int)padded_dim_, step.positions[task.sequence] + task.token - step.starts[task.sequence],
          step.keys + place, step.values + place, step.block_bytes,
          table(layer, task.sequence, step), (Kv)config_.kv,
          config_.input_bytes == 1 ? 1 : 2, config_.attention_scale,
          config_.attention_softcap, layer.window, task.split, task.split_end,
          task.partial < 0 ? nullptr : partials_.get() + task.partial, group * (padded_dim_ + kLanes), nullptr};
}

// After the last layer's attention only the rows that bring logits go on.
void Model::keep_outputs(const slipway_step& step) {
  for (int i = 0; i < step.outputs; i++) {
    const int64_t row = step.output_rows[i];
    if (row == i) continue;
    memcpy(hidden_.row(i), hidden_.row(row), hidden_.stride * sizeof(float));
    memcpy(mixed_.row(i), mixed_.row(row), mixed_.stride * sizeof(float));
  }
}

QuantisedRows Model::quantised_row(int64_t row, int64_t k) const {
  const int64_t groups = k / kGroup, planes = config_.input_bytes;
  return {bytes_.get() + row * planes * k, isums_.get() + row * planes * groups, scales_.get() + row * groups,
          sums_.get() + row * groups, groups, (int)planes};
}

void Model::norm(int thread, int64_t rows, const std::vector<float>& weight, const Matrix& reader) {
  pool_.share(thread, rows, [&](int64_t row) {
    if (weight.empty()) memcpy(normed_.row(row), hidden_.row(row), hidden_.stride * sizeof(float));
    else kernels_.rms_norm(hidden_.row(row), weight.data(), config_.hidden, config_.norm_eps, normed_.row(row));
    if (takes_integers(reader)) kernels_.quantise(normed_.row(row), reader.k, quantised_row(row, reader.k));
  });
}

// A linear over rows that may have to be quantised first.
void Model::linear_of(int thread, const Matrix& w, const Rows& x, int64_t rows, const Epilogue& e) {
  if (takes_integers(w))
    pool_.share(thread, rows, [&](int64_t row) { kernels_.quantise(x.row(row), w.k, quantised_row(row, w.k)); });
  linear(thread, w, x, rows, e);
}

void Model::linear(int thread, const Matrix& w, const Rows& x, int64_t rows, const Epilogue& e) {
  int64_t blocks = (rows + kRowBlock - 1) / kRowBlock;
  if (w.panels * blocks < 4 * pool_.size()) blocks = std::max(blocks, std::min(rows / 16, 4 * pool_.size() / w.panels));
  const int64_t step = panels_of_task(rows, w.panels, pool_.size()), strips = (w.panels + step - 1) / step;
  pool_.share(thread, strips * blocks, [&](int64_t i) {
    const int64_t block = i / strips, panel = i % strips * step, panel_end = std::min(panel + step, w.panels);
    const int64_t row = rows * block / blocks, count = rows * (block + 1) / blocks - row;
    Epilogue here = e;
    here.y += row * e.ldy;
    if (takes_integers(w)) kernels_.linear_int(w, quantised_row(row, w.k), (int)count, panel, panel_end, here, scratch(thread));
    else kernels_.linear_f32(w, x.row(row), x.stride, (int)count, panel, panel_end, here, scratch(thread));
  });
}

}  // namespace slipway
