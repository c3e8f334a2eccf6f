#include "pool.h"

#include <chrono>

namespace slipway {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr uint32_t kOpen = 1u << 31;

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Pool::wait_for_change(std::atomic<uint32_t>& word, uint32_t old) {
  if (word.load(std::memory_order_acquire) != old) return;
  const auto until = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; i++) {
      if (word.load(std::memory_order_acquire) != old) return;
      relax();
    }
  } while (std::chrono::steady_clock::now() < until);
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

Pool::Pool(int threads) : size_(threads), counters_(threads), phases_(threads) {
  for (int thread = 1; thread < threads; thread++) threads_.emplace_back([this, thread] { work(thread); });
}

Pool::~Pool() {
  stop_.store(true);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Pool::start(void (*body)(void*, int), void* argument) {
  body_ = body;
  argument_ = argument;
  first_phase_ = phases_[0].value;
  gate_.store(kOpen, std::memory_order_release);
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  body(argument, 0);
  uint32_t inside = gate_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  for (; inside; inside = gate_.load(std::memory_order_acquire)) wait_for_change(gate_, inside);
}

// Entering the same job twice does no harm: the loops that are over are skipped.
void Pool::work(int thread) {
  for (uint32_t seen = 0;;) {
    wait_for_change(job_, seen);
    seen = job_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    uint32_t gate = gate_.load(std::memory_order_acquire);
    while ((gate & kOpen) && !gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) {}
    if (!(gate & kOpen)) continue;
    phases_[thread].value = first_phase_;
    body_(argument_, thread);
    if (gate_.fetch_sub(1, std::memory_order_acq_rel) - 1 < kOpen) gate_.notify_all();
  }
}

// The thread that did the last task opens the next loop.
void Pool::finish(uint32_t phase) {
  done_.store(0, std::memory_order_relaxed);
  for (Counter& counter : counters_) counter.value.store((uint64_t)(phase + 1) << 32, std::memory_order_release);
  phase_.store(phase + 1, std::memory_order_release);
  phase_.notify_all();
}

}  // namespace slipway
