#include "kernel.h"
#if LENSPIPE_X86
#pragma GCC target("avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")
#define LENSPIPE_BYTES 64
#define LENSPIPE_SET avx512
#include "evaluate.h"
#include "render.h"
#endif
