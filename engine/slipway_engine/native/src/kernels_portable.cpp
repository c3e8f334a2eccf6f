#define SLIPWAY_TILE_ROWS 4
#define SLIPWAY_INT_TILE_ROWS 2
#include "simd_portable.h"
#include "kernel_bodies.h"

const slipway::Kernels* slipway::portable_kernels() {
  static const Kernels table = {"portable", linear_f32, linear_int, quantise, rms_norm, add_rows, largest, weigh, reach, soft_cap, attend, merge, turn, place, unpack_row,
                                spin_floats, spin_integers, read};
  return &table;
}
