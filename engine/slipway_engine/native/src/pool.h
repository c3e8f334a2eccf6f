// A persistent team of threads that runs one function together and shares out its loops.
//
// The caller is the team's first thread. A loop is over when its tasks are done, not when all threads have come by:
// a thread that lost its processor while it waited holds nobody up, it skips what the others did without it. One
// that lost it between two jobs is not waited for at all. Each thread starts with its own contiguous share of a loop
// and helps the others when it is done. Waiting threads spin for at most 50 us, then block.
#pragma once
#include <atomic>
#include <thread>
#include <vector>

namespace slipway {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }

  // Run `body(thread)` on the caller and on every thread that is there; return when none is in it any more. Only one
  // caller at a time.
  template <class Body>
  void run(Body& body) {
    start([](void* b, int thread) { (*static_cast<Body*>(b))(thread); }, &body);
  }

  // Within `run`: have `task(i)` called for each i below `count`, on whichever thread is free, and return when all
  // are done. Every thread must come to the same loops in the same order, and between them write nothing shared.
  template <class Task>
  void share(int thread, int64_t count, Task task) {
    if (!count) return;
    const uint32_t phase = phases_[thread].value++;
    for (int turn = 0; turn < size_; turn++) {
      const int whose = thread + turn < size_ ? thread + turn : thread + turn - size_;
      const int64_t first = count * whose / size_, length = count * (whose + 1) / size_ - first;
      for (int64_t i; (i = claim(whose, phase, length)) >= 0;) {
        task(first + i);
        if (done_.fetch_add(1, std::memory_order_acq_rel) + 1 == count) finish(phase);
      }
    }
    wait_for_change(phase_, phase);
  }

 private:
  struct alignas(64) Counter { std::atomic<uint64_t> value{0}; };  // the phase, and how much of a share is taken
  struct alignas(64) Phase { uint32_t value = 0; };

  // Return the next task of a share, or -1 where none is left or the phase is over.
  int64_t claim(int whose, uint32_t phase, int64_t length) {
    std::atomic<uint64_t>& counter = counters_[whose].value;
    uint64_t seen = counter.load(std::memory_order_acquire);
    while ((uint32_t)(seen >> 32) == phase && (int64_t)(uint32_t)seen < length)
      if (counter.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire))
        return (uint32_t)seen;
    return -1;
  }

  static void wait_for_change(std::atomic<uint32_t>& word, uint32_t old);
  void start(void (*body)(void*, int), void* argument);
  void work(int thread);
  void finish(uint32_t phase);

  const int size_;
  std::vector<Counter> counters_;
  std::vector<Phase> phases_;  // the loop that each thread comes to next
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<uint32_t> job_{0};
  alignas(64) std::atomic<uint32_t> gate_{0};  // whether the job may be entered, and how many workers are in it
  void (*body_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  uint32_t first_phase_ = 0;
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace slipway
