#include "pool.h"

#include <chrono>

namespace slipway {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void wait_for_change(std::atomic<uint32_t>& word, uint32_t old) {
  const auto until = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; i++) {
      if (word.load(std::memory_order_acquire) != old) return;
      relax();
    }
  } while (std::chrono::steady_clock::now() < until);
  while (word.load(std::memory_order_acquire) == old) word.wait(old, std::memory_order_acquire);
}

}  // namespace

Pool::Pool(int threads) : size_(threads), phases_(threads) {
  for (Loop& loop : loops_) loop.next = std::vector<Counter>(threads);
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
  job_.fetch_add(1, std::memory_order_release);
  job_.notify_all();
  body(argument, 0);
  wait(0);
}

void Pool::work(int thread) {
  for (uint32_t seen = 0;;) {
    wait_for_change(job_, seen);
    seen++;
    if (stop_.load()) return;
    body_(argument_, thread);
    wait(thread);
  }
}

// The last to arrive prepares the loop after the next one (nobody is in it) and lets all go.
void Pool::wait(int thread) {
  const uint32_t phase = phases_[thread].number++;
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 < (uint32_t)size_) {
    wait_for_change(phase_, phase);
    return;
  }
  arrived_.store(0, std::memory_order_relaxed);
  for (Counter& counter : loops_[phase & 1].next) counter.value.store(0, std::memory_order_relaxed);
  phase_.store(phase + 1, std::memory_order_release);
  phase_.notify_all();
}

}  // namespace slipway
