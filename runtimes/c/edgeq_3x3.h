/* A 3x3 window over one channel, its nine weights in registers, in portable C. */
#ifndef EDGEQ_3X3_H
#define EDGEQ_3X3_H

#include "edgeq_plane.h"

/* The nine weights of a 3x3 window. */
typedef struct {
    int32_t a, b, c, d, e, f, g, h, i;
} edgeq_3x3;

/* Four neighbouring outputs of stride 1 share their input columns. */
EDGEQ_INLINE void edgeq_four_3x3(const edgeq_plane *r, const edgeq_3x3 *w, const edgeq_code *p, edgeq_code *out)
{
    const edgeq_code *const q = p + r->width, *const s = q + r->width;
    int32_t s0 = r->channel.bias, s1 = s0, s2 = s0, s3 = s0;
    s0 += p[0] * w->a + p[1] * w->b + p[2] * w->c, s1 += p[1] * w->a + p[2] * w->b + p[3] * w->c;
    s2 += p[2] * w->a + p[3] * w->b + p[4] * w->c, s3 += p[3] * w->a + p[4] * w->b + p[5] * w->c;
    EDGEQ_IN_ORDER;
    s0 += q[0] * w->d + q[1] * w->e + q[2] * w->f, s1 += q[1] * w->d + q[2] * w->e + q[3] * w->f;
    s2 += q[2] * w->d + q[3] * w->e + q[4] * w->f, s3 += q[3] * w->d + q[4] * w->e + q[5] * w->f;
    EDGEQ_IN_ORDER;
    s0 += s[0] * w->g + s[1] * w->h + s[2] * w->i, s1 += s[1] * w->g + s[2] * w->h + s[3] * w->i;
    s2 += s[2] * w->g + s[3] * w->h + s[4] * w->i, s3 += s[3] * w->g + s[4] * w->h + s[5] * w->i;
    edgeq_store_code(r, s0, out);
    edgeq_store_code(r, s1, out + r->step);
    edgeq_store_code(r, s2, out + 2 * (ptrdiff_t)r->step);
    edgeq_store_code(r, s3, out + 3 * (ptrdiff_t)r->step);
}

EDGEQ_INLINE void edgeq_one_3x3(const edgeq_plane *r, const edgeq_3x3 *w, const edgeq_code *p, edgeq_code *out)
{
    const edgeq_code *const q = p + r->width, *const s = q + r->width;
    int32_t sum = r->channel.bias + p[0] * w->a + p[1] * w->b + p[2] * w->c;
    sum += q[0] * w->d + q[1] * w->e + q[2] * w->f;
    sum += s[0] * w->g + s[1] * w->h + s[2] * w->i;
    edgeq_store_code(r, sum, out);
}

/* All outputs of one channel; p is its plane, n its weights. */
EDGEQ_INLINE void edgeq_plane_3x3(const edgeq_plane *r, const int8_t *n, const edgeq_code *p, edgeq_code *out)
{
    const edgeq_3x3 w = {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]};
    const int32_t stride = r->stride_w;
    const ptrdiff_t step = r->step, down = (ptrdiff_t)r->stride_h * r->width;
    for (int32_t y = r->rows; y > 0; y--, p += down) {
        const edgeq_code *at = p;
        int32_t x = r->columns;
        if (stride == 1) {
            for (; x >= 4; x -= 4, at += 4, out += 4 * step) {
                edgeq_four_3x3(r, &w, at, out);
            }
        }
        for (; x > 0; x--, at += stride, out += step) {
            edgeq_one_3x3(r, &w, at, out);
        }
    }
}

#endif
