// The kernels, written once over the sixteen floats of a simd_*.h. Each instruction set's translation unit includes
// this after its own; nothing here has external linkage, so that no unit can lend its code to another.
#pragma once
#include <string.h>

#include "kernels.h"

namespace {

using namespace slipway;

#define UNROLL _Pragma("GCC unroll 32")

// 2 to the x, within 1 ulp or so, for x <= 127; 0 for minus infinity.
F exp2_of(F x) {
  const F n = round(max(x, set1(-200.0f))), r = sub(max(x, set1(-200.0f)), n);
  F p = fma(set1(1.3264718536e-03f), r, set1(9.6715132809e-03f));
  p = fma(p, r, set1(5.5507337720e-02f));
  p = fma(p, r, set1(2.4022242071e-01f));
  p = fma(p, r, set1(6.9314697758e-01f));
  return scale_by(fma(p, r, set1(1.0f)), n);
}

// e to the x within 1 ulp or so; never infinite.
F exp_of(F x) {
  const F clamped = min(max(x, set1(-100.0f)), set1(88.0f));
  const F n = round(mul(clamped, set1(1.44269504088896341f)));
  F r = fma(n, set1(-0.693359375f), clamped);
  r = fma(n, set1(2.12194440e-4f), r);
  F p = set1(1.9875691500e-4f);
  p = fma(p, r, set1(1.3981999507e-3f));
  p = fma(p, r, set1(8.3334519073e-3f));
  p = fma(p, r, set1(4.1665795894e-2f));
  p = fma(p, r, set1(1.6666665459e-1f));
  p = fma(p, r, set1(5.0000001201e-1f));
  return scale_by(add(fma(mul(r, r), p, r), set1(1.0f)), n);
}

F tanh_of(F x) {  // 1 - 2 / (e^2x + 1)
  F e = exp_of(min(add(x, x), set1(80.0f)));
  return sub(set1(1.0f), div(set1(2.0f), add(e, set1(1.0f))));
}

F gate(F x, Finish finish) {
  if (finish == Finish::kSwiGLU) return div(x, add(set1(1.0f), exp_of(sub(zero(), x))));
  F inner = mul(set1(0.7978845608028654f), fma(mul(mul(x, x), x), set1(0.044715f), x));
  return mul(mul(set1(0.5f), x), add(set1(1.0f), tanh_of(inner)));
}

}  // namespace

#include "bodies_unpack.h"
#include "bodies_linear.h"
#include "bodies_linear_int.h"
#include "bodies_rows.h"
#include "bodies_sample.h"
#include "bodies_attend_blocks.h"
#include "bodies_attend_few.h"
#include "bodies_attend_bytes.h"
#include "bodies_attend.h"
#include "bodies_rates.h"
