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

template <class T>
struct Sie {
  T cx, cy, cos, sin, q2, core2, s, q2s, f;
  T along_x, along_y, across_x, across_y;

  Sie(const double* p, const int* c) {
    const double theta_E = p[c[0]], e1 = p[c[1]], e2 = p[c[2]];
    const double modulus = fmin(sqrt(e1 * e1 + e2 * e2), 0.9999);
    const double true_q = (1 - modulus) / (1 + modulus), root_q = sqrt(true_q);
    const double q = true_q > (sizeof(T) == 8 ? 1 - 1e-10 : 0.9995) ? (sizeof(T) == 8 ? 0.99999999 : 0.9995) : true_q;
    double co, si;
    major_axis(e1, e2, co, si);
    const double core = 1e-10 / root_q, ff = sqrt(1 - q * q), scale = theta_E * root_q / ff;
    cx = T(p[c[3]]), cy = T(p[c[4]]), cos = T(co), sin = T(si);
    q2 = T(q * q), core2 = T(q * q * core * core), s = T(core), q2s = T(q * q * core), f = T(ff);
    along_x = T(co * scale), along_y = T(si * scale);
    const double half_ln2 = 0.34657359027997265471;  // atanh(t) = ln((1 + t) / (1 - t)) / 2
    across_x = T(-si * scale * half_ln2), across_y = T(co * scale * half_ln2);
  }

  INLINE_MEMBER void subtract(Vec<T> x, Vec<T> y, Vec<T>& bx, Vec<T>& by) const {
    const Vec<T> dx = x - cx, dy = y - cy;
    const Vec<T> u = cos * dx + sin * dy, v = cos * dy - sin * dx;
    const Vec<T> psi = root<T>(q2 * (u * u) + (v * v + core2));
    const Vec<T> along = atan_ratio<T>(f * u, psi + s);
    const Vec<T> d = psi + q2s, z = f * v;
    // f rounds to 1 for the flattest lenses: keep the logarithm's arguments positive.
    const Vec<T> tiny = splat<T>(T(1e-12));
    const Vec<T> across = log2_ratio<T>(at_least<T>(d + z, tiny), at_least<T>(d - z, tiny));
    bx -= along_x * along + across_x * across;
    by -= along_y * along + across_y * across;
  }
};

template <class T>
struct Sersic {
  T cx, cy, a, b, d, floor, power, scale;

  Sersic(const double* p, const int* c) {
    const double radius = fmax(p[c[0]], 1e-4), n = p[c[1]], e1 = p[c[2]], e2 = p[c[3]];
    const double norm = 1 / (radius * sqrt(fmax(fabs(1 - e1 * e1 - e2 * e2), 1e-6)));
    cx = T(p[c[4]]), cy = T(p[c[5]]);
    a = T((1 - e1) * norm), b = T(-e2 * norm), d = T((1 + e1) * norm);
    floor = T(1e-8 / (radius * radius)), power = T(0.5 / n);
    const double log2_e = 1.4426950408889634074;
    scale = T(-log2_e * fmax(1.9992 * n - 0.3271, 1e-5));
    if (scale < -Simd<T>::high) scale = T(NAN);  // the centre would overflow
  }

  // `bad` becomes NaN where the brightness is not a number.
  INLINE_MEMBER Vec<T> brightness(Vec<T> x, Vec<T> y, Vec<T>& bad) const {
    const Vec<T> dx = x - cx, dy = y - cy;
    const Vec<T> u = a * dx + b * dy, v = b * dx + d * dy;
    Vec<T> squared = u * u + v * v;
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
