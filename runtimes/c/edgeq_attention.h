/* Attention, row by row, so that no matrix of scores is ever stored: of each query the scores as 8-bit codes, their shares
 * (edgeq_softmax.h) as 16-bit codes, and the values weighed by them.
 *
 * q [heads][queries][depth], k [heads][depth][keys], v [heads][keys][width], out [heads][queries][width]. Scratch memory,
 * for one head, n being `keys` rounded up to four: 32-bit corrections [n], shares [n], codes of scores [n], keys in blocks
 * of four [n / 4][4 depth], values in blocks of four columns [width / 4, rounded up][4 keys], depth and keys
 * rounded up to 16 at most.
 */
#ifndef EDGEQ_ATTENTION_H
#define EDGEQ_ATTENTION_H

#include "edgeq_columns.h"
#include "edgeq_softmax.h"

typedef struct {
    edgeq_channel scores; /* from sums to codes of scores */
    edgeq_output scores_output;
    const uint16_t *exponentials; /* [256], by the difference of two codes */
    edgeq_channel channel;        /* from weighed values to codes */
    edgeq_output output;
    const int8_t *table; /* one entry per code, from -128 on; or null */
    int32_t heads, queries, keys, depth, width;
    int32_t q_zero, k_zero, v_zero;
} edgeq_attention_layer;

typedef struct {
    int32_t *corrections;
    int16_t *shares;
    int8_t *codes, *keys, *values;
} edgeq_attention_memory;

EDGEQ_INLINE edgeq_attention_memory edgeq_attention_memory_at(const edgeq_attention_layer *l, int8_t *scratch)
{
    const ptrdiff_t n = (l->keys + 3) & ~3;
    edgeq_attention_memory m;
    m.corrections = (int32_t *)(void *)scratch;
    m.shares = (int16_t *)(void *)(scratch + 4 * n);
    m.codes = scratch + 6 * n;
    m.keys = scratch + 7 * n;
    m.values = m.keys + n * edgeq_column_bytes(l->depth);
    return m;
}

/* Keys and values of one head as weights; the corrections take the zero point of q out. */
EDGEQ_INLINE void edgeq_attention_gather(
    const edgeq_attention_layer *l, const int8_t *k, const int8_t *v, const edgeq_attention_memory *m)
{
    int8_t *to = m->keys;
    for (int32_t n = 0; n < l->keys; n += EDGEQ_COLUMNS, to += EDGEQ_COLUMNS * edgeq_column_bytes(l->depth)) {
        const int32_t count = l->keys - n < EDGEQ_COLUMNS ? l->keys - n : EDGEQ_COLUMNS;
        edgeq_gather_columns(to, EDGEQ_FOUR_DEPTH, k + n, l->keys, count, l->depth, m->corrections + n);
        for (int32_t j = 0; j < EDGEQ_COLUMNS; j++) {
            m->corrections[n + j] = l->q_zero * (l->depth * l->k_zero - m->corrections[n + j]);
        }
    }
    to = m->values;
    for (int32_t n = 0; n < l->width; n += EDGEQ_COLUMNS, to += EDGEQ_COLUMNS * edgeq_wide_bytes(l->keys)) {
        const int32_t count = l->width - n < EDGEQ_COLUMNS ? l->width - n : EDGEQ_COLUMNS;
        int32_t totals[EDGEQ_COLUMNS];
        edgeq_gather_columns(to, EDGEQ_WIDE_DEPTH, v + n, l->width, count, l->keys, totals);
    }
}

/* Codes of the scores of one query; the largest of them. Stores of codes cannot change copies of channel and output. */
EDGEQ_APART EDGEQ_KERNEL int32_t edgeq_attention_scores(
    const edgeq_attention_layer *l, const int8_t *q, const edgeq_attention_memory *m)
{
    const edgeq_channel channel = l->scores;
    const edgeq_output output = l->scores_output;
    const int32_t correction = l->k_zero ? l->k_zero * edgeq_total(q, l->depth) : 0;
    const int8_t *w = m->keys;
    int32_t largest = -128;
    for (int32_t n = 0; n < l->keys; n += EDGEQ_COLUMNS, w += EDGEQ_COLUMNS * edgeq_column_bytes(l->depth)) {
        const int32_t count = l->keys - n < EDGEQ_COLUMNS ? l->keys - n : EDGEQ_COLUMNS;
        int32_t sum[EDGEQ_COLUMNS];
        for (int32_t j = 0; j < EDGEQ_COLUMNS; j++) {
            sum[j] = m->corrections[n + j] - correction;
        }
        edgeq_four(q, w, l->depth, sum);
        for (int32_t j = 0; j < count; j++) {
            const int32_t code = edgeq_requantize(sum[j], &channel, &output);
            m->codes[n + j] = (int8_t)code;
            largest = code > largest ? code : largest;
        }
    }
    return largest;
}

/* Shares of the scores; their sum. */
EDGEQ_APART EDGEQ_KERNEL int32_t edgeq_attention_shares(
    const edgeq_attention_layer *l, int32_t largest, const edgeq_attention_memory *m)
{
    const uint32_t total = edgeq_total_of(l->exponentials, m->codes, l->keys, 1, largest);
    int32_t sum = 0;
    for (int32_t n = 0; n < l->keys; n++) {
        const int32_t share = edgeq_share(l->exponentials[largest - m->codes[n]], total);
        m->shares[n] = (int16_t)share;
        sum += share;
    }
    return sum;
}

EDGEQ_APART EDGEQ_KERNEL void edgeq_attention_values(
    const edgeq_attention_layer *l, int32_t total, const edgeq_attention_memory *m, int8_t *out)
{
    const edgeq_channel channel = l->channel;
    const edgeq_output output = l->output;
    const int8_t *w = m->values;
    for (int32_t n = 0; n < l->width; n += EDGEQ_COLUMNS, w += EDGEQ_COLUMNS * edgeq_wide_bytes(l->keys)) {
        const int32_t count = l->width - n < EDGEQ_COLUMNS ? l->width - n : EDGEQ_COLUMNS;
        const int32_t bias = -l->v_zero * total;
        int32_t sum[EDGEQ_COLUMNS] = {bias, bias, bias, bias};
        edgeq_four_wide(m->shares, w, l->keys, sum);
        for (int32_t j = 0; j < count; j++) {
            const int32_t code = edgeq_requantize(sum[j], &channel, &output);
            out[n + j] = (int8_t)(l->table ? l->table[code + 128] : code);
        }
    }
}

EDGEQ_KERNEL void edgeq_attention(const edgeq_attention_layer *l, const int8_t *q, const int8_t *k, const int8_t *v,
    int8_t *out, int8_t *scratch)
{
    const edgeq_attention_memory memory = edgeq_attention_memory_at(l, scratch);
    for (int32_t head = 0; head < l->heads; head++) {
        edgeq_attention_gather(l, k, v, &memory);
        for (int32_t i = 0; i < l->queries; i++, q += l->depth, out += l->width) {
            const int32_t largest = edgeq_attention_scores(l, q, &memory);
            edgeq_attention_values(l, edgeq_attention_shares(l, largest, &memory), &memory, out);
        }
        k += (ptrdiff_t)l->depth * l->keys;
        v += (ptrdiff_t)l->keys * l->width;
    }
}

#endif
