// A mixture of experts in place of the MLP: a few answer each row. Rows are gathered by expert, so that each expert's
// weights are read once a step; a row's answers are added in the order of its own choice, whatever the batch.
#include <math.h>
#include <string.h>

#include <algorithm>

#include "model.h"

namespace slipway {

void Model::run_experts(int thread, const Layer& layer, int64_t rows) {
  const int64_t answers = rows * config_.experts_per_token;
  const Matrix &gate_up = *layer.expert_gate_up[0], &down = *layer.expert_down[0];
  linear(thread, *layer.router, normed_, rows, {routes_.row(0), routes_.stride, nullptr, Finish::kStore, 1.0f, config_.experts});
  pool_.share(thread, rows, [&](int64_t row) { choose_experts(row); });
  pool_.share(thread, 1, [&](int64_t) { group_by_expert(rows); });
  pool_.share(thread, answers, [&](int64_t i) {
    float* row = gathered_.row(places_[i]);
    memcpy(row, normed_.row(i / config_.experts_per_token), gathered_.stride * sizeof(float));
    if (takes_integers(gate_up)) kernels_.quantise(row, gate_up.k, quantised_row(places_[i], gate_up.k));
  });
  linear_of_experts(thread, layer.expert_gate_up, gathered_, inner_, config_.gelu ? Finish::kGeGLU : Finish::kSwiGLU);
  if (takes_integers(down))
    pool_.share(thread, answers, [&](int64_t i) { kernels_.quantise(inner_.row(i), down.k, quantised_row(i, down.k)); });
  linear_of_experts(thread, layer.expert_down, inner_, answers_, Finish::kStore);
  pool_.share(thread, rows, [&](int64_t row) { add_answers(thread, layer, row); });
}

// The row's best experts, best first, and their shares: a softmax over all.
void Model::choose_experts(int64_t row) {
  const int count = config_.experts, chosen = config_.experts_per_token;
  float* routes = routes_.row(row);
  const float largest = *std::max_element(routes, routes + count);
  float sum = 0, taken = 0;
  for (int e = 0; e < count; e++) sum += routes[e] = expf(routes[e] - largest);
  for (int slot = 0; slot < chosen; slot++) {
    int32_t* mine = chosen_.data() + row * chosen;
    int best = -1;
    for (int e = 0; e < count; e++)
      if (std::find(mine, mine + slot, e) == mine + slot && (best < 0 || routes[e] > routes[best])) best = e;
    mine[slot] = best;
    taken += shares_[row * chosen + slot] = routes[best] / sum;
  }
  if (!config_.experts_normalised) return;
  for (int slot = 0; slot < chosen; slot++) shares_[row * chosen + slot] /= taken;
}

void Model::group_by_expert(int64_t rows) {
  const int64_t answers = rows * config_.experts_per_token;
  std::vector<int64_t> next(config_.experts + 1);
  for (int64_t i = 0; i < answers; i++) next[chosen_[i] + 1]++;
  spans_.clear();
  for (int e = 0; e < config_.experts; e++) {
    const int64_t count = next[e + 1], parts = (count + kRowBlock - 1) / kRowBlock;
    next[e + 1] += next[e];
    for (int64_t part = 0; part < parts; part++) {
      const int64_t first = count * part / parts;
      spans_.push_back({e, next[e] + first, count * (part + 1) / parts - first});
    }
  }
  for (int64_t i = 0; i < answers; i++) places_[i] = (int32_t)next[chosen_[i]]++;
}

// All experts have matrices of one shape.
void Model::linear_of_experts(int thread, const std::vector<const Matrix*>& experts, const Rows& x, const Rows& y,
                              Finish finish) {
  constexpr int64_t kStep = kDirectPanelsMax;
  const int64_t panels = experts[0]->panels, strips = (panels + kStep - 1) / kStep;
  pool_.share(thread, (int64_t)spans_.size() * strips, [&](int64_t i) {
    const Span& span = spans_[i / strips];
    const Matrix& w = *experts[span.expert];
    const int64_t panel = i % strips * kStep, panel_end = std::min(panel + kStep, panels);
    const Epilogue e = {y.row(span.first), y.stride, nullptr, finish, 1.0f};
    if (takes_integers(w))
      kernels_.linear_int(w, quantised_row(span.first, w.k), (int)span.count, panel, panel_end, e, scratch(thread));
    else
      kernels_.linear_f32(w, x.row(span.first), x.stride, (int)span.count, panel, panel_end, e, scratch(thread));
  });
}

void Model::add_answers(int thread, const Layer& layer, int64_t row) {
  const int chosen = config_.experts_per_token;
  float* sum = scratch(thread);
  std::fill(sum, sum + gathered_.stride, 0.0f);
  for (int slot = 0; slot < chosen; slot++)
    kernels_.add_rows(answers_.row(places_[row * chosen + slot]), shares_[row * chosen + slot], config_.hidden, sum);
  if (!layer.mlp_post_norm.empty())
    kernels_.rms_norm(sum, layer.mlp_post_norm.data(), config_.hidden, config_.norm_eps, sum);
  kernels_.add_rows(sum, config_.residual_scale, config_.hidden, hidden_.row(row));
}

}  // namespace slipway
