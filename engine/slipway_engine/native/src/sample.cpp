#include "sample.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <vector>

namespace slipway {
namespace {

constexpr float kMostNoise = 16.64f;  // above the noise of the largest uniform number, 1 - 2^-24
constexpr int kSteps = 4, kThresholds = (int)(kMostNoise * kSteps) + 2;
constexpr int kBins = 1024, kBinShift = 19;  // 16 bins for each halving of a probability, 64 halvings
constexpr uint32_t kOne = 0x3F800000;

// The 23 bits of a (row, token): the same as core/randomness.py's.
uint32_t noise_bits(uint32_t key0, uint32_t key1, uint32_t token) {
  uint32_t bits = token * 0x9E3779B1u + key0;
  bits ^= bits >> 16;
  bits = (bits * 0x85EBCA6Bu) ^ key1;
  bits ^= bits >> 13;
  bits *= 0xC2B2AE35u;
  bits ^= bits >> 16;
  return bits >> 9;
}

float gumbel(uint32_t bits) { return -logf(-logf(((float)bits + 0.5f) * 0x1p-23f)); }

// e^x for x <= 0, to about two units in the last place, by operations that compilers turn into vectors; 0 below -87.
float exponential(float x) {
  const float n = (float)(int32_t)(x * 1.44269504f - 0.5f);
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const uint32_t power = (uint32_t)((int32_t)n + 127) << 23;
  float two;
  memcpy(&two, &power, sizeof two);
  return x > -87.0f ? p * two : 0.0f;
}

// What is left of a row: tokens that are likelier than `weight`, and those as likely up to number `last`.
struct Boundary {
  float weight = 0.0f;
  int64_t last = -1;
  bool keeps(float w, int64_t token) const { return w > weight || (w == weight && token <= last && w > 0.0f); }
};

int bin_of(float weight) {
  uint32_t bits;
  memcpy(&bits, &weight, sizeof bits);
  return (int)std::min<uint32_t>((kOne - std::min(bits, kOne)) >> kBinShift, kBins - 1);
}

// Weights of a row (the likeliest has 1), sorted into bins only as far as a cut needs it.
class Weights {
 public:
  Weights(std::vector<float>& weights, const float* logits, int64_t vocab, const slipway_draw& d) : weights_(weights) {
    weights_.resize(vocab);
    const float most = logits[d.likeliest] / d.temperature, floor = d.min_p;
    float* out = weights_.data();
    for (int64_t i = 0; i < vocab; i++) out[i] = exponential(std::max(logits[i] / d.temperature - most, -100.0f));
    if (floor > 0)
      for (int64_t i = 0; i < vocab; i++) out[i] = out[i] < floor ? 0.0f : out[i];
    for (int64_t i = 0; i < vocab; i++) {
      const int bin = bin_of(out[i]);
      counts_[bin]++;
      masses_[bin] += out[i];
    }
  }

  double total() const {
    double sum = 0;
    for (double mass : masses_) sum += mass;
    return sum;
  }

  // The boundary after the `count` likeliest tokens, or after the first whose running sum reaches `mass`; `sum` is
  // what they weigh together.
  Boundary cut(int64_t count, double mass, double* sum) const {
    int64_t seen = 0;
    double weight = 0;
    int bin = 0;
    for (; bin < kBins - 1 && seen + counts_[bin] < count && weight + masses_[bin] < mass; bin++) {
      seen += counts_[bin];
      weight += masses_[bin];
    }
    std::vector<int64_t> tokens;
    for (int64_t i = 0; i < (int64_t)weights_.size(); i++)
      if (bin_of(weights_[i]) == bin) tokens.push_back(i);
    std::stable_sort(tokens.begin(), tokens.end(), [&](int64_t a, int64_t b) { return weights_[a] > weights_[b]; });
    Boundary found;
    for (int64_t token : tokens) {
      found = {weights_[token], token};
      weight += weights_[token];
      if (++seen >= count || weight >= mass) break;
    }
    *sum = weight;
    return found;
  }

 private:
  std::vector<float>& weights_;
  int64_t counts_[kBins] = {};
  double masses_[kBins] = {};
};

// The largest of logit + noise. Noise is bounded and rarely large: a token whose 23 bits are below the threshold for
// its distance from the best so far cannot win, and costs no logarithm.
class Race {
 public:
  Race(const float* logits, const slipway_draw& d) : logits_(logits), d_(d) {
    winner_ = d.likeliest;
    best_ = logits[winner_] / d.temperature + gumbel(noise_bits(d.key0, d.key1, (uint32_t)winner_));
  }

  void enter(int64_t token) {
    const float scaled = logits_[token] / d_.temperature, ahead = best_ - scaled;
    if (!(ahead < kMostNoise)) return;
    const uint32_t bits = noise_bits(d_.key0, d_.key1, (uint32_t)token);
    if (ahead > 0 && bits < thresholds().least[(int)(ahead * kSteps)]) return;
    const float sum = scaled + gumbel(bits);
    if (!(sum > best_)) return;
    best_ = sum;
    winner_ = token;
  }

  int64_t winner() const { return winner_; }

 private:
  // The bits that a token needs at least to make up for being so many steps behind.
  struct Thresholds {
    uint32_t least[kThresholds];
    Thresholds() {
      for (int step = 0; step < kThresholds; step++) {
        const double bits = exp(-exp(-(double)step / kSteps)) * 0x1p23 - 4;
        least[step] = bits > 0 ? (uint32_t)bits : 0;
      }
    }
  };
  static const Thresholds& thresholds() {
    static const Thresholds made;
    return made;
  }

  const float* logits_;
  const slipway_draw& d_;
  int64_t winner_;
  float best_;
};

}  // namespace

int64_t draw_token(const float* logits, int64_t vocab, const slipway_draw& d) {
  Race race(logits, d);
  const bool counted = d.top_k > 0 && d.top_k < vocab, whole = !counted && d.top_p >= 1 && d.min_p <= 0;
  if (whole) {
    for (int64_t i = 0; i < vocab; i++) race.enter(i);
    return race.winner();
  }
  static thread_local std::vector<float> memory;  // kept, so that its pages are touched once
  const Weights weights(memory, logits, vocab, d);
  Boundary boundary;
  double sum = weights.total();
  if (counted) boundary = weights.cut(d.top_k, HUGE_VAL, &sum);
  if (d.top_p < 1) boundary = weights.cut(counted ? d.top_k : vocab, sum * d.top_p, &sum);
  for (int64_t i = 0; i < vocab; i++)
    if (boundary.keeps(memory[i], i)) race.enter(i);
  return race.winner();
}

}  // namespace slipway
