/* Depthwise convolution: out[p][c] = requantize(bias[c] + sum_k weight[c][k] x[patch of p][c]).
 *
 * One channel at a time is gathered into a plane with its padding, so that its weights stay in registers and the output
 * may lie exactly over the input. With `multiplier` m, output channel c reads input channel c / m.
 */
#ifndef EDGEQ_DEPTHWISE_H
#define EDGEQ_DEPTHWISE_H

#include "edgeq.h"

typedef struct {
    const int8_t *weights; /* [out_c][kernel_h][kernel_w] */
    const edgeq_channel *channels;
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t in_h, in_w, in_c;
    int32_t out_h, out_w, out_c, multiplier;
    int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h, dilation_w;
    int32_t plane_h, plane_w; /* what the windows cover, padding included */
    int32_t zero;             /* input code of a padded element */
} edgeq_depthwise_layer;

/* What stays in registers while one channel is computed. Copies, since a store of codes might change the originals for
 * all that a compiler knows. */
typedef struct {
    edgeq_channel channel;
    edgeq_output output;
    const int8_t *table;
    int32_t plane_w, out_w, step;
} edgeq_depthwise_row;

EDGEQ_INLINE void edgeq_store_code(const edgeq_depthwise_row *r, int32_t sum, int8_t *out)
{
    const int32_t code = edgeq_requantize(sum, &r->channel, &r->output);
    *out = (int8_t)(r->table ? r->table[code + 128] : code);
}

/* The part of channel x that the windows cover, into the plane whose padding is already there. */
EDGEQ_INLINE void edgeq_gather_plane(const edgeq_depthwise_layer *l, const int8_t *x, int8_t *plane)
{
    const int32_t bottom = l->plane_h - l->pad_top, right = l->plane_w - l->pad_left;
    const int32_t rows = bottom < l->in_h ? bottom : l->in_h, columns = right < l->in_w ? right : l->in_w;
    const ptrdiff_t step = l->in_c, skip = (ptrdiff_t)l->in_w * step, width = l->plane_w;
    plane += l->pad_top * width + l->pad_left;
    for (int32_t y = 0; y < rows; y++, x += skip, plane += width) {
        const int8_t *from = x;
        int8_t *to = plane, *const end = plane + columns;
        for (; end - to >= 4; to += 4, from += 4 * step) {
            to[0] = from[0], to[1] = from[step], to[2] = from[2 * step], to[3] = from[3 * step];
        }
        for (; to < end; to++, from += step) {
            *to = *from;
        }
    }
}

/* The nine weights of a 3x3 window. */
typedef struct {
    int32_t a, b, c, d, e, f, g, h, i;
} edgeq_3x3;

/* Four neighbouring outputs of stride 1 share their input columns. */
EDGEQ_INLINE void edgeq_four_3x3(const edgeq_depthwise_row *r, const edgeq_3x3 *w, const int8_t *p, int8_t *out)
{
    const int8_t *const q = p + r->plane_w, *const s = q + r->plane_w;
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

EDGEQ_INLINE void edgeq_one_3x3(const edgeq_depthwise_row *r, const edgeq_3x3 *w, const int8_t *p, int8_t *out)
{
    const int8_t *const q = p + r->plane_w, *const s = q + r->plane_w;
    int32_t sum = r->channel.bias + p[0] * w->a + p[1] * w->b + p[2] * w->c;
    sum += q[0] * w->d + q[1] * w->e + q[2] * w->f;
    sum += s[0] * w->g + s[1] * w->h + s[2] * w->i;
    edgeq_store_code(r, sum, out);
}

EDGEQ_INLINE void edgeq_plane_3x3(
    const edgeq_depthwise_row *r, const edgeq_depthwise_layer *l, const int8_t *weights, const int8_t *p, int8_t *out)
{
    const int8_t *const n = weights;
    const edgeq_3x3 w = {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]};
    const int32_t stride = l->stride_w, width = r->out_w;
    const ptrdiff_t step = r->step, down = (ptrdiff_t)l->stride_h * r->plane_w;
    for (int32_t y = l->out_h; y > 0; y--, p += down) {
        const int8_t *at = p;
        int32_t x = width;
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

EDGEQ_INLINE void edgeq_plane_any(
    const edgeq_depthwise_row *r, const edgeq_depthwise_layer *l, const int8_t *w, const int8_t *p, int8_t *out)
{
    for (int32_t y = 0; y < l->out_h; y++) {
        for (int32_t x = 0; x < l->out_w; x++, out += l->out_c) {
            const int8_t *row = p + (ptrdiff_t)y * l->stride_h * l->plane_w + (ptrdiff_t)x * l->stride_w, *tap = w;
            int32_t sum = r->channel.bias;
            for (int32_t ky = 0; ky < l->kernel_h; ky++, row += (ptrdiff_t)l->dilation_h * l->plane_w) {
                for (int32_t kx = 0; kx < l->kernel_w; kx++) {
                    sum += row[kx * l->dilation_w] * *tap++;
                }
            }
            edgeq_store_code(r, sum, out);
        }
    }
}

/* scratch: plane_h plane_w bytes. */
static void edgeq_depthwise(const edgeq_depthwise_layer *l, const int8_t *x, int8_t *out, int8_t *scratch)
{
    const int32_t taps = l->kernel_h * l->kernel_w;
    const int32_t is_3x3 = l->kernel_h == 3 && l->kernel_w == 3 && l->dilation_h == 1 && l->dilation_w == 1;
    edgeq_fill(scratch, l->zero, l->plane_h * l->plane_w);
    for (int32_t c = 0; c < l->out_c; c++) {
        const edgeq_depthwise_row row = {l->channels[c], l->output, l->table, l->plane_w, l->out_w, l->out_c};
        const int8_t *const w = l->weights + (ptrdiff_t)c * taps;
        if (c % l->multiplier == 0) {
            edgeq_gather_plane(l, x + c / l->multiplier, scratch);
        }
        if (is_3x3) {
            edgeq_plane_3x3(&row, l, w, scratch, out + c);
        } else {
            edgeq_plane_any(&row, l, w, scratch, out + c);
        }
    }
}

#endif
