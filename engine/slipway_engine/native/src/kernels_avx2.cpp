#define SLIPWAY_TILE_ROWS 6
#define SLIPWAY_INT_TILE_ROWS 3
#include "simd_avx2.h"
#include "kernel_bodies.h"

const slipway::Kernels* slipway::avx2_kernels() {
  static const Kernels table = {"avx2", linear_f32, linear_int, quantise, rms_norm, add_rows, largest, weigh, reach, soft_cap, attend, merge, turn, place, unpack_row,
                                spin_floats, spin_integers, read};
  return &table;
}
