/* memcpy, memset and memmove for programs without a C library; compilers call them. Words where both ends allow it. */
#include <stddef.h>
#include <stdint.h>

typedef uint32_t __attribute__((may_alias)) any_word;

void *memcpy(void *restrict to, const void *restrict from, size_t n)
{
    char *t = to;
    const char *f = from;
    if ((((uintptr_t)t | (uintptr_t)f) & 3u) == 0) {
        for (; n >= 4; n -= 4, t += 4, f += 4) {
            *(any_word *)t = *(const any_word *)f;
        }
    }
    for (; n > 0; n--) {
        *t++ = *f++;
    }
    return to;
}

void *memset(void *to, int value, size_t n)
{
    char *t = to;
    const uint32_t byte = (uint8_t)value;
    if (((uintptr_t)t & 3u) == 0) {
        for (; n >= 4; n -= 4, t += 4) {
            *(any_word *)t = byte * UINT32_C(0x01010101);
        }
    }
    for (; n > 0; n--) {
        *t++ = (char)byte;
    }
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    char *t = to;
    const char *f = from;
    if (t <= f) {
        return memcpy(to, from, n);
    }
    while (n > 0) {
        n--;
        t[n] = f[n];
    }
    return to;
}
