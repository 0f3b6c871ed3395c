// Convolution with the PSF, register-blocked. Images are rows of `stride` values, a whole number of SIMD vectors.
#pragma once
#include "vector.h"

namespace {

// Which part of a band is needed: rows [begin, end) and, in each, vectors [first[j], last[j]).
struct Extent {
  int begin, end;
  int *first, *last;

  void of_rows(int from, int to, int& low, int& high) const {
    low = 1 << 30, high = 0;
    for (int j = from; j < to; j++) {
      if (first[j] < low) low = first[j];
      if (last[j] > high) high = last[j];
    }
  }
};

// Calls block(j, rows) over [begin, end) in blocks of N rows; the last one overlaps its predecessor, and where there
// are fewer than N rows they are done one by one.
template <int N, class Many, class One>
INLINE void in_blocks(int begin, int end, Many many, One one) {
  if (end - begin < N) {
    for (int j = begin; j < end; j++) one(j);
    return;
  }
  for (int j = begin; j < end; j += N) many(j + N <= end ? j : end - N);
}

// A Gaussian as two banded operators, edges included in their coefficients.
template <class T>
struct Gaussian {
  int width, stride;
  T* rows;            // (H, H): blurred[j] = sum_k rows[j, k] image[k]
  int *from, *to;     // (H,): where rows[j] is not zero
  T* cols;            // vector c of a blurred row = sum_i row[i] cols[offset[c] + i - left[c]]
  int *left, *right;  // (stride / lanes,)
  long* offset;
};

template <class T, int R, int C>
INLINE void vertical_block(const Gaussian<T>& g, int height, const T* image, T* out, int j, int c) {
  constexpr int L = kLanes<T>;
  Vec<T> acc[R][C] = {};
  int from = g.from[j], to = g.to[j];
  for (int r = 1; r < R; r++) {
    from = g.from[j + r] < from ? g.from[j + r] : from;
    to = g.to[j + r] > to ? g.to[j + r] : to;
  }
  const T* row = image + long(from) * g.stride + c * L;
  for (int k = from; k < to; k++, row += g.stride) {
    Vec<T> v[C];
#pragma GCC unroll 4
    for (int i = 0; i < C; i++) v[i] = load(row + i * L);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      const Vec<T> w = splat(g.rows[long(j + r) * height + k]);
#pragma GCC unroll 4
      for (int i = 0; i < C; i++) acc[r][i] += w * v[i];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int i = 0; i < C; i++) store(out + long(j + r) * g.stride + (c + i) * L, acc[r][i]);
}

template <class T, int R>
INLINE void vertical_rows(const Gaussian<T>& g, int height, const T* image, T* out, int j) {
  const int count = g.stride / kLanes<T>;
  int c = 0;
  for (; c + 3 <= count; c += 3) vertical_block<T, R, 3>(g, height, image, out, j, c);
  for (; c < count; c++) vertical_block<T, R, 1>(g, height, image, out, j, c);
}

template <class T, int R>
INLINE void horizontal_rows(const Gaussian<T>& g, const Extent& extent, const T* image, T* out, int j) {
  constexpr int L = kLanes<T>;
  int first, last;
  extent.of_rows(j, j + R, first, last);
  for (int c = first; c < last; c++) {
    Vec<T> acc[R] = {};
    const T* w = g.cols + g.offset[c];
    const long stride = g.stride;
    const T *row = image + j * stride + g.left[c], *end = image + j * stride + g.right[c];
    for (; row < end; row++, w += L) {
      const Vec<T> v = load(w);
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) acc[r] += v * splat(row[r * stride]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) store(out + long(j + r) * g.stride + c * L, acc[r]);
  }
}

template <class T>
static void blur(const Gaussian<T>& g, int height, const Extent& extent, const T* image, T* half, T* out) {
  in_blocks<4>(
      extent.begin, extent.end, [&](int j) { vertical_rows<T, 4>(g, height, image, half, j); },
      [&](int j) { vertical_rows<T, 1>(g, height, image, half, j); });
  in_blocks<8>(
      extent.begin, extent.end, [&](int j) { horizontal_rows<T, 8>(g, extent, half, out, j); },
      [&](int j) { horizontal_rows<T, 1>(g, extent, half, out, j); });
}

// A pixel kernel, already flipped, by direct summation over a frame of zeros.
template <class T>
struct Pixels {
  static constexpr int kRows = 4;
  int height, width;    // of the kernel, height >= kRows
  int top, left;        // rows and columns of zeros before the image
  int stride;           // of the frame
  const T* kernel;
};

// Adds input row `k` of the block to its output rows [LOW, HIGH).
template <class T, int C, int LOW, int HIGH>
INLINE void pixel_row(const Pixels<T>& p, const T* row, int k, Vec<T> (&acc)[Pixels<T>::kRows][C]) {
  for (int s = 0; s < p.width; s++) {
    Vec<T> v[C];
#pragma GCC unroll 4
    for (int i = 0; i < C; i++) v[i] = load_loose(row + s + i * kLanes<T>);
#pragma GCC unroll 4
    for (int r = LOW; r < HIGH; r++) {
      const Vec<T> w = splat(p.kernel[(k - r) * p.width + s]);
#pragma GCC unroll 4
      for (int i = 0; i < C; i++) acc[r][i] += w * v[i];
    }
  }
}

template <class T, int C>
static void pixel_block(const Pixels<T>& p, const T* frame, T* out, int stride, int j, int c) {
  constexpr int R = Pixels<T>::kRows;
  static_assert(R == 4, "the ramps below are written out");
  Vec<T> acc[R][C] = {};
  const T* row = frame + long(j) * p.stride + c * kLanes<T>;
  const int h = p.height;
  const auto at = [&](int k) { return row + long(k) * p.stride; };
  pixel_row<T, C, 0, 1>(p, at(0), 0, acc);
  pixel_row<T, C, 0, 2>(p, at(1), 1, acc);
  pixel_row<T, C, 0, 3>(p, at(2), 2, acc);
  for (int k = R - 1; k < h; k++) pixel_row<T, C, 0, R>(p, at(k), k, acc);
  pixel_row<T, C, 1, R>(p, at(h), h, acc);
  pixel_row<T, C, 2, R>(p, at(h + 1), h + 1, acc);
  pixel_row<T, C, 3, R>(p, at(h + 2), h + 2, acc);
  for (int r = 0; r < R; r++)
    for (int i = 0; i < C; i++) store(out + long(j + r) * stride + (c + i) * kLanes<T>, acc[r][i]);
}

// `out` has room for kRows - 1 rows after the last.
template <class T>
static void blur(const Pixels<T>& p, const Extent& extent, const T* frame, T* out, int stride) {
  constexpr int R = Pixels<T>::kRows, C = LENSPIPE_BYTES == 64 ? 4 : 2;
  for (int j = extent.begin; j < extent.end; j += R) {
    const int end = j + R < extent.end ? j + R : extent.end;
    int first, last;
    extent.of_rows(j, end, first, last);
    int c = first;
    for (; c + C <= last; c += C) pixel_block<T, C>(p, frame, out, stride, j, c);
    for (; c < last; c++) pixel_block<T, 1>(p, frame, out, stride, j, c);
  }
}

}  // namespace
