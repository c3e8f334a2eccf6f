// Weights in the layout of kernels.h.
#pragma once
#include "kernels.h"
#include "pool.h"
#include "slipway.h"

namespace slipway {

int64_t row_bytes(Format format, int64_t k);

// Fill `out`, whose format, n, k, panels and data are set.
void pack(Pool& pool, const slipway_source* sources, int count, bool gated, Matrix& out);

}  // namespace slipway
