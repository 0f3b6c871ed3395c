// The C interface of render.h.
#include "render_job.h"

#include <string.h>

using lenspipe::RenderJob;

extern "C" {

// The size of the job, for the Python side to compare.
long lenspipe_render_speaks() { return long(sizeof(RenderJob)); }

// `name`: an instruction set that lenspipe_supports says the CPU runs.
void lenspipe_render(const char* name, const RenderJob* job) {
#if LENSPIPE_X86
  if (!strcmp(name, "avx512")) return lenspipe::render_avx512(job);
  if (!strcmp(name, "avx2")) return lenspipe::render_avx2(job);
#endif
  lenspipe::render_portable(job);
}
}
