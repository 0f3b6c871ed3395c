// Linear amplitudes of a few components, in double, by the rules of infer/linear.py.
#pragma once
#include <math.h>

#include "kernel.h"

namespace {

using lenspipe::kMaxLayers;
constexpr double kMaxCondition = 5 / 2.220446049250313e-16;

struct Matrix {
  double at[kMaxLayers][kMaxLayers];
};

// Eigenvalues of a symmetric matrix by Jacobi rotations: is it regular by lenstronomy's condition number?
static bool regular_by_eigenvalues(Matrix m, int n) {
  for (int sweep = 0; sweep < 30; sweep++) {
    for (int p = 0; p < n; p++)
      for (int q = p + 1; q < n; q++) {
        if (m.at[p][q] == 0) continue;
        const double theta = (m.at[q][q] - m.at[p][p]) / (2 * m.at[p][q]);
        const double t = copysign(1 / (fabs(theta) + sqrt(theta * theta + 1)), theta);
        const double c = 1 / sqrt(t * t + 1), s = t * c;
        for (int k = 0; k < n; k++) {
          const double a = m.at[k][p], b = m.at[k][q];
          m.at[k][p] = c * a - s * b, m.at[k][q] = s * a + c * b;
        }
        for (int k = 0; k < n; k++) {
          const double a = m.at[p][k], b = m.at[q][k];
          m.at[p][k] = c * a - s * b, m.at[q][k] = s * a + c * b;
        }
        m.at[p][q] = m.at[q][p] = 0;
      }
  }
  double largest = 0, smallest = HUGE_VAL;
  for (int k = 0; k < n; k++) {
    largest = fmax(largest, fabs(m.at[k][k]));
    smallest = fmin(smallest, fabs(m.at[k][k]));
  }
  return largest < kMaxCondition * smallest;
}

// amplitudes = m^-1 right, zero where m is singular by lenstronomy's rule; returns ln |det m|.
static double solve(const Matrix& m, const double* right, int n, double* amplitudes) {
  Matrix lu = m;
  double x[kMaxLayers], determinant = 1, log_determinant = 0, trace = 0;
  for (int i = 0; i < n; i++) x[i] = right[i], trace += m.at[i][i], amplitudes[i] = 0;
  for (int k = 0; k < n; k++) {
    int pivot = k;
    for (int i = k + 1; i < n; i++)
      if (fabs(lu.at[i][k]) > fabs(lu.at[pivot][k])) pivot = i;
    if (pivot != k) {
      for (int j = 0; j < n; j++) {
        const double swap = lu.at[k][j];
        lu.at[k][j] = lu.at[pivot][j], lu.at[pivot][j] = swap;
      }
      const double swap = x[k];
      x[k] = x[pivot], x[pivot] = swap, determinant = -determinant;
    }
    const double head = lu.at[k][k];
    determinant *= head;
    log_determinant += log(fabs(head));
    if (!(head != 0)) return log_determinant;
    for (int i = k + 1; i < n; i++) {
      const double factor = lu.at[i][k] / head;
      for (int j = k + 1; j < n; j++) lu.at[i][j] -= factor * lu.at[k][j];
      x[i] -= factor * x[k];
    }
  }
  // largest <= trace and smallest >= det / (trace / (n-1))^(n-1): a bound on the condition number that mostly decides.
  const double share = n > 1 ? n - 1 : 1;
  double bound = trace / determinant;
  for (int i = 1; i < n; i++) bound *= trace / share;
  const bool sure = determinant > 0 && bound < kMaxCondition;
  if (!sure && !(trace > 0 && trace < HUGE_VAL && regular_by_eigenvalues(m, n))) return log_determinant;
  for (int k = n - 1; k >= 0; k--) {
    double value = x[k];
    for (int j = k + 1; j < n; j++) value -= lu.at[k][j] * amplitudes[j];
    amplitudes[k] = value / lu.at[k][k];
  }
  return log_determinant;
}

// The first `positive` amplitudes >= 0: every subset is tried, larger ones first, and the one that explains most kept.
static void solve_non_negative(const Matrix& m, const double* right, int n, int positive, double* amplitudes) {
  double gain = 0;
  for (int i = 0; i < n; i++) amplitudes[i] = 0;
  for (int size = positive; size >= 0; size--) {
    for (unsigned subset = 0; subset < (1u << positive); subset++) {
      if (__builtin_popcount(subset) != size) continue;
      int index[kMaxLayers], count = 0;
      for (int i = 0; i < n; i++)
        if (i >= positive || (subset >> i & 1)) index[count++] = i;
      Matrix part;
      double some[kMaxLayers], trial[kMaxLayers], explained = 0;
      for (int i = 0; i < count; i++) {
        some[i] = right[index[i]];
        for (int j = 0; j < count; j++) part.at[i][j] = m.at[index[i]][index[j]];
      }
      if (count) solve(part, some, count, trial);
      bool feasible = true;
      for (int i = 0; i < count; i++) {
        explained += trial[i] * some[i];
        if (index[i] < positive && !(trial[i] >= 0)) feasible = false;
      }
      if (!feasible || !(explained > gain)) continue;
      gain = explained;
      for (int i = 0; i < n; i++) amplitudes[i] = 0;
      for (int i = 0; i < count; i++) amplitudes[index[i]] = trial[i];
    }
    if (size == positive && gain > 0) return;
  }
}

}  // namespace
