/* Moving codes: whatever reshapes, transposes, slices, pads, concatenates, repeats or gathers is one of these two. */
#ifndef EDGEQ_COPY_H
#define EDGEQ_COPY_H

#include "edgeq_bytes.h"

#define EDGEQ_AXES 5

/* Runs of `run` bytes over nested loops, the last one innermost. */
typedef struct {
    int32_t run;
    int32_t size[EDGEQ_AXES], from_stride[EDGEQ_AXES], to_stride[EDGEQ_AXES];
} edgeq_walk;

EDGEQ_KERNEL void edgeq_copy_walk(const edgeq_walk *w, const edgeq_code *from, edgeq_code *to)
{
    for (int32_t i0 = 0; i0 < w->size[0]; i0++) {
        for (int32_t i1 = 0; i1 < w->size[1]; i1++) {
            for (int32_t i2 = 0; i2 < w->size[2]; i2++) {
                const ptrdiff_t f = (ptrdiff_t)i0 * w->from_stride[0] + (ptrdiff_t)i1 * w->from_stride[1]
                    + (ptrdiff_t)i2 * w->from_stride[2];
                const ptrdiff_t t = (ptrdiff_t)i0 * w->to_stride[0] + (ptrdiff_t)i1 * w->to_stride[1]
                    + (ptrdiff_t)i2 * w->to_stride[2];
                const edgeq_code *f3 = from + f;
                edgeq_code *t3 = to + t;
                for (int32_t i3 = 0; i3 < w->size[3]; i3++, f3 += w->from_stride[3], t3 += w->to_stride[3]) {
                    const edgeq_code *f4 = f3;
                    edgeq_code *t4 = t3;
                    for (int32_t i4 = 0; i4 < w->size[4]; i4++, f4 += w->from_stride[4], t4 += w->to_stride[4]) {
                        edgeq_copy(t4, f4, w->run);
                    }
                }
            }
        }
    }
}

/* Runs of `run` bytes from the places that `starts` lists. */
EDGEQ_KERNEL void edgeq_copy_listed(const int32_t *starts, int32_t count, int32_t run, const edgeq_code *from, edgeq_code *to)
{
    for (int32_t i = 0; i < count; i++, to += run) {
        edgeq_copy(to, from + starts[i], run);
    }
}

EDGEQ_INLINE void edgeq_fill_stream(int16_t *to, int32_t code, int32_t n)
{
    for (int32_t i = 0; i < n; i++) {
        to[i] = (int16_t)code;
    }
}

#endif
