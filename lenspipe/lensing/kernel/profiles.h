// Deflections and surface brightnesses, the definitions of lensing/mass.py and lensing/light.py.
// Set up in double once a vector of parameters; the pixel arithmetic is in T.
#pragma once
#include <math.h>

#include "vector.h"

namespace {

// cos and sin of the major axis' angle, as in lensing/mass.py.
INLINE void major_axis(double e1, double e2, double& cos, double& sin) {
  const double modulus = sqrt(e1 * e1 + e2 * e2 + 1e-30);
  const double large = sqrt((1 + fabs(e1 / modulus)) / 2), small = fabs(e2 / modulus) / (2 * large);
  const double norm = 1 / sqrt(large * large + small * small), sign = e2 < 0 ? -1 : 1;
  cos = (e1 >= 0 ? large : small) * norm, sin = (e1 >= 0 ? small : large) * norm * sign;
}

// With a core (NIE) or without.
template <class T>
struct Sie {
  T cx, cy, cos, sin, q2, core2, s, q2s, f;
  T along_x, along_y, across_x, across_y;
  bool nearly_round;

  Sie(double theta_E, double e1, double e2, double s_scale, double center_x, double center_y) {
    const double modulus = fmin(sqrt(e1 * e1 + e2 * e2), 0.9999);
    const double true_q = (1 - modulus) / (1 + modulus), root_q = sqrt(true_q);
    const double q = true_q > (sizeof(T) == 8 ? 1 - 1e-10 : 0.9995) ? (sizeof(T) == 8 ? 0.99999999 : 0.9995) : true_q;
    double co, si;
    major_axis(e1, e2, co, si);
    const double core = fmax(s_scale, 1e-10) / root_q, ff = sqrt(1 - q * q);
    nearly_round = ff < 0.01;
    const double scale = theta_E * root_q / (nearly_round ? 1 : ff);
    cx = T(center_x), cy = T(center_y), cos = T(co), sin = T(si);
    q2 = T(q * q), core2 = T(q * q * core * core), s = T(core), q2s = T(q * q * core), f = T(ff);
    along_x = T(co * scale), along_y = T(si * scale);
    const double half_ln2 = 0.34657359027997265471;  // atanh(t) = ln((1 + t) / (1 - t)) / 2
    const double across = scale * (nearly_round ? 1 : half_ln2);
    across_x = T(-si * across), across_y = T(co * across);
  }

  INLINE_MEMBER void subtract(Vec<T> x, Vec<T> y, Vec<T>& bx, Vec<T>& by) const {
    const Vec<T> dx = x - cx, dy = y - cy;
    const Vec<T> u = cos * dx + sin * dy, v = cos * dy - sin * dx;
    const Vec<T> psi = root<T>(q2 * (u * u) + (v * v + core2));
    const Vec<T> d = psi + q2s;
    Vec<T> along, across;
    if (nearly_round) {
      // atan(f a) / f and atanh(f b) / f by their series: the general form has an error of a rounding over f.
      const Vec<T> a = u / (psi + s), b = v / d, a2 = f * f * (a * a), b2 = f * f * (b * b);
      const T third = T(1.0 / 3), fifth = T(1.0 / 5), seventh = T(1.0 / 7);
      along = a * (T(1) - a2 * (third - a2 * (fifth - a2 * seventh)));
      across = b * (T(1) + b2 * (third + b2 * (fifth + b2 * seventh)));
    } else {
      const Vec<T> z = f * v;
      along = atan_ratio<T>(f * u, psi + s);
      // f rounds to 1 for the flattest lenses: keep the logarithm's arguments positive.
      const Vec<T> tiny = splat<T>(T(1e-12));
      across = log2_ratio<T>(at_least<T>(d + z, tiny), at_least<T>(d - z, tiny));
    }
    bx -= along_x * along + across_x * across;
    by -= along_y * along + across_y * across;
  }
};

template <class T>
struct Sis {
  T cx, cy, theta_E;

  Sis(const double* p, const int* c) : cx(T(p[c[1]])), cy(T(p[c[2]])), theta_E(T(p[c[0]])) {}

  INLINE_MEMBER void subtract(Vec<T> x, Vec<T> y, Vec<T>& bx, Vec<T>& by) const {
    const Vec<T> dx = x - cx, dy = y - cy;
    const Vec<T> scale = theta_E / root<T>(at_least<T>(dx * dx + dy * dy, splat<T>(T(1e-30))));
    bx -= scale * dx, by -= scale * dy;
  }
};

template <class T>
struct Epl {
  static constexpr int kTerms = 352;  // enough for |e| = 0.9
  T cx, cy, cos, sin, q, half_t, scale, b2;
  int terms;
  T a[kTerms];

  Epl(const double* p, const int* c) {
    const double theta_E = p[c[0]], t = p[c[1]] - 1, e1 = p[c[2]], e2 = p[c[3]];
    const double f = sqrt(e1 * e1 + e2 * e2 + 1e-30), axis_ratio = (1 - f) / (1 + f);
    double co, si;
    major_axis(e1, e2, co, si);
    cx = T(p[c[4]]), cy = T(p[c[5]]), cos = T(co), sin = T(si), q = T(axis_ratio), half_t = T(t / 2);
    scale = T(f <= 0.9 ? 2 / (1 + axis_ratio) : NAN), b2 = T(fmax(theta_E * theta_E * axis_ratio, 1e-30));
    const double rest = (sizeof(T) == 8 ? 1e-15 : 1e-8) * (1 - f);
    double term = 1;
    for (terms = 0; terms < kTerms && (terms < 2 || fabs(term) > rest); terms++) {
      a[terms] = T(term);
      term *= -f * ((2 * terms + t) / (2 * terms + 4 - t));
    }
  }

  // N vectors of pixels at once: the recurrence of one waits for its own results.
  template <int N>
  INLINE_MEMBER void subtract(const T* x, const T* y, T* bx, T* by) const {
    constexpr int L = kLanes<T>;
    Vec<T> u[N], v[N], r2[N], cos2[N], last[N], before[N];
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
      const Vec<T> dx = load(x + i * L) - cx, dy = load(y + i * L) - cy;
      u[i] = q * (cos * dx + sin * dy), v[i] = cos * dy - sin * dx;
      r2[i] = at_least<T>(u[i] * u[i] + v[i] * v[i], splat<T>(T(1e-18)));
      cos2[i] = (u[i] * u[i] - v[i] * v[i]) / r2[i];
      last[i] = before[i] = Vec<T>{};
    }
    for (int k = terms - 1; k >= 0; k--) {
      const T coefficient = a[k];
#pragma GCC unroll 8
      for (int i = 0; i < N; i++) {
        const Vec<T> next = T(2) * cos2[i] * last[i] + (coefficient - before[i]);
        before[i] = last[i], last[i] = next;
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < N; i++) {
      const Vec<T> real = last[i] - cos2[i] * before[i], imaginary = T(2) * u[i] * v[i] / r2[i] * before[i];
      const Vec<T> low = splat<T>(Simd<T>::low), high = splat<T>(Simd<T>::high);
      const Vec<T> power = half_t * log2_ratio<T>(splat<T>(b2), r2[i]);
      const Vec<T> size = scale * power_of_two<T>(at_most<T>(at_least<T>(power, low), high));
      const Vec<T> along = size * (u[i] * real - v[i] * imaginary), across = size * (u[i] * imaginary + v[i] * real);
      store(bx + i * L, load(bx + i * L) - (cos * along - sin * across));
      store(by + i * L, load(by + i * L) - (sin * along + cos * across));
    }
  }
};

// (u, v) of length R / size, R the product-averaged radius of the ellipse through a point.
template <class T>
struct Ellipse {
  T cx, cy, a, b, d;

  Ellipse(double size, double e1, double e2, double center_x, double center_y) : cx(T(center_x)), cy(T(center_y)) {
    const double norm = 1 / (size * sqrt(fmax(fabs(1 - e1 * e1 - e2 * e2), 1e-6)));
    a = T((1 - e1) * norm), b = T(-e2 * norm), d = T((1 + e1) * norm);
  }

  INLINE_MEMBER Vec<T> squared(Vec<T> x, Vec<T> y) const {
    const Vec<T> dx = x - cx, dy = y - cy;
    const Vec<T> u = a * dx + b * dy, v = b * dx + d * dy;
    return u * u + v * v;
  }
};

template <class T>
struct Gaussian2d {
  Ellipse<T> ellipse;
  T peak;

  Gaussian2d(const double* p, const int* c)
      : ellipse(p[c[0]], p[c[1]], p[c[2]], p[c[3]], p[c[4]]), peak(T(0.15915494309189533577 / (p[c[0]] * p[c[0]]))) {}

  INLINE_MEMBER Vec<T> brightness(Vec<T> x, Vec<T> y, Vec<T>& bad) const {
    const Vec<T> squared = at_most<T>(ellipse.squared(x, y), splat<T>(T(4000)));
    bad += (squared + peak) * T(0);
    const Vec<T> exponent = T(-0.72134752044448170368) * squared, zero = {};  // log2(e) / 2
    return exponent < splat<T>(Simd<T>::low) ? zero : peak * power_of_two<T>(exponent);
  }
};

template <class T>
struct Sersic {
  Ellipse<T> ellipse;
  T floor, power, scale;

  Sersic(double R_sersic, double n, double e1, double e2, double center_x, double center_y)
      : ellipse(fmax(R_sersic, 1e-4), e1, e2, center_x, center_y) {
    const double radius = fmax(R_sersic, 1e-4);
    floor = T(1e-8 / (radius * radius)), power = T(0.5 / n);
    const double log2_e = 1.4426950408889634074;
    scale = T(-log2_e * fmax(1.9992 * n - 0.3271, 1e-5));
    if (scale < -Simd<T>::high) scale = T(NAN);  // the centre would overflow
  }

  // `bad` becomes NaN where the brightness is not a number.
  INLINE_MEMBER Vec<T> brightness(Vec<T> x, Vec<T> y, Vec<T>& bad) const {
    Vec<T> squared = ellipse.squared(x, y);
    squared = at_most<T>(at_least<T>(squared, splat<T>(floor)), splat<T>(T(2e6)));
    bad += squared * T(0);
    const Vec<T> low = splat<T>(Simd<T>::low), high = splat<T>(Simd<T>::high);
    const Vec<T> slope = power * log2_ratio<T>(squared, splat<T>(T(1)));
    const Vec<T> relative = power_of_two<T>(at_most<T>(at_least<T>(slope, low), high));
    const Vec<T> exponent = scale * relative - scale;
    const Vec<T> zero = {};
    const Vec<T> value = exponent < low ? zero : power_of_two<T>(exponent);
    return squared > splat<T>(T(1e6)) ? zero : value;
  }
};

}  // namespace
