// SIMD vectors of one register and the elementary functions the profiles need, by minimax polynomials.
// Nothing relies on -ffast-math: NaN in, NaN out is part of the contract.
#pragma once
#include <stdint.h>
#include <string.h>

#include "kernel.h"
#if LENSPIPE_X86
#include <immintrin.h>
#if LENSPIPE_BYTES == 64
#define INTRINSIC(name) _mm512_##name
#elif LENSPIPE_BYTES == 32
#define INTRINSIC(name) _mm256_##name
#else
#define INTRINSIC(name) _mm_##name
#endif
#endif

#define INLINE_MEMBER inline __attribute__((always_inline))
#define INLINE static INLINE_MEMBER

namespace {

template <class T>
struct Simd;
template <>
struct Simd<double> {
  typedef double V __attribute__((vector_size(LENSPIPE_BYTES)));
  typedef double Loose __attribute__((vector_size(LENSPIPE_BYTES), aligned(8), may_alias));
  typedef int64_t I __attribute__((vector_size(LENSPIPE_BYTES)));
  typedef uint64_t U __attribute__((vector_size(LENSPIPE_BYTES)));
  static constexpr int mantissa = 52;
  static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double low = -500, high = 1000;     // exponents of 2; the square of 2^low is still normal
};
template <>
struct Simd<float> {
  typedef float V __attribute__((vector_size(LENSPIPE_BYTES)));
  typedef float Loose __attribute__((vector_size(LENSPIPE_BYTES), aligned(4), may_alias));
  typedef int32_t I __attribute__((vector_size(LENSPIPE_BYTES)));
  typedef uint32_t U __attribute__((vector_size(LENSPIPE_BYTES)));
  static constexpr int mantissa = 23;
  static constexpr float round = 12582912.0f;  // 1.5 * 2^23
  static constexpr float low = -62, high = 120;
};

template <class T>
using Vec = typename Simd<T>::V;
template <class T>
constexpr int kLanes = LENSPIPE_BYTES / int(sizeof(T));

template <class T>
INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}
template <class T>
INLINE Vec<T> load(const T* p) {
  return *(const Vec<T>*)p;
}
template <class T>
INLINE Vec<T> load_loose(const T* p) {
  return *(const typename Simd<T>::Loose*)p;
}
template <class T>
INLINE void store(T* p, Vec<T> v) {
  *(Vec<T>*)p = v;
}
// A NaN in x stays. One instruction each on x86, which the compiler does not find in the comparison.
template <class T>
INLINE Vec<T> at_least(Vec<T> x, Vec<T> bound) {
#if LENSPIPE_X86
  if constexpr (sizeof(T) == 4) return INTRINSIC(max_ps)(bound, x);
  else return INTRINSIC(max_pd)(bound, x);
#else
  return bound > x ? bound : x;
#endif
}
template <class T>
INLINE Vec<T> at_most(Vec<T> x, Vec<T> bound) {
#if LENSPIPE_X86
  if constexpr (sizeof(T) == 4) return INTRINSIC(min_ps)(bound, x);
  else return INTRINSIC(min_pd)(bound, x);
#else
  return bound < x ? bound : x;
#endif
}
template <class T>
INLINE Vec<T> absolute(Vec<T> x) {
  typedef typename Simd<T>::U U;
  return (Vec<T>)((U)x & (~U{} >> 1));
}
template <class T>
INLINE Vec<T> root(Vec<T> x) {
  Vec<T> r;
  for (int i = 0; i < kLanes<T>; i++) r[i] = sizeof(T) == 8 ? T(__builtin_sqrt(x[i])) : T(__builtin_sqrtf(x[i]));
  return r;
}
template <class T>
INLINE double sum(Vec<T> v) {
  double s = 0;
  for (int i = 0; i < kLanes<T>; i++) s += double(v[i]);
  return s;
}

template <class T, int N>
INLINE Vec<T> polynomial(Vec<T> x, const T (&c)[N]) {
  Vec<T> p = splat<T>(c[N - 1]);
#pragma GCC unroll 16
  for (int i = N - 2; i >= 0; i--) p = p * x + splat<T>(c[i]);
  return p;
}

// Minimax coefficients; the error of each is below the rounding of its type.
template <class T>
struct Coefficients;
template <>
struct Coefficients<double> {
  static constexpr double exp2[] = {1.0,
                                    0.69314718055994998286,
                                    0.2402265069591009822,
                                    0.055504108664447719166,
                                    0.0096181291076068885273,
                                    0.0013333558230164973899,
                                    0.00015403530441736050155,
                                    0.000015252657260200837064,
                                    1.3215442587921689653e-6,
                                    1.0208690299958305835e-7,
                                    7.0725859492692236999e-9};
  static constexpr double log2[] = {2.8853900817779267713,  0.96179669392611283965, 0.57707801628452941197,
                                    0.41219859710749039546, 0.32059754666991589658, 0.26237881889842571919,
                                    0.21992001244600672623, 0.22239138311950121647};
  static constexpr double atan[] = {0.99999999999999996532, -0.33333333333328438572, 0.19999999998855110134,
                                    -0.1428571418097646683, 0.1111110618045594522,   -0.090907730748084137897,
                                    0.076899534963068577563, -0.066402339304294085887, 0.056883492268090104794,
                                    -0.043480522157164624777, 0.021135373157693245206};
};
template <>
struct Coefficients<float> {
  static constexpr float exp2[] = {1.0f,          0.693147207f,   0.240226509f,  0.0555032723f,
                                   0.00961805668f, 0.00134004282f, 0.00015461444f};
  static constexpr float log2[] = {2.88539007f, 0.961802383f, 0.576379649f, 0.439400114f};
  static constexpr float atan[] = {0.999999981f, -0.333327858f, 0.199740824f, -0.138484902f, 0.0797629181f};
};

// 2^x for x in [low, high]; beyond, anything.
template <class T>
INLINE Vec<T> power_of_two(Vec<T> x) {
  typedef typename Simd<T>::U U;
  const Vec<T> shifted = x + splat<T>(Simd<T>::round);
  const Vec<T> r = x - (shifted - splat<T>(Simd<T>::round));
  const Vec<T> p = polynomial<T>(r, Coefficients<T>::exp2);
  return (Vec<T>)((U)p + ((U)shifted << Simd<T>::mantissa));
}

// log2(a / b) of positive a, b with one division: b is scaled by the power of two that makes a / b nearly 1, then
// the series of atanh((a - b) / (a + b)).
template <class T>
INLINE Vec<T> log2_ratio(Vec<T> a, Vec<T> b) {
  typedef typename Simd<T>::U U;
  typedef typename Simd<T>::I I;
  constexpr int m = Simd<T>::mantissa;
  const U one = U{} + 1;
  const U distance = (U)a - (U)b + (one << (m - 1));
  const U exponent = distance & (~U{} << m);
  Vec<T> e;
  if constexpr (sizeof(T) == 4 || LENSPIPE_BYTES == 64) {
    e = __builtin_convertvector((I)distance >> m, Vec<T>);
  } else {
    // No conversion of 64-bit integers before AVX-512: by way of the bits of 2^52.
    const U positive = (distance + (one << 63)) >> m;
    e = (Vec<T>)(positive | (U)splat<T>(T(4503599627370496.0))) - splat<T>(T(4503599627370496.0 + 2048));
  }
  b = (Vec<T>)((U)b + exponent);
  const Vec<T> s = (a - b) / (a + b);
  return s * polynomial<T>(s * s, Coefficients<T>::log2) + e;
}

// atan(a / b), b > 0, with one division: the ratio is folded into [0, 1] and turned by pi / 8.
template <class T>
INLINE Vec<T> atan_ratio(Vec<T> a, Vec<T> b) {
  typedef typename Simd<T>::U U;
  const T tan_eighth = T(0.41421356237309504880), eighth = T(0.39269908169872415481);
  const U sign = (U)a & (((U{} + 1) << (8 * sizeof(T) - 1)));
  const Vec<T> size = absolute<T>(a);
  const auto steep = size > b;
  const Vec<T> low = steep ? b : size, high = steep ? size : b;
  const Vec<T> t = (low - tan_eighth * high) / (high + tan_eighth * low);
  Vec<T> angle = t * polynomial<T>(t * t, Coefficients<T>::atan) + splat<T>(eighth);
  angle = steep ? T(4) * splat<T>(eighth) - angle : angle;
  return (Vec<T>)((U)angle ^ sign);
}

}  // namespace
