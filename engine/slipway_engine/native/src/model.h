// The decoder's step: from token ids to logits, all layers, on the pool.
#pragma once
#include <memory>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "slipway.h"

namespace slipway {

// Zeroed floats (or bytes) on their own cache lines; a buffer only grows.
template <class T>
class Buffer {
 public:
  T* reserve(int64_t count) {
    if (count > size_) {
      data_.reset(static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t(64))));
      for (int64_t i = 0; i < count; i++) data_[i] = T();
      size_ = count;
    }
    return data_.get();
  }
  T* get() const { return data_.get(); }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  struct Free { void operator()(T* p) const { ::operator delete(p, std::align_val_t(64)); } };
  std::unique_ptr<T[], Free> data_;
  int64_t size_ = 0;
};

// Rows that linears read and write: padded with zeros, and never a power of two apart.
struct Rows {
  int64_t stride = 0;
  Buffer<float> data;
  void shape(int64_t width) { stride = (width + kPanel - 1) / kPanel * kPanel + kLanes; }
  float* row(int64_t i) const { return data.get() + i * stride; }
};

// What a step's time goes to. Taken on the caller's thread between one loop and the next.
class Clock {
 public:
  static constexpr int kKinds = 8;
  enum Kind { kEmbed, kNorm, kQkv, kPlace, kAttention, kOut, kMlp, kHead };

  void start() {
    if (on_) last_ = now();
  }
  void mark(int thread, Kind kind) {
    if (!on_ || thread) return;
    const double at = now();
    seconds_[kind] += at - last_;
    last_ = at;
  }
  // The seconds of each kind since the last call; the first call begins to count.
  void read(double* seconds) {
    for (int i = 0; i < kKinds; i++) seconds[i] = seconds_[i], seconds_[i] = 0;
    on_ = true;
  }

 private:
  static double now();
  bool on_ = false;
  double last_ = 0, seconds_[kKinds] = {};
};

struct Layer {
  const Matrix *qkv, *out, *gate_up, *down;
  std::vector<float> qkv_bias, out_bias, gate_up_bias, down_bias;
  std::vector<float> attention_norm, mlp_norm, query_norm, key_norm, attention_post_norm, mlp_post_norm;
  const Matrix* router;
  std::vector<const Matrix*> expert_gate_up, expert_down;
  int64_t window;
  int group, place;
};

class Model {
 public:
  Model(Pool& pool, const Kernels& kernels, const slipway_config& config, const slipway_layer* layers,
        const float* final_norm, const float* inverse_frequencies, const float* local_frequencies,
        const Matrix& embedding, const Matrix& head);

  const char* check(const slipway_step& step) const;  // a sentence, or null where the step can run
  void run(const slipway_step& step);
  void times(double* seconds) { clock_.read(seconds); }

  static int64_t workspace_bytes(const slipway_config& config, int threads, int64_t tokens);
  static int64_t context_bytes(const slipway_config& config, int threads);

 private:
  struct Task {  // queries of one sequence and the heads of one key head
    int32_t sequence, token, tokens, head;
    int64_t split, split_end;
    int64_t partial;  // where the parts go, or -1: the task sees all splits and writes the answer
  };

  void prepare(const slipway_step& step);
  const char* check_tables(const slipway_step& step) const;
  void find_tables(const slipway_step& step);
  int64_t first_block(const slipway_step& step, int64_t row) const;
  const int32_t* table(const Layer& layer, int sequence, const slipway_step& step) const {
    return tables_[(int64_t)layer.group * step.sequences + sequence];
  }
  void plan_attention(const slipway_step& step);
  void step_on(int thread, const slipway_step& step);
  void embed(int64_t token, const slipway_step& step);
  void run_layer(int thread, const Layer& layer, int64_t index, const slipway_step& step);
  void place_heads(int thread, int64_t token, const Layer& layer, const slipway_step& step);
  void norm_all_heads(int thread, float* heads, int64_t n, const std::vector<float>& weight);
  void add_linear(int thread, const Matrix& w, const Rows& x, int64_t rows, const std::vector<float>& bias,
                  const std::vector<float>& post_norm);
  void run_experts(int thread, const Layer& layer, int64_t rows);
  void choose_experts(int64_t row);
  void group_by_expert(int64_t rows);
  void linear_of_experts(int thread, const std::vector<const Matrix*>& experts, const Rows& x, const Rows& y, Finish finish);
  void add_answers(int thread, const Layer& layer, int64_t row);
  void turns_of(float position, const std::vector<float>& frequencies, float scale, float* turns) const;
  void attention(int thread, const Layer& layer, const slipway_step& step);
  Attend attend_of(const Task& task, const Layer& layer, const slipway_step& step) const;
  int64_t cuts_of_rows(int64_t rows) const;
  void take_largest(const slipway_step& step) const;
  void keep_outputs(const slipway_step& step);
  void norm(int thread, int64_t rows, const std::vector<float>& weight, const Matrix& reader);
  void linear(int thread, const Matrix& w, const Rows& x, int64_t rows, const Epilogue& e);
  void linear_of(int thread, const Matrix& w, const Rows& x, int64_t rows, const Epilogue& e);
  bool takes_integers(const Matrix& w) const { return config_.input_bytes < 4 && is_quantised(w.format); }
  QuantisedRows quantised_row(int64_t row, int64_t k) const;
  float* scratch(int thread) const { return scratch_.get() + thread * scratch_floats_; }

  Pool& pool_;
  Clock clock_;
  const Kernels& kernels_;
  const slipway_config config_;
  const int64_t padded_dim_;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_, frequencies_, local_frequencies_;
  const Matrix &embedding_, &head_;

  struct Span {  // rows of the gathered ones that one expert answers
    int32_t expert;
    int64_t first, count;
  };

  Rows hidden_, normed_, heads_, mixed_, inner_;
  Rows routes_, gathered_, answers_;     // of experts
  std::vector<int32_t> chosen_, places_;  // [token, experts_per_token]: the expert, and its row of the gathered ones
  std::vector<float> shares_;
  std::vector<Span> spans_;
  Buffer<int8_t> bytes_;
  Buffer<float> scales_, sums_, turns_, partials_, scratch_;
  Buffer<int32_t> isums_;
  int64_t scratch_floats_;
  std::vector<Task> tasks_, merges_;
  std::vector<int64_t> reaches_;        // of each group: the widest window of its layers, 0 = all
  std::vector<const int32_t*> tables_;  // of each group and sequence: where its first block stands or would stand
  int block_places_ = 0;
  std::vector<int32_t> sequence_of_;
  std::vector<int64_t> largest_;  // of each cut of each row of logits
};

}  // namespace slipway
