// The C interface: picks the widest instruction set that the CPU runs, or the one asked for.
#include <string.h>

#include "kernel.h"

namespace {

using lenspipe::Functions;

struct Problem {
  const Functions* functions;
  void* state;
};

const Functions* find(const char* name) {
#if LENSPIPE_X86
  if (!strcmp(name, "avx512")) {
    const bool runs = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("fma");
    return runs ? &lenspipe::avx512 : nullptr;
  }
  if (!strcmp(name, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &lenspipe::avx2 : nullptr;
#endif
  return strcmp(name, "portable") ? nullptr : &lenspipe::portable;
}

}  // namespace

extern "C" {

// Whether the Python side was written for this library.
int lenspipe_speaks(int abi, long spec_bytes) { return abi == lenspipe::kAbi && spec_bytes == long(sizeof(lenspipe::Spec)); }

int lenspipe_supports(const char* name) { return find(name) != nullptr; }

void* lenspipe_create(const char* name, const lenspipe::Spec* spec) {
  const Functions* functions = find(name);
  return functions ? new Problem{functions, functions->create(spec)} : nullptr;
}

void lenspipe_destroy(void* problem) {
  Problem* p = (Problem*)problem;
  p->functions->destroy(p->state);
  delete p;
}

void lenspipe_log_likelihood(void* problem, const double* vectors, long n, int non_negative, double* value,
                             double* negative) {
  Problem* p = (Problem*)problem;
  p->functions->log_likelihood(p->state, vectors, n, non_negative, value, negative);
}

void lenspipe_residuals(void* problem, const double* vectors, long n, int non_negative, void* out) {
  Problem* p = (Problem*)problem;
  p->functions->residuals(p->state, vectors, n, non_negative, out);
}
}
