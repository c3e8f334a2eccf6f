// Attention: a tile of queries against the splits of its keys, and the parts merged.
#pragma once

namespace {

// Bring a split's keys near, as [padded_dim][kSplit] and [keys][padded_dim]; what no query of the tile may see is
// zero, so that neither a freed block nor a stale slot is ever multiplied.
template <Kv KV>
void gather(const Attend& a, const Split& s, const Split& next, float* keys, float* values) {
  constexpr int kBytes = KV == kKvF16 ? 2 : 4;
  for (int block = 0; block < s.end; block++) {
    const int at = block * kBlock;
    const bool wanted = block >= s.first, more = block >= next.first && block < next.end;
    const uint8_t *k = wanted ? s.keys[block] : nullptr, *v = wanted ? s.values[block] : nullptr;
    for (int d = 0; d < a.padded_dim; d++) {
      store(keys + d * kSplit + at, wanted ? load_kv<KV>(k, d * kBlock) : zero());
      if (more) ask_for(next.keys[block] + d * kBlock * kBytes);
    }
    for (int t = 0; t < kBlock; t++) {
      const bool seen = wanted && at + t >= s.from && at + t < s.to;
      for (int d = 0; d < a.padded_dim; d += kLanes) {
        store(values + (at + t) * a.padded_dim + d, seen ? load_kv<KV>(v, t * a.padded_dim + d) : zero());
        if (more) ask_for(next.values[block] + (t * a.padded_dim + d) * kBytes);
      }
    }
  }
}

// A row's state: [0] the maximum, [1] the sum of weights, from [16] on the mix of values.
void empty(float* state) {
  state[0] = -__builtin_inff();
  state[1] = 0;
}

// Scores are binary logarithms, so that a weight is 2 to their power.
constexpr float kLog2E = 1.44269504088896341f;

// Turn scores into weights in place, maximum and sum into `state`; the row's keys are [low, high) of the split.
void soften(const Attend& a, float* scores, int low, int high, int width, float* state) {
  empty(state);
  const float cap = a.softcap * kLog2E;
  alignas(64) static const float kCount[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const F first = set1((float)low), end = set1((float)high), none = set1(-__builtin_inff());
  F most = none;
  for (int i = 0; i < width; i += kLanes) {
    F score = load(scores + i);
    if (a.softcap > 0) score = mul(tanh_of(mul(score, set1(1.0f / cap))), set1(cap));
    if (i < low || i + kLanes > high) {
      const F key = add(load(kCount), set1((float)i));
      score = where_less(key, end, where_less(key, first, none, score), none);
    }
    store(scores + i, score);
    most = max(most, score);
  }
  const float largest = max_of(most);
  F shift = set1(low < high ? largest : 0), sum = zero();
  for (int i = 0; i < width; i += kLanes) {
    F weight = exp2_of(sub(load(scores + i), shift));
    store(scores + i, weight);
    sum = add(sum, weight);
  }
  if (low >= high) return;
  state[0] = largest;
  state[1] = sum_of(sum);
}

void absorb(float* state, const float* other, int64_t dim) {
  if (other[1] == 0) return;
  if (state[1] == 0) {
    for (int64_t i = 0; i < dim + kLanes; i += kLanes) store(state + i, load(other + i));
    return;
  }
  float maximum = other[0] > state[0] ? other[0] : state[0];
  F keep = exp2_of(set1(state[0] - maximum)), take = exp2_of(set1(other[0] - maximum));
  alignas(64) float factors[32];
  store(factors, keep);
  store(factors + 16, take);
  state[0] = maximum;
  state[1] = state[1] * factors[0] + other[1] * factors[16];
  for (int64_t i = kLanes; i < dim + kLanes; i += kLanes)
    store(state + i, fma(load(other + i), take, mul(load(state + i), keep)));
}

void write_mix(const float* state, int head_dim, int64_t padded, float* out) {
  alignas(64) float mix[kMaxHeadDim];
  F total = set1(state[1] > 0 ? state[1] : 1.0f);
  for (int64_t i = 0; i < padded; i += kLanes) store(mix + i, div(load(state + kLanes + i), total));
  for (int i = 0; i < head_dim; i++) out[i] = mix[i];
}

void merge(const Attend& a, int row, float* out) {
  alignas(64) float state[kMaxHeadDim + kLanes];
  empty(state);
  int64_t stride = a.padded_dim + kLanes;
  for (int64_t split = 0; split < a.split_end; split++)
    absorb(state, a.partial + split * a.partial_stride + row * stride, a.padded_dim);
  write_mix(state, a.head_dim, a.padded_dim, out);
}

// One task's memory.
struct Desk {
  float *query, *scores, *states, *mixed, *keys, *values;
  int8_t* q;         // the queries as whole numbers
  uint8_t* weights;  // and the weights
  float scales[kMaxAttendRows], weight_scales[kMaxAttendRows];
  int32_t isums[2 * kMaxAttendRows];

  Desk(const Attend& a, float* scratch) {
    const int64_t stride = a.padded_dim + kLanes;
    query = scratch;
    scores = query + kMaxAttendRows * a.padded_dim;
    states = scores + kMaxAttendRows * kSplit;
    mixed = states + kMaxAttendRows * stride;
    keys = mixed + kMaxAttendRows * stride;
    values = keys + kSplit * a.padded_dim;
    weights = (uint8_t*)(values + kSplit * a.padded_dim);
    q = (int8_t*)query;
  }
};

void take_queries(const Attend& a, int rows, Desk& desk) {
  const int64_t dim = a.padded_dim;
  const float scale = a.scale * kLog2E;
  alignas(64) float head[kMaxHeadDim];
  for (int r = 0; r < rows; r++) {
    float* to = a.kv == kKvS8 ? head : desk.query + r * dim;
    const float* from = a.query + r / a.group * a.ld_query + r % a.group * a.head_dim;
    for (int i = 0; i < dim; i++) to[i] = i < a.head_dim ? from[i] * scale : 0.0f;
    if (a.kv == kKvS8)
      desk.scales[r] = quantise_head(head, dim, a.planes, desk.q + r * a.planes * dim, desk.isums + r * a.planes);
    empty(desk.states + r * (dim + kLanes));
  }
}

// Scores to weights, row by row.
void soften_rows(const Attend& a, const Split& s, int rows, Desk& desk, float* parts) {
  for (int r = 0; r < rows; r++) {
    const int64_t at = a.position + r / a.group - s.start;
    const int high = (int)(at + 1 < s.to ? at + 1 : s.to);
    const int low = (int)(a.window && at - a.window + 1 > 0 ? at - a.window + 1 : 0);
    soften(a, desk.scores + r * kSplit, low, high, s.end * kBlock, parts + r * (a.padded_dim + kLanes));
  }
}

template <Kv KV>
void attend_floats(const Attend& a, const Split& s, const Split& next, int rows, Desk& desk, float* parts) {
  const int64_t dim = a.padded_dim, stride = dim + kLanes;
  if (a.tokens == 1 && rows <= kDirectAttendRows) {
    const uint8_t* ahead[kSplitBlocks];
    pair_up(s, s.keys, s, s.values, ahead);
    score_few<KV>(s, ahead, dim, desk.query, rows, desk.scores);
    soften_rows(a, s, rows, desk, parts);
    pair_up(s, s.values, next, next.keys, ahead);
    mix_few<KV>(s, ahead, dim, desk.scores, rows, parts + kLanes, stride);
    return;
  }
  const int vectors = s.end * kBlock / kLanes;
  gather<KV>(a, s, next, desk.keys, desk.values);
  multiply(desk.query, dim, rows, desk.keys, kSplit, dim, desk.scores, kSplit, vectors, false);
  soften_rows(a, s, rows, desk, parts);
  multiply(desk.scores, kSplit, rows, desk.values, dim, s.end * kBlock, parts + kLanes, stride, dim / kLanes, false);
}

void attend_bytes(const Attend& a, const Split& s, const Split& next, int rows, Desk& desk, float* parts) {
  const int64_t dim = a.padded_dim;
  const uint8_t* ahead[kSplitBlocks];
  pair_up(s, s.keys, s, s.values, ahead);
  score(a, s, ahead, desk.q, desk.isums, desk.scales, rows, desk.scores);
  soften_rows(a, s, rows, desk, parts);
  for (int r = 0; r < rows; r++)
    desk.weight_scales[r] = weigh(s, dim, desk.scores + r * kSplit, desk.weights + r * 2 * kSplit);
  pair_up(s, s.values, next, next.keys, ahead);
  mix(s, ahead, dim, desk.weights, desk.weight_scales, rows, parts + kLanes, dim + kLanes);
}

// A tile of queries of one sequence, and the heads that share a key head. A split's weights are taken from its own
// maximum, so that a split's part of the answer is the same whether splits are computed in turn or side by side.
void attend(const Attend& a, float* scratch) {
  const int rows = a.tokens * a.group;
  const int64_t dim = a.padded_dim, stride = dim + kLanes;
  Desk desk(a, scratch);
  take_queries(a, rows, desk);
  Split s = locate(a, a.split);
  for (int64_t split = a.split; split < a.split_end; split++) {
    const Split next = after(a, split);
    float* parts = a.partial ? a.partial + split * a.partial_stride : desk.mixed;
    if (!s.end) {
      for (int r = 0; r < rows; r++) empty(parts + r * stride);
    } else {
      if (a.kv == kKvS8) attend_bytes(a, s, next, rows, desk, parts);
      else if (a.kv == kKvF16) attend_floats<kKvF16>(a, s, next, rows, desk, parts);
      else attend_floats<kKvF32>(a, s, next, rows, desk, parts);
      if (!a.partial)
        for (int r = 0; r < rows; r++) absorb(desk.states + r * stride, parts + r * stride, dim);
    }
    s = next;
  }
  if (a.partial) return;
  for (int r = 0; r < rows; r++)
    write_mix(desk.states + r * stride, a.head_dim, dim, a.out + r / a.group * a.ld_out + r % a.group * a.head_dim);
}

}  // namespace
