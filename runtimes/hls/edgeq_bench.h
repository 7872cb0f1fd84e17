/* What every test bench needs: codes to feed, checksums of what comes out, and on the host what became of the streams. */
#ifndef EDGEQ_BENCH_H
#define EDGEQ_BENCH_H

#include "edgeq_stage.h"
#include <cstdio>

namespace edgeq_bench {

/* As zlib's, of little-endian 64-bit words. */
inline unsigned crc32(const long long *words, size_t count)
{
    unsigned crc = ~0u;
    for (size_t k = 0; k < count; k++) {
        for (int byte = 0; byte < 8; byte++) {
            crc ^= (unsigned)(words[k] >> (8 * byte)) & 255u;
            for (int bit = 0; bit < 8; bit++) {
                crc = (crc >> 1) ^ ((crc & 1u) ? 0xEDB88320u : 0u);
            }
        }
    }
    return ~crc;
}

/* The next code of the generator whose state is `x`: 8 bits, of which an input takes the upper ones that it holds. */
inline unsigned next(unsigned &x)
{
    x = x * 1664525u + 1013904223u;
    return x >> 24;
}

#ifdef EDGEQ_HOST
/* Whether the frame got stuck, which is told. */
inline bool is_stuck()
{
    if (edgeq_host::scheduler().stuck) {
        std::printf("stuck:\n%s", edgeq_host::scheduler().cycle.c_str());
    }
    return edgeq_host::scheduler().stuck;
}

/* Whether any stream of the last frame kept a token; those that are deep are told. */
inline bool has_left()
{
    bool left = false;
    for (const edgeq_host::filling &f : edgeq_host::fillings()) {
        if (f.depth > 2 || f.left) {
            std::printf("%s: depth %zu, at most %zu tokens, %zu left\n", f.name.c_str(), f.depth, f.peak, f.left);
        }
        left |= f.left != 0;
    }
    return left;
}
#endif

} // namespace edgeq_bench

#endif
