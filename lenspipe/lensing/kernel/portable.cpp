// The baseline of the target: SSE2 on x86-64, NEON on aarch64.
#define LENSPIPE_BYTES 16
#define LENSPIPE_SET portable
#include "evaluate.h"
#include "render.h"
