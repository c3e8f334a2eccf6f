// Memory for packed weights: pieces of large chunks, so that huge pages hold many small matrices and none of them pays
// for a page of its own.
#pragma once
#include <stdint.h>

#include <memory>

namespace slipway {

struct Piece {
  uint8_t* data = nullptr;
  std::shared_ptr<void> chunk;  // freed with its last piece
};

// Zeroed bytes on their own cache lines, never used before; throws a sentence where there are none.
Piece take_memory(int64_t bytes);

}  // namespace slipway
