// Weights in the layout of kernels.h.
#pragma once
#include "kernels.h"
#include "pool.h"
#include "slipway.h"

namespace slipway {

// Memory for weights: whole huge pages where the system has them. Zero at first.
uint8_t* map_pages(int64_t bytes);
void unmap_pages(uint8_t* data, int64_t bytes);

int64_t row_bytes(Format format, int64_t k);

// Fill `out`, whose format, n, k, panels and data are set.
void pack(Pool& pool, const slipway_source* sources, int count, bool gated, Matrix& out);

}  // namespace slipway
