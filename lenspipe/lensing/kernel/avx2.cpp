#include "kernel.h"
#if LENSPIPE_X86
#pragma GCC target("avx2,fma")
#define LENSPIPE_BYTES 32
#define LENSPIPE_SET avx2
#include "evaluate.h"
#include "render.h"
#endif
