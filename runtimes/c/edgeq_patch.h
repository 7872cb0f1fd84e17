/* Columns of a convolution: the codes of a patch as they are. Another set of kernels may hold them wider (`wide`). */
#ifndef EDGEQ_PATCH_H
#define EDGEQ_PATCH_H

#include "edgeq_bytes.h"

#define EDGEQ_WIDE_COLUMNS 0

/* What a column of k codes takes, in codes. */
EDGEQ_INLINE int32_t edgeq_column_size(int32_t k)
{
    return k;
}

/* The next n codes of a column; where the column goes on. */
EDGEQ_INLINE edgeq_code *edgeq_put(edgeq_code *to, const edgeq_code *from, int32_t n, int32_t wide)
{
    (void)wide;
    edgeq_copy(to, from, n);
    return to + n;
}

/* The same with n times the code of padding. */
EDGEQ_INLINE edgeq_code *edgeq_pad(edgeq_code *to, int32_t code, int32_t n, int32_t wide)
{
    (void)wide;
    edgeq_fill(to, code, n);
    return to + n;
}

#if defined(EDGEQ_TOTAL_H)
EDGEQ_INLINE int32_t edgeq_column_total(const edgeq_code *x, int32_t k)
{
    return edgeq_total(x, k);
}
#endif

#endif
