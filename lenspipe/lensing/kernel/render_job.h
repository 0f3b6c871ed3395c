// What render.h is asked for. Plain C types only, as in kernel.h.
#pragma once
#include "kernel.h"

namespace lenspipe {

constexpr double kRenderTruncate = 4;  // psf.TRUNCATE
constexpr int kRenderReach = 256;      // pixels that a Gaussian may reach

// The Python side (kernel/render.py) holds the same struct: keep the order.
struct RenderJob {
  long objects;
  int itemsize;  // of `out`: 4 float32, 8 float64
  int height, width, supersampling, bands, layers;
  const double *x, *y;     // (W s,), (H s,) arcsec
  const long* first;       // (objects + 1,): the lights of object o are first[o] to first[o + 1]
  const double* profiles;  // (lights, 9): R_sersic n_sersic e1 e2 center_x center_y arms pitch phase
  const int *layer;        // (lights,)
  const int *plane;        // (lights,): 0 not lensed, 1 behind the lens, 2 behind the first source too
  const double* flux;      // (lights, bands): what multiplies the profile of unit amplitude
  const double* planes;    // (objects, 13): theta_E e1 e2 center_x center_y gamma1 gamma2, scale, the same five
  const double* sigma;     // (objects, bands) of Gaussian PSFs, pixels; null: not blurred
  void* out;               // (objects, layers, bands, H, W)
};

#if LENSPIPE_X86
void render_avx512(const RenderJob*);
void render_avx2(const RenderJob*);
#endif
void render_portable(const RenderJob*);

}  // namespace lenspipe
