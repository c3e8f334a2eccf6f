// Runs many jobs of dependent loops on teams of several sizes, most of them larger than the machine, and checks that
// each task ran once and after the loop before it. Built with the thread sanitizer by test_pool.py.
#include <cstdio>
#include <vector>

#include "pool.h"

namespace {

constexpr int kCells = 1000;

int64_t length(int job, int loop) { return (loop + job) % 5 ? 1 + (loop * 37 + job) % kCells : 0; }

int wrong_cells(slipway::Pool& pool, int job) {
  std::vector<int> now(kCells), next(kCells);
  const int loops = 1 + job % 7;
  auto body = [&](int thread) {
    for (int loop = 0; loop < loops; loop++) {
      pool.share(thread, length(job, loop), [&](int64_t i) { next[i] = now[i] + 1; });
      pool.share(thread, kCells, [&](int64_t i) {
        if (i < length(job, loop)) now[i] = next[i];
      });
    }
  };
  pool.run(body);
  int wrong = 0;
  for (int i = 0; i < kCells; i++) {
    int expected = 0;
    for (int loop = 0; loop < loops; loop++) expected += i < length(job, loop);
    wrong += now[i] != expected;
  }
  return wrong;
}

}  // namespace

int main() {
  int wrong = 0;
  for (int threads : {1, 2, 3, 8}) {
    slipway::Pool pool(threads);
    for (int job = 0; job < 300; job++) wrong += wrong_cells(pool, job);
  }
  std::printf("%d cells are wrong\n", wrong);
  return wrong != 0;
}
