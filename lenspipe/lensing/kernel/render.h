// Noiseless images of many objects: profiles on subpixels, their mean over each pixel, sums by layer, a Gaussian PSF.
// Included once per instruction set, as evaluate.h.
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "profiles.h"
#include "render_job.h"
#include "vector.h"

namespace {

using lenspipe::RenderJob;

// A Sersic profile relative to its centre's brightness, perhaps with two logarithmic spiral arms. (Relative to that at
// R_sersic, as in profiles.h, float would lose a digit where the galaxy is brightest.)
template <class T>
struct Galaxy {
  double cx, cy, central;  // 2^central: the centre's brightness at unit amplitude
  T a, b, d, floor, power, scale, arms, twist, phase, radius2;

  explicit Galaxy(const double* p) : cx(p[4]), cy(p[5]), arms(T(p[6])), phase(T(p[8])) {
    const double radius = fmax(p[0], 1e-4), n = p[1], e1 = p[2], e2 = p[3];
    const double norm = 1 / (radius * sqrt(fmax(fabs(1 - e1 * e1 - e2 * e2), 1e-6)));
    a = T((1 - e1) * norm), b = T(-e2 * norm), d = T((1 + e1) * norm), radius2 = T(1 / (norm * norm));
    floor = T(1e-8 / (radius * radius)), power = T(0.5 / n);
    central = 1.4426950408889634074 * fmax(1.9992 * n - 0.3271, 1e-5), scale = T(-central);
    twist = T(arms != 0 ? 0.69314718055994530942 / tan(p[7]) : 0);
  }

  INLINE_MEMBER Vec<T> brightness(Vec<T> dx, Vec<T> dy) const {
    const Vec<T> u = a * dx + b * dy, v = b * dx + d * dy, exact = u * u + v * v;
    const Vec<T> squared = at_least<T>(exact, splat<T>(floor)), zero = {};
    const Vec<T> low = splat<T>(Simd<T>::low), high = splat<T>(Simd<T>::high);
    const Vec<T> slope = power * log2_ratio<T>(at_most<T>(squared, splat<T>(T(2e6))), splat<T>(T(1)));
    const Vec<T> exponent = scale * power_of_two<T>(at_most<T>(at_least<T>(slope, low), high));
    Vec<T> value = exponent < low ? zero : power_of_two<T>(exponent);
    value = squared > splat<T>(T(1e6)) ? zero : value;
    return arms == 0 ? value : value * arm(u, v, exact);
  }

  // 1 + arms cos(2 (angle - ln(radius) / tan(pitch)) + phase), in the disc's own plane.
  Vec<T> arm(Vec<T> u, Vec<T> v, Vec<T> squared) const {
    const Vec<T> turned = phase - twist * log2_ratio<T>(radius2 * squared + splat<T>(T(1e-6)), splat<T>(T(1)));
    Vec<T> cosine, sine;
    for (int i = 0; i < kLanes<T>; i++) cosine[i] = T(cos(double(turned[i]))), sine[i] = T(sin(double(turned[i])));
    return T(1) + arms * ((u * u - v * v) * cosine - T(2) * (u * v) * sine) / at_least<T>(squared, splat<T>(T(1e-30)));
  }
};

// Where a ray meets a plane is known in double: a float's rounding of arcseconds is seen in a source's brightness.
template <class T>
class Renderer {
  static constexpr int L = kLanes<T>, D = kLanes<double>;

 public:
  explicit Renderer(const RenderJob& job)
      : j_(job), H_(job.height), W_(job.width), count_((job.width + L - 1) / L), stride_(count_ * L),
        size_(long(H_) * stride_) {
    const int s = job.supersampling;
    long most = 1;
    for (long o = 0; o < job.objects; o++)
      if (job.first[o + 1] - job.first[o] > most) most = job.first[o + 1] - job.first[o];
    // x sorted by subpixel, so that the lanes of a vector are neighbouring pixels.
    x_ = reserve<double>(long(s) * stride_);
    for (int p = 0; p < s; p++)
      for (int i = 0; i < stride_; i++) x_[p * stride_ + i] = job.x[(i < W_ ? i : W_ - 1) * s + p];
    for (int i = 0; i < 4; i++) ray_[i] = reserve<double>(stride_);
    dx_ = reserve<T>(stride_), dy_ = reserve<T>(stride_);
    images_ = reserve<T>(most * size_), sum_ = reserve<T>(size_), half_ = reserve<T>(size_);
    weights_ = reserve<T>(2 * kReach + 1), line_ = reserve<T>(stride_ + 2 * kReach + L);
    galaxies_ = (Galaxy<T>*)malloc(sizeof(Galaxy<T>) * size_t(most));
  }
  ~Renderer() {
    void* const all[] = {x_, ray_[0], ray_[1], ray_[2], ray_[3], dx_, dy_, images_, sum_, half_, weights_, line_, galaxies_};
    for (void* p : all) free(p);
  }

  void run() {
    for (long o = 0; o < j_.objects; o++) {
      shine(o);
      for (int l = 0; l < j_.layers; l++)
        for (int b = 0; b < j_.bands; b++) finish(o, l, b);
    }
  }

 private:
  static constexpr int kReach = lenspipe::kRenderReach;

  template <class U>
  static U* reserve(long n) {
    const size_t bytes = (size_t(n) * sizeof(U) + 127) / 64 * 64;
    void* p = aligned_alloc(64, bytes);
    if (!p) abort();
    memset(p, 0, bytes);
    return (U*)p;
  }

  // The mean over each pixel of every light of object `o`.
  void shine(long o) {
    const long first = j_.first[o], n = j_.first[o + 1] - first;
    const double* p = j_.planes + 13 * o;
    int deepest = 0;
    for (long k = 0; k < n; k++) {
      galaxies_[k] = Galaxy<T>(j_.profiles + 9 * (first + k));
      if (j_.plane[first + k] > deepest) deepest = j_.plane[first + k];
    }
    memset(images_, 0, sizeof(T) * size_t(n * size_));
    const Sie<double> lens(p[0], p[1], p[2], 0, p[3], p[4]), behind(p[8], p[9], p[10], 0, p[11], p[12]);
    const int s = j_.supersampling;
    for (int sub = 0; sub < s * s; sub++)
      for (int row = 0; row < H_; row++) {
        const double *x = x_ + (sub % s) * stride_, y = j_.y[row * s + sub / s];
        if (deepest > 0) bend(lens, behind, p[5], p[6], p[7], deepest > 1, x, y);
        for (long k = 0; k < n; k++) {
          const int plane = j_.plane[first + k];
          const Galaxy<T>& galaxy = galaxies_[k];
          const double *u = plane ? ray_[2 * plane - 2] : x, *w = plane ? ray_[2 * plane - 1] : nullptr;
          for (int i = 0; i < stride_; i++) dx_[i] = T(u[i] - galaxy.cx);
          if (w)
            for (int i = 0; i < stride_; i++) dy_[i] = T(w[i] - galaxy.cy);
          const Vec<T> level = splat<T>(T(y - galaxy.cy));
          T* out = images_ + k * size_ + long(row) * stride_;
          for (int i = 0; i < stride_; i += L)
            store(out + i, load(out + i) + galaxy.brightness(load(dx_ + i), w ? load(dy_ + i) : level));
        }
      }
  }

  // beta = theta - alpha(theta), and theta - scale alpha(theta) - alpha_behind(beta) for the second plane.
  void bend(const Sie<double>& lens, const Sie<double>& behind, double gamma1, double gamma2, double scale, bool twice,
            const double* gx, double gy) {
    for (int i = 0; i < stride_; i += D) {
      const Vec<double> x = load(gx + i), y = splat(gy);
      Vec<double> u = x - (gamma1 * x + gamma2 * y), w = y - (gamma2 * x - gamma1 * y);
      lens.subtract(x, y, u, w);
      store(ray_[0] + i, u), store(ray_[1] + i, w);
      if (!twice) continue;
      Vec<double> u2 = x - scale * (x - u), w2 = y - scale * (y - w);
      behind.subtract(u, w, u2, w2);
      store(ray_[2] + i, u2), store(ray_[3] + i, w2);
    }
  }

  // One layer in one band: the lights' sum, blurred, to its place in the output.
  void finish(long o, int layer, int b) {
    const int s = j_.supersampling;
    bool any = false;
    for (long k = j_.first[o]; k < j_.first[o + 1]; k++) {
      if (j_.layer[k] != layer) continue;
      const double central = exp2(galaxies_[k - j_.first[o]].central);
      const Vec<T> flux = splat(T(j_.flux[k * j_.bands + b] * central / (s * s)));
      const T* image = images_ + (k - j_.first[o]) * size_;
      for (long i = 0; i < size_; i += L) store(sum_ + i, any ? load(sum_ + i) + flux * load(image + i) : flux * load(image + i));
      any = true;
    }
    const long at = ((o * j_.layers + layer) * j_.bands + b) * H_ * W_;
    T* out = (T*)j_.out + at;
    if (!any) {
      memset(out, 0, sizeof(T) * size_t(H_) * W_);
      return;
    }
    const double sigma = j_.sigma ? j_.sigma[o * j_.bands + b] : 0;
    if (sigma > 0) blur(sigma);
    for (int r = 0; r < H_; r++) memcpy(out + long(r) * W_, sum_ + long(r) * stride_, sizeof(T) * size_t(W_));
  }

  // scipy.ndimage.gaussian_filter with mode nearest, to `kTruncate` sigma.
  void blur(double sigma) {
    const int reach = int(lenspipe::kRenderTruncate * sigma + 0.5);
    double total = 0;
    for (int t = -reach; t <= reach; t++) total += exp(-0.5 * t * t / (sigma * sigma));
    for (int t = -reach; t <= reach; t++) weights_[t + reach] = T(exp(-0.5 * t * t / (sigma * sigma)) / total);
    for (int r = 0; r < H_; r++) {
      int c = 0;
      for (; c + 3 <= count_; c += 3) vertical<3>(r, c, reach);
      for (; c < count_; c++) vertical<1>(r, c, reach);
    }
    for (int r = 0; r < H_; r++) {
      const T* from = half_ + long(r) * stride_;
      for (int i = 0; i < reach; i++) line_[i] = from[0];
      memcpy(line_ + reach, from, sizeof(T) * size_t(W_));
      for (int i = reach + W_; i < stride_ + 2 * reach + L; i++) line_[i] = from[W_ - 1];
      int c = 0;
      for (; c + 3 <= count_; c += 3) horizontal<3>(r, c, reach);
      for (; c < count_; c++) horizontal<1>(r, c, reach);
    }
  }

  template <int C>
  INLINE_MEMBER void vertical(int r, int c, int reach) {
    Vec<T> acc[C] = {};
    for (int t = 0; t <= 2 * reach; t++) {
      const int from = r + t - reach < 0 ? 0 : r + t - reach < H_ ? r + t - reach : H_ - 1;
      const Vec<T> w = splat(weights_[t]);
#pragma GCC unroll 4
      for (int i = 0; i < C; i++) acc[i] += w * load(sum_ + long(from) * stride_ + (c + i) * L);
    }
    for (int i = 0; i < C; i++) store(half_ + long(r) * stride_ + (c + i) * L, acc[i]);
  }

  template <int C>
  INLINE_MEMBER void horizontal(int r, int c, int reach) {
    Vec<T> acc[C] = {};
    for (int t = 0; t <= 2 * reach; t++) {
      const Vec<T> w = splat(weights_[t]);
#pragma GCC unroll 4
      for (int i = 0; i < C; i++) acc[i] += w * load_loose(line_ + (c + i) * L + t);
    }
    for (int i = 0; i < C; i++) store(sum_ + long(r) * stride_ + (c + i) * L, acc[i]);
  }

  const RenderJob& j_;
  int H_, W_, count_, stride_;
  long size_;
  double *x_, *ray_[4];  // where the rays of a row meet the first source's plane, and the second's
  T *dx_, *dy_, *images_, *sum_, *half_, *weights_, *line_;
  Galaxy<T>* galaxies_;
};

}  // namespace

namespace lenspipe {
#define LENSPIPE_JOIN(a, b) a##b
#define LENSPIPE_NAME(a, b) LENSPIPE_JOIN(a, b)
void LENSPIPE_NAME(render_, LENSPIPE_SET)(const RenderJob* job) {
  if (job->itemsize == 8) Renderer<double>(*job).run();
  else Renderer<float>(*job).run();
}
}  // namespace lenspipe
