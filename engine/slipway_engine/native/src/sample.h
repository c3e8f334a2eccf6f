// Draws a row's next token: temperature, min-p, top-k and top-p, then the largest of logit + Gumbel noise.
#pragma once
#include "kernels.h"
#include "slipway.h"

namespace slipway {

// `logits` [vocab] of one row, of which draw.likeliest is the largest, a finite number.
int64_t draw_token(const Kernels& kernels, const float* logits, int64_t vocab, const slipway_draw& draw);

}  // namespace slipway
