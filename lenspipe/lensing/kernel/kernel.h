// What the dispatcher and the per-instruction-set translation units share. Plain C types only: nothing here
// may be instantiated differently in two units, or the linker could hand AVX-512 code to a CPU without it.
#pragma once

namespace lenspipe {

constexpr int kMaxLayers = 8;
// To be raised, here and in kernel/__init__.py, with every change of Spec, of its meaning or of the functions.
constexpr int kAbi = 3;

// One candidate's data and scene. Lengths: B bands, H W pixels, s subpixels per pixel and axis.
// The Python side (kernel/__init__.py) holds the same struct: keep the order.
struct Spec {
  int itemsize;  // 4: float32 pixels, 8: float64
  int bands, height, width, supersampling;
  int lenses, sources, lights, parameters;
  int kernel_height, kernel_width;  // 0: Gaussian
  int marginalise;
  int templates;
  int refined;  // pixels with subpixels of their own
  const int* profiles;  // of each deflector, source and lens light: the numbers of evaluate.h
  const int* columns;   // columns of each component's parameters, component after component
  const double *x, *y;  // (W s,), (H s,) arcsec
  const double *image, *weight, *weighted, *mask;  // (B, H, W)
  const double *floor, *per_flux;                  // (B,) or null: variance does not depend on the model
  const double* sky;                               // (B, H, W) blurred sky or null
  const double* basis;                             // (B, templates, H, W) orthonormal, times weight; or null
  const double *rows, *cols;                       // Gaussian: (B, H, H) and (B, W, W): out = rows @ image @ cols
  const double* kernels;                           // pixel PSF: (B, h, w), already flipped
  const int *refined_at, *refined_points;  // (refined,) row * W + column, and how many subpixels: a multiple of 16
  const double *refined_x, *refined_y;     // theirs, pixel after pixel
};

struct Functions {
  void* (*create)(const Spec*);
  void (*destroy)(void*);
  void (*log_likelihood)(void*, const double* vectors, long count, int non_negative, double* value, double* negative);
  void (*residuals)(void*, const double* vectors, long count, int non_negative, void* out);
};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define LENSPIPE_X86 1
extern const Functions avx512, avx2;
#endif
extern const Functions portable;

}  // namespace lenspipe
