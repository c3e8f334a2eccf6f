// A persistent team of threads that runs one function together and shares out its loops.
//
// The caller is the team's first thread. Between phases threads wait for one another: they spin for at most 50 us,
// then block. Each thread starts with its own contiguous share of a loop and helps the others when it is done, so a
// thread that lost its processor for a while delays nobody for long.
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

  // Run `body(thread)` on every thread; return when all have. Only one caller at a time.
  template <class Body>
  void run(Body& body) {
    start([](void* b, int thread) { (*static_cast<Body*>(b))(thread); }, &body);
  }

  // Within `run`: call `task(i)` for each i below `count`, on whichever thread is free, and wait for the others.
  // Every thread must come to the same loops in the same order.
  template <class Task>
  void share(int thread, int64_t count, Task task) {
    Loop& loop = loops_[phase_of(thread) & 1];
    for (int turn = 0; turn < size_; turn++) {
      int whose = thread + turn < size_ ? thread + turn : thread + turn - size_;
      const int64_t end = count * (whose + 1) / size_, first = count * whose / size_;
      std::atomic<int64_t>& next = loop.next[whose].value;
      if (first + next.load(std::memory_order_relaxed) >= end) continue;
      for (int64_t i; (i = first + next.fetch_add(1, std::memory_order_relaxed)) < end;) task(i);
    }
    wait(thread);
  }

 private:
  struct alignas(64) Counter { std::atomic<int64_t> value{0}; };
  struct Loop { std::vector<Counter> next; };
  struct alignas(64) Phase { uint32_t number = 0; };

  uint32_t phase_of(int thread) const { return phases_[thread].number; }
  void start(void (*body)(void*, int), void* argument);
  void work(int thread);
  void wait(int thread);

  const int size_;
  Loop loops_[2];
  std::vector<Phase> phases_;
  alignas(64) std::atomic<uint32_t> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<uint32_t> job_{0};
  void (*body_)(void*, int) = nullptr;
  void* argument_ = nullptr;
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

}  // namespace slipway
