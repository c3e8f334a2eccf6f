#include "memory.h"

#include <sys/mman.h>

#include <mutex>
#include <string>

namespace slipway {
namespace {

constexpr int64_t kHugePage = 2 << 20, kChunk = 64 << 20, kLine = 64;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Chunk {
  uint8_t* data;
  int64_t size, used = 0;

  explicit Chunk(int64_t bytes) : size(round_up(bytes, kHugePage)) {
    void* pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) throw std::string("There is no memory for the packed weights.");
    data = (uint8_t*)pages;
#ifdef MADV_HUGEPAGE
    madvise(data, size, MADV_HUGEPAGE);
#endif
  }
  ~Chunk() { munmap(data, size); }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;
};

std::mutex mutex;
std::weak_ptr<Chunk> current;  // where small pieces are taken from

}  // namespace

Piece take_memory(int64_t bytes) {
  bytes = round_up(bytes, kLine);
  const std::lock_guard<std::mutex> lock(mutex);
  std::shared_ptr<Chunk> chunk = current.lock();
  if (!chunk || chunk->size - chunk->used < bytes) {
    const bool large = bytes > kChunk / 4;
    chunk = std::make_shared<Chunk>(large ? bytes : kChunk);
    if (!large) current = chunk;
  }
  uint8_t* data = chunk->data + chunk->used;
  chunk->used += bytes;
  return {data, chunk};
}

}  // namespace slipway
