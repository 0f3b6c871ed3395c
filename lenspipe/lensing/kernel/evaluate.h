// One parameter vector at a time: profiles, PSF, amplitudes, chi-square. Everything fits in the second-level cache.
// Included once per instruction set, with LENSPIPE_BYTES (register size) and LENSPIPE_SET (name) defined.
#pragma once
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "blur.h"
#include "kernel.h"
#include "profiles.h"
#include "solve.h"
#include "vector.h"

namespace {

using lenspipe::Spec;
constexpr int kBlock = 8;    // rows summed in T before they join a double
constexpr int kChunk = 48;   // vectors of pixels that go through the profiles together: they stay in the L1 cache
// The numbers of kernel/__init__.py, and how many parameters each has.
enum Mass { kSie, kShear, kNie, kSis, kEpl, kConvergence };
enum Light { kSersicEllipse, kSersic, kGaussianEllipse };
constexpr int kMassParameters[] = {5, 2, 6, 3, 6, 1}, kLightParameters[] = {6, 4, 5};

// Zeroed, aligned memory that lives as long as its owner.
class Arena {
 public:
  template <class U>
  U* array(long n) {
    const size_t bytes = (size_t(n) * sizeof(U) + 127) / 64 * 64;
    void* p = aligned_alloc(64, bytes);
    if (!p) abort();
    memset(p, 0, bytes);
    if (count_ == room_) blocks_ = (void**)realloc(blocks_, sizeof(void*) * size_t(room_ = 2 * room_ + 16));
    return (U*)(blocks_[count_++] = p);
  }
  template <class U>
  U* copy(const U* from, long n) {
    return (U*)memcpy(array<U>(n), from, sizeof(U) * size_t(n));
  }
  ~Arena() {
    for (int i = 0; i < count_; i++) free(blocks_[i]);
    free(blocks_);
  }

 private:
  void** blocks_ = nullptr;
  int count_ = 0, room_ = 0;
};

template <class T>
class Problem {
  static constexpr int L = kLanes<T>;

 public:
  explicit Problem(const Spec& s)
      : s_(s), H_(s.height), W_(s.width), count_((s.width + L - 1) / L), stride_(count_ * L), size_(long(H_) * stride_),
        layers_(s.sources + s.lights), total_(layers_ + (s.sky != nullptr)) {
    s_.profiles = arena_.copy(s.profiles, s.lenses + layers_);
    int parameters = 0;
    for (int i = 0; i < s.lenses + layers_; i++)
      parameters += (i < s.lenses ? kMassParameters : kLightParameters)[s.profiles[i]];
    s_.columns = arena_.copy(s.columns, parameters);
    const int f = s.supersampling;
    // x sorted by subpixel, so that the lanes of a vector are neighbouring pixels.
    x_ = arena_.array<T>(long(f) * stride_), y_ = arena_.array<T>(long(H_) * f);
    for (int p = 0; p < f; p++)
      for (int i = 0; i < stride_; i++) x_[p * stride_ + i] = T(s.x[(i < W_ ? i : W_ - 1) * f + p]);
    for (int j = 0; j < H_ * f; j++) y_[j] = T(s.y[j]);
    image_ = padded(s.image), weight_ = padded(s.weight), weighted_ = padded(s.weighted), mask_ = padded(s.mask);
    if (s.sky) sky_ = padded(s.sky);
    if (s.templates) {
      basis_ = padded(s.basis, s.bands * s.templates);
      for (int l = 0; l < total_; l++) shared_[l] = arena_.array<double>(s.templates);
    }
    poisson_ = s.floor != nullptr;
    if (poisson_) floor_ = arena_.copy(s.floor, s.bands), per_flux_ = arena_.copy(s.per_flux, s.bands);
    extents_ = arena_.array<Extent>(s.bands);
    for (int b = 0; b < s.bands; b++) extents_[b] = extent(s.mask + long(b) * H_ * W_);
    for (int l = 0; l < kMaxLayers; l++) image_of_[l] = blurred_[l] = nullptr;
    for (int l = 0; l < layers_; l++) {
      image_of_[l] = arena_.array<T>(size_);
      blurred_[l] = arena_.array<T>(size_ + 4 * stride_);
    }
    half_ = arena_.array<T>(size_), normalised_ = arena_.array<T>(size_);
    make_refined(s);
    if (s.kernel_height) make_pixels(s);
    else make_gaussians(s);
  }

  void log_likelihood(const double* vectors, long n, bool non_negative, double* value, double* negative) {
    for (long k = 0; k < n; k++) {
      value[k] = NAN, negative[k] = 0;
      if (!render(vectors + k * s_.parameters)) continue;
      double chi2 = 0, log_determinant = 0;
      for (int b = 0; b < s_.bands; b++) {
        Matrix m;
        double right[kMaxLayers], amplitudes[kMaxLayers];
        const T* layer[kMaxLayers];
        normal_equations(b, layer, m, right);
        log_determinant += solve(m, right, total_, amplitudes);
        bool below = false;
        for (int l = 0; l < layers_; l++) below |= amplitudes[l] < 0;
        negative[k] += below;
        if (below && non_negative) solve_non_negative(m, right, total_, layers_, amplitudes);
        chi2 += poisson_ ? chi_square<true>(b, layer, amplitudes) : chi_square<false>(b, layer, amplitudes);
      }
      value[k] = -0.5 * chi2 - (s_.marginalise ? 0.5 * log_determinant : 0);
    }
  }

  // (n, D) (image - model) / sigma of the used pixels, band by band and row by row.
  void residuals(const double* vectors, long n, bool non_negative, T* out) {
    for (long k = 0; k < n; k++) {
      const bool fine = render(vectors + k * s_.parameters);
      for (int b = 0; b < s_.bands; b++) {
        Matrix m;
        double right[kMaxLayers], amplitudes[kMaxLayers];
        const T* layer[kMaxLayers];
        if (fine) {
          normal_equations(b, layer, m, right);
          if (non_negative) solve_non_negative(m, right, total_, layers_, amplitudes);
          else solve(m, right, total_, amplitudes);
          normalise(b, layer, amplitudes);
        }
        const T* mask = mask_ + b * size_;
        for (int j = 0; j < H_; j++)
          for (int i = 0; i < W_; i++)
            if (mask[long(j) * stride_ + i] > 0) *out++ = fine ? normalised_[long(j) * stride_ + i] : T(NAN);
      }
    }
  }

 private:
  T* padded(const double* from) { return padded(from, s_.bands); }

  T* padded(const double* from, int images) {
    T* to = arena_.array<T>(images * size_);
    for (long r = 0; r < long(images) * H_; r++)
      for (int i = 0; i < W_; i++) to[r * stride_ + i] = T(from[r * W_ + i]);
    return to;
  }

  Extent extent(const double* mask) {
    Extent e{H_, 0, arena_.array<int>(H_), arena_.array<int>(H_)};
    for (int j = 0; j < H_; j++) {
      e.first[j] = count_;
      for (int i = 0; i < W_; i++)
        if (mask[long(j) * W_ + i] > 0) {
          if (i / L < e.first[j]) e.first[j] = i / L;
          e.last[j] = i / L + 1;
        }
      if (e.last[j]) {
        if (j < e.begin) e.begin = j;
        e.end = j + 1;
      }
    }
    return e;
  }

  void make_refined(const Spec& s) {
    refined_at_ = arena_.array<long>(s.refined), refined_vectors_ = arena_.array<int>(s.refined);
    long points = 0;
    for (int i = 0; i < s.refined; i++) {
      refined_at_[i] = long(s.refined_at[i] / W_) * stride_ + s.refined_at[i] % W_;
      refined_vectors_[i] = s.refined_points[i] / L;
      points += s.refined_points[i];
    }
    refined_total_ = points / L;
    refined_x_ = arena_.array<T>(points), refined_y_ = arena_.array<T>(points);
    for (long i = 0; i < points; i++) refined_x_[i] = T(s.refined_x[i]), refined_y_[i] = T(s.refined_y[i]);
    for (int l = 0; l < layers_; l++) refined_of_[l] = arena_.array<T>(points);
  }

  void make_gaussians(const Spec& s) {
    gaussians_ = arena_.array<Gaussian<T>>(s.bands);
    for (int b = 0; b < s.bands; b++) {
      Gaussian<T>& g = gaussians_[b];
      const double* rows = s.rows + long(b) * H_ * H_;
      const double* cols = s.cols + long(b) * W_ * W_;
      g.width = W_, g.stride = stride_;
      g.rows = arena_.array<T>(long(H_) * H_);
      g.from = arena_.array<int>(H_), g.to = arena_.array<int>(H_);
      for (int j = 0; j < H_; j++) {
        g.from[j] = H_;
        for (int k = 0; k < H_; k++) {
          g.rows[long(j) * H_ + k] = T(rows[long(j) * H_ + k]);
          if (rows[long(j) * H_ + k] == 0) continue;
          if (k < g.from[j]) g.from[j] = k;
          g.to[j] = k + 1;
        }
      }
      g.left = arena_.array<int>(count_), g.right = arena_.array<int>(count_), g.offset = arena_.array<long>(count_);
      long used = 0;
      for (int c = 0; c < count_; c++) {
        g.left[c] = W_;
        for (int i = 0; i < W_; i++)
          for (int o = c * L; o < W_ && o < (c + 1) * L; o++)
            if (cols[long(i) * W_ + o] != 0) {
              if (i < g.left[c]) g.left[c] = i;
              g.right[c] = i + 1;
            }
        g.offset[c] = used;
        used += long(g.right[c] - g.left[c]) * L;
      }
      g.cols = arena_.array<T>(used);
      for (int c = 0; c < count_; c++)
        for (int i = g.left[c]; i < g.right[c]; i++)
          for (int o = c * L; o < W_ && o < (c + 1) * L; o++)
            g.cols[g.offset[c] + long(i - g.left[c]) * L + o - c * L] = T(cols[long(i) * W_ + o]);
    }
  }

  void make_pixels(const Spec& s) {
    constexpr int R = Pixels<T>::kRows;
    pixels_ = arena_.array<Pixels<T>>(s.bands);
    const int extra = s.kernel_height < R ? R - s.kernel_height : 0;
    for (int b = 0; b < s.bands; b++) {
      Pixels<T>& p = pixels_[b];
      p.width = s.kernel_width, p.height = s.kernel_height + extra;
      p.left = s.kernel_width / 2, p.top = s.kernel_height / 2;
      p.stride = (p.left * 2 + stride_ + 2 * L) / L * L;
      T* kernel = arena_.array<T>(long(p.height) * p.width);
      for (int i = 0; i < s.kernel_height * s.kernel_width; i++)
        kernel[i] = T(s.kernels[long(b) * s.kernel_height * s.kernel_width + i]);
      p.kernel = kernel;
    }
    for (int l = 0; l < layers_; l++)
      frames_[l] = arena_.array<T>(long(H_ + 2 * pixels_[0].top + 2 * R + extra) * pixels_[0].stride);
  }

  // Unit-amplitude images of all components, (framed for a pixel PSF); false where something is not a number.
  bool render(const double* p) {
    for (int i = 0; i < s_.parameters; i++)
      if (!isfinite(p[i])) return false;
    const int f = s_.supersampling;
    const T share = T(1.0 / (f * f));
    alignas(64) T gx[kChunk * L], gy[kChunk * L];
    Vec<T> bad = {};
    for (int sub = 0; sub < f * f; sub++) {
      const T* x = x_ + (sub % f) * stride_;
      int row = 0, column = 0;
      const long vectors = long(H_) * count_;
      for (long start = 0; start < vectors; start += kChunk) {
        const int n = int(vectors - start < kChunk ? vectors - start : kChunk);
        for (int v = 0; v < n; v++) {
          store(gx + v * L, load(x + column * L));
          store(gy + v * L, splat(y_[row * f + sub / f]));
          if (++column == count_) column = 0, row++;
        }
        shade(p, n, gx, gy, image_of_, start, f > 1, sub > 0, share, bad);
      }
    }
    if (refined_total_) refine(p, bad);
    if (sum<T>(bad) != 0) return false;
    if (pixels_)
      for (int l = 0; l < layers_; l++) frame(l);
    return true;
  }

  // Every layer's brightness at n vectors of points, written or added from vector `start` of `out` on.
  void shade(const double* p, int n, const T* gx, const T* gy, T* const* out, long start, bool mean, bool add, T share,
             Vec<T>& bad) const {
    alignas(64) T bx[kChunk * L], by[kChunk * L];
    memcpy(bx, gx, sizeof(T) * size_t(n) * L);
    memcpy(by, gy, sizeof(T) * size_t(n) * L);
    const int* c = s_.columns;
    for (int i = 0; i < s_.lenses; i++) {
      deflect(s_.profiles[i], p, c, n, gx, gy, bx, by);
      c += kMassParameters[s_.profiles[i]];
    }
    for (int l = 0; l < layers_; l++) {
      const int profile = s_.profiles[s_.lenses + l];
      const T *u = l < s_.sources ? bx : gx, *v = l < s_.sources ? by : gy;
      T* to = out[l] + start * L;
      if (profile == kSersicEllipse)
        shine(Sersic<T>(p[c[0]], p[c[1]], p[c[2]], p[c[3]], p[c[4]], p[c[5]]), n, u, v, to, mean, add, share, bad);
      else if (profile == kSersic)
        shine(Sersic<T>(p[c[0]], p[c[1]], 0, 0, p[c[2]], p[c[3]]), n, u, v, to, mean, add, share, bad);
      else shine(Gaussian2d<T>(p, c), n, u, v, to, mean, add, share, bad);
      c += kLightParameters[profile];
    }
  }

  // Replaces the pixels that have subpixels of their own by the mean over these.
  void refine(const double* p, Vec<T>& bad) {
    for (long start = 0; start < refined_total_; start += kChunk) {
      const int n = int(refined_total_ - start < kChunk ? refined_total_ - start : kChunk);
      shade(p, n, refined_x_ + start * L, refined_y_ + start * L, refined_of_, start, false, false, T(1), bad);
    }
    for (int l = 0; l < layers_; l++) {
      const T* from = refined_of_[l];
      for (int i = 0; i < s_.refined; i++) {
        Vec<T> total = {};
        for (int v = 0; v < refined_vectors_[i]; v++, from += L) total += load(from);
        image_of_[l][refined_at_[i]] = T(sum<T>(total) / (refined_vectors_[i] * L));
      }
    }
  }

  static void deflect(int profile, const double* p, const int* c, int n, const T* x, const T* y, T* bx, T* by) {
    switch (profile) {
      case kSie: return bend(Sie<T>(p[c[0]], p[c[1]], p[c[2]], 0, p[c[3]], p[c[4]]), n, x, y, bx, by);
      case kNie: return bend(Sie<T>(p[c[0]], p[c[1]], p[c[2]], p[c[3]], p[c[4]], p[c[5]]), n, x, y, bx, by);
      case kSis: return bend(Sis<T>(p, c), n, x, y, bx, by);
      case kEpl: {
        const Epl<T> epl(p, c);
        constexpr int N = 4;
        int v = 0;
        for (; v + N <= n; v += N) epl.template subtract<N>(x + v * L, y + v * L, bx + v * L, by + v * L);
        for (; v < n; v++) epl.template subtract<1>(x + v * L, y + v * L, bx + v * L, by + v * L);
        return;
      }
      // (a, b; b, d) (x, y)
      case kShear: return stretch(T(p[c[0]]), T(p[c[1]]), T(-p[c[0]]), n, x, y, bx, by);
      case kConvergence: return stretch(T(p[c[0]]), T(0), T(p[c[0]]), n, x, y, bx, by);
    }
  }

  template <class Profile>
  static void bend(const Profile& mass, int n, const T* x, const T* y, T* bx, T* by) {
    for (int v = 0; v < n * L; v += L) {
      Vec<T> u = load(bx + v), w = load(by + v);
      mass.subtract(load(x + v), load(y + v), u, w);
      store(bx + v, u), store(by + v, w);
    }
  }

  static void stretch(T a, T b, T d, int n, const T* x, const T* y, T* bx, T* by) {
    for (int v = 0; v < n * L; v += L) {
      const Vec<T> u = load(x + v), w = load(y + v);
      store(bx + v, load(bx + v) - (a * u + b * w));
      store(by + v, load(by + v) - (b * u + d * w));
    }
  }

  template <class Profile>
  static void shine(const Profile& light, int n, const T* x, const T* y, T* out, bool mean, bool add, T share,
                    Vec<T>& bad) {
    if (!mean) {
      for (int v = 0; v < n * L; v += L) store(out + v, light.brightness(load(x + v), load(y + v), bad));
      return;
    }
    for (int v = 0; v < n * L; v += L) {
      const Vec<T> value = share * light.brightness(load(x + v), load(y + v), bad);
      store(out + v, add ? load(out + v) + value : value);
    }
  }

  void frame(int l) {
    const Pixels<T>& p = pixels_[0];
    for (int j = 0; j < H_; j++)
      memcpy(frames_[l] + long(j + p.top) * p.stride + p.left, image_of_[l] + long(j) * stride_, sizeof(T) * size_t(W_));
  }

  void normal_equations(int b, const T** layer, Matrix& m, double* right) {
    for (int l = 0; l < layers_; l++) {
      if (pixels_) blur(pixels_[b], extents_[b], frames_[l], blurred_[l], stride_);
      else blur(gaussians_[b], H_, extents_[b], image_of_[l], half_, blurred_[l]);
      layer[l] = blurred_[l];
    }
    if (sky_) layer[layers_] = sky_ + b * size_;
    switch (total_) {
      case 1: accumulate<1>(b, layer, m, right); break;
      case 2: accumulate<2>(b, layer, m, right); break;
      case 3: accumulate<3>(b, layer, m, right); break;
      case 4: accumulate<4>(b, layer, m, right); break;
      case 5: accumulate<5>(b, layer, m, right); break;
      case 6: accumulate<6>(b, layer, m, right); break;
      case 7: accumulate<7>(b, layer, m, right); break;
      default: accumulate<8>(b, layer, m, right);
    }
    if (s_.templates) free_of_templates(b, layer, m);
  }

  // Takes from M what the templates share with each layer; the data have none of it left, so `right` stays.
  void free_of_templates(int b, const T* const* layer, Matrix& m) {
    const Extent& e = extents_[b];
    for (int k = 0; k < total_; k++) {
      for (int t = 0; t < s_.templates; t++) {
        const T* basis = basis_ + (long(b) * s_.templates + t) * size_;
        double total = 0;
        for (int block = e.begin; block < e.end; block += kBlock) {
          Vec<T> acc = {};
          for (int j = block; j < e.end && j < block + kBlock; j++)
            for (int c = e.first[j]; c < e.last[j]; c++) {
              const long at = long(j) * stride_ + c * L;
              acc += load(basis + at) * load(layer[k] + at);
            }
          total += sum<T>(acc);
        }
        shared_[k][t] = total;
      }
      for (int h = 0; h <= k; h++) {
        double both = 0;
        for (int t = 0; t < s_.templates; t++) both += shared_[k][t] * shared_[h][t];
        m.at[k][h] -= both;
        if (h < k) m.at[h][k] = m.at[k][h];
      }
    }
  }

  // What of the model the templates can take: its amplitude along template `t`, for amplitudes rounded as the pixels' are.
  double along(int t, const double* amplitudes) const {
    double total = 0;
    for (int l = 0; l < total_; l++) total += double(T(amplitudes[l])) * shared_[l][t];
    return total;
  }

  template <int N>
  void accumulate(int b, const T* const* layer, Matrix& m, double* right) {
    const Extent& e = extents_[b];
    const T *weight = weight_ + b * size_, *weighted = weighted_ + b * size_;
    double total[N * (N + 1) / 2 + N] = {};
    for (int block = e.begin; block < e.end; block += kBlock) {
      Vec<T> acc[N * (N + 1) / 2 + N] = {};
      for (int j = block; j < e.end && j < block + kBlock; j++)
        for (int c = e.first[j]; c < e.last[j]; c++) {
          const long at = long(j) * stride_ + c * L;
          const Vec<T> w = load(weight + at), wd = load(weighted + at);
          Vec<T> v[N];
#pragma GCC unroll 8
          for (int k = 0; k < N; k++) v[k] = load(layer[k] + at);
#pragma GCC unroll 8
          for (int k = 0, i = 0; k < N; k++) {
            const Vec<T> wv = w * v[k];
#pragma GCC unroll 8
            for (int h = 0; h <= k; h++, i++) acc[i] += wv * v[h];
            acc[N * (N + 1) / 2 + k] += wd * v[k];
          }
        }
      for (int i = 0; i < N * (N + 1) / 2 + N; i++) total[i] += sum<T>(acc[i]);
    }
    for (int k = 0, i = 0; k < N; k++) {
      for (int h = 0; h <= k; h++, i++) m.at[k][h] = m.at[h][k] = total[i];
      right[k] = total[N * (N + 1) / 2 + k];
    }
  }

  INLINE_MEMBER Vec<T> residual(const T* image, const T* const* layer, const T* amplitude, long at, Vec<T>& model) const {
    model = amplitude[0] * load(layer[0] + at);
    for (int l = 1; l < total_; l++) model += amplitude[l] * load(layer[l] + at);
    return load(image + at) - model;
  }

  template <bool Poisson>
  double chi_square(int b, const T* const* layer, const double* amplitudes) const {
    const Extent& e = extents_[b];
    const T *image = image_ + b * size_, *weight = (Poisson ? mask_ : weight_) + b * size_;
    T amplitude[kMaxLayers];
    for (int l = 0; l < total_; l++) amplitude[l] = T(amplitudes[l]);
    const Vec<T> zero = {}, floor = splat(Poisson ? T(floor_[b]) : T(0));
    const T per_flux = Poisson ? T(per_flux_[b]) : T(0);
    double total = 0;
    for (int block = e.begin; block < e.end; block += kBlock) {
      Vec<T> acc = {};
      for (int j = block; j < e.end && j < block + kBlock; j++)
        for (int c = e.first[j]; c < e.last[j]; c++) {
          const long at = long(j) * stride_ + c * L;
          Vec<T> model;
          const Vec<T> r = residual(image, layer, amplitude, at, model);
          const Vec<T> squares = load(weight + at) * (r * r);
          if constexpr (Poisson) acc += squares / (floor + at_least<T>(model, zero) * per_flux);
          else acc += squares;
        }
      total += sum<T>(acc);
    }
    for (int t = 0; t < s_.templates; t++) total -= along(t, amplitudes) * along(t, amplitudes);
    return total;
  }

  void normalise(int b, const T* const* layer, const double* amplitudes) {
    const Extent& e = extents_[b];
    const T *image = image_ + b * size_, *weight = weight_ + b * size_;
    T amplitude[kMaxLayers];
    for (int l = 0; l < total_; l++) amplitude[l] = T(amplitudes[l]);
    const Vec<T> zero = {};
    for (int j = e.begin; j < e.end; j++)
      for (int c = e.first[j]; c < e.last[j]; c++) {
        const long at = long(j) * stride_ + c * L;
        Vec<T> model;
        const Vec<T> r = residual(image, layer, amplitude, at, model);
        if (poisson_) store(normalised_ + at, r / root<T>(T(floor_[b]) + at_least<T>(model, zero) * T(per_flux_[b])));
        else store(normalised_ + at, r * root<T>(load(weight + at)));
      }
    for (int t = 0; t < s_.templates; t++) {
      const T* basis = basis_ + (long(b) * s_.templates + t) * size_;  // times weight: 0 where masked
      const T taken = T(along(t, amplitudes));
      for (int j = e.begin; j < e.end; j++)
        for (int c = e.first[j]; c < e.last[j]; c++) {
          const long at = long(j) * stride_ + c * L;
          const Vec<T> sigma = splat(T(1)) / root<T>(at_least<T>(load(weight + at), splat<T>(T(1e-30))));
          store(normalised_ + at, load(normalised_ + at) + taken * (load(basis + at) * sigma));
        }
    }
  }

  Spec s_;
  int H_, W_, count_, stride_;
  long size_;
  int layers_, total_;
  bool poisson_ = false;
  Arena arena_;
  T *x_, *y_, *image_, *weight_, *weighted_, *mask_, *sky_ = nullptr, *basis_ = nullptr;
  double* shared_[kMaxLayers];  // (templates,) of each layer: what it shares with the band's templates
  double *floor_ = nullptr, *per_flux_ = nullptr;
  Extent* extents_;
  long *refined_at_, refined_total_;  // where in an image; vectors of all refined pixels
  int* refined_vectors_;              // of each
  T *refined_x_, *refined_y_, *refined_of_[kMaxLayers];
  T *image_of_[kMaxLayers], *blurred_[kMaxLayers], *frames_[kMaxLayers], *half_, *normalised_;
  Gaussian<T>* gaussians_ = nullptr;
  Pixels<T>* pixels_ = nullptr;
};

struct Handle {
  Problem<double>* wide;
  Problem<float>* narrow;
};

static void* create(const Spec* spec) {
  Handle* h = (Handle*)calloc(1, sizeof(Handle));
  if (spec->itemsize == 8) h->wide = new Problem<double>(*spec);
  else h->narrow = new Problem<float>(*spec);
  return h;
}

static void destroy(void* handle) {
  Handle* h = (Handle*)handle;
  delete h->wide;
  delete h->narrow;
  free(h);
}

static void log_likelihood(void* handle, const double* vectors, long n, int non_negative, double* value,
                           double* negative) {
  const Handle* h = (Handle*)handle;
  if (h->wide) h->wide->log_likelihood(vectors, n, non_negative, value, negative);
  else h->narrow->log_likelihood(vectors, n, non_negative, value, negative);
}

static void residuals(void* handle, const double* vectors, long n, int non_negative, void* out) {
  const Handle* h = (Handle*)handle;
  if (h->wide) h->wide->residuals(vectors, n, non_negative, (double*)out);
  else h->narrow->residuals(vectors, n, non_negative, (float*)out);
}

}  // namespace

namespace lenspipe {
extern const Functions LENSPIPE_SET = {create, destroy, log_likelihood, residuals};
}
