#include "sample.h"

#include <math.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <vector>

namespace slipway {
namespace {

constexpr float kMostNoise = 16.64f;  // above the noise of the largest uniform number, 1 - 2^-24
constexpr int kSteps = 4, kThresholds = (int)(kMostNoise * kSteps) + 2;
constexpr int kBins = 1024, kBinShift = 19;  // 16 bins for each halving of a probability, 64 halvings
constexpr uint32_t kOne = 0x3F800000;

// The keys of a (stream, position), and the 23 bits of a (row, token): the same as core/randomness.py's.
struct Keys {
  uint32_t first, second;
};
Keys keys_of(uint64_t stream, int64_t position) {
  uint64_t mixed = stream + ((uint64_t)position + 1) * 0x9E3779B97F4A7C15u;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
  mixed ^= mixed >> 31;
  return {(uint32_t)mixed, (uint32_t)(mixed >> 32)};
}

uint32_t noise_bits(Keys keys, uint32_t token) {
  uint32_t bits = token * 0x9E3779B1u + keys.first;
  bits ^= bits >> 16;
  bits = (bits * 0x85EBCA6Bu) ^ keys.second;
  bits ^= bits >> 13;
  bits *= 0xC2B2AE35u;
  bits ^= bits >> 16;
  return bits >> 9;
}

float gumbel(uint32_t bits) { return -logf(-logf(((float)bits + 0.5f) * 0x1p-23f)); }

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

// The tokens of a row that a cut may keep (the likeliest weighs 1), sorted into bins only as far as it needs it.
class Candidates {
 public:
  Candidates(const float* weights, const int32_t* places, int64_t count)
      : weights_(weights), places_(places), count_(count) {
    for (int64_t i = 0; i < count; i++) {
      const int bin = bin_of(weights[places[i]]);
      counts_[bin]++;
      masses_[bin] += weights[places[i]];
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
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < count_; i++)
      if (bin_of(weights_[places_[i]]) == bin) tokens.push_back(places_[i]);
    std::stable_sort(tokens.begin(), tokens.end(), [&](int32_t a, int32_t b) { return weights_[a] > weights_[b]; });
    Boundary found;
    for (int32_t token : tokens) {
      found = {weights_[token], token};
      weight += weights_[token];
      if (++seen >= count || weight >= mass) break;
    }
    *sum = weight;
    return found;
  }

 private:
  const float* weights_;
  const int32_t* places_;
  const int64_t count_;
  int64_t counts_[kBins] = {};
  double masses_[kBins] = {};
};

// The largest of logit + noise. Noise is bounded and rarely large: a token whose 23 bits are below the threshold for
// its distance from the best so far cannot win, and costs no logarithm.
class Race {
 public:
  Race(const float* logits, const slipway_draw& d) : logits_(logits), d_(d), keys_(keys_of(d.stream, d.position)) {
    winner_ = d.likeliest;
    best_ = logits[winner_] / d.temperature + gumbel(noise_bits(keys_, (uint32_t)winner_));
  }

  void enter(int64_t token) {
    const float scaled = logits_[token] / d_.temperature, ahead = best_ - scaled;
    if (!(ahead < kMostNoise)) return;
    const uint32_t bits = noise_bits(keys_, (uint32_t)token);
    if (ahead > 0 && bits < thresholds().least[(int)(ahead * kSteps)]) return;
    const float sum = scaled + gumbel(bits);
    if (!(sum > best_)) return;
    best_ = sum;
    winner_ = token;
  }

  int64_t winner() const { return winner_; }

  // No logit below it can win any more. Rounding is on the safe side.
  float least() const {
    const double least = ((double)best_ - kMostNoise) * d_.temperature;
    return (float)(least - fabs(least) * 1e-6);
  }

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
  const Keys keys_;
  int64_t winner_;
  float best_;
};

}  // namespace

int64_t draw_token(const Kernels& kernels, const float* logits, int64_t vocab, const slipway_draw& d) {
  static thread_local std::vector<int32_t> places;  // kept, as `weights`, so that its pages are touched once
  static thread_local std::vector<float> weights, peaks;
  places.resize(vocab);
  Race race(logits, d);
  const bool counted = d.top_k > 0 && d.top_k < vocab, cut = d.top_p < 1;
  if (!counted && !cut && d.min_p <= 0) {
    const int64_t count = kernels.reach(logits, vocab, race.least(), places.data());
    for (int64_t i = 0; i < count; i++) race.enter(places[i]);
    return race.winner();
  }
  weights.resize(vocab);
  peaks.resize((vocab + kPeak - 1) / kPeak);
  double sum = kernels.weigh(logits, vocab, d.temperature, logits[d.likeliest], weights.data(), peaks.data());
  // Whoever is below the floor cannot be kept: it is below min-p, below so many peaks as are kept, or all that are
  // below it weigh less than what a nucleus leaves out.
  float floor = d.min_p;
  if (counted && d.top_k <= (int64_t)peaks.size()) {
    std::nth_element(peaks.begin(), peaks.begin() + d.top_k - 1, peaks.end(), std::greater<float>());
    floor = std::max(floor, peaks[d.top_k - 1]);
  } else if (!counted && floor <= 0) {
    floor = (float)((1.0 - d.top_p) * sum / vocab * 0.99);
  }
  const int64_t count = kernels.reach(weights.data(), vocab, floor, places.data());
  const Candidates candidates(weights.data(), places.data(), count);
  if (counted || d.min_p > 0) sum = candidates.total();
  Boundary boundary;
  if (counted) boundary = candidates.cut(d.top_k, HUGE_VAL, &sum);
  if (cut) boundary = candidates.cut(counted ? d.top_k : vocab, sum * d.top_p, &sum);
  for (int64_t i = 0; i < count; i++)
    if (boundary.keeps(weights[places[i]], places[i])) race.enter(places[i]);
  return race.winner();
}

}  // namespace slipway
