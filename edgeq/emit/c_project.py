"""What makes a model's sources a project: the self-test and what it expects, build files, the README."""

from __future__ import annotations

from edgeq.emit.c_bank import wrapped
from edgeq.emit.c_files import Source


def golden_header(s: Source) -> str:
    """<prefix>_golden.h: what the self-test expects."""
    guard, g = f"{s.prefix.upper()}_GOLDEN_H", s.golden
    parts = [f"    {{{e.name}, sizeof {e.name}}},\n" for e in s.bank.entries]
    return f"""/* {s.title}: what the self-test expects, computed by the reference. CRC-32 as zlib's, of little-endian memory. */
#ifndef {guard}
#define {guard}

#include "{s.prefix}_weights.h"

/* All inputs, one after another, are bytes 24..31 of x = 1664525 x + 1013904223, starting after this x. */
#define GOLDEN_SEED UINT32_C({g.seed})
#define GOLDEN_WEIGHTS UINT32_C({s.bank.crc32()})
#define GOLDEN_LAYERS {len(g.layers)}

static const struct {{
    const void *begin;
    size_t size;
}} golden_parts[] = {{
{"".join(parts) or "    {NULL, 0},"}}};

static const uint32_t golden_layers[] = {{
{wrapped([f"UINT32_C({crc})" for crc in g.layers])}}};

static const uint32_t golden_outputs[] = {{
{wrapped([f"UINT32_C({crc})" for crc in g.outputs])}}};

/* The first codes of the first output, to compare by eye. */
static const {s.code} golden_first_codes[] = {{
{wrapped([str(code) for code in g.first_codes])}}};

#endif
"""


def self_test(s: Source) -> str:
    """selftest.c: a program that checks the constants, every layer and the outputs."""
    bytes_of = "" if s.code_bits == 8 else "(int8_t *)"
    fills = "".join(f"    x = fill({bytes_of}{s.prefix}_{p.symbol}(&arena), {p.bytes}, x);\n" for p in s.inputs)
    checks = "".join(
        f'    failed |= differs("{p.symbol}", 0, '
        f"crc32(0, {s.prefix}_{p.symbol}(&arena), {p.bytes}), golden_outputs[{k}]);\n"
        for k, p in enumerate(s.outputs)
    )
    return f"""/* Self-test: constants, every layer and the outputs against the reference. Exit status 0 if all are equal. */
#include <stdint.h>
#include <stdio.h>

static void layer_done(int number, const int8_t *codes, int32_t count);
#define EDGEQ_LAYER_DONE(number, codes, count) layer_done(number, codes, count)

#include "{s.prefix}_model.c"
#include "{s.prefix}_golden.h"

static {s.prefix}_arena arena;
static int failed;

static uint32_t crc32(uint32_t crc, const void *begin, size_t size)
{{
    const uint8_t *byte = begin;
    for (crc = ~crc; size > 0; size--, byte++) {{
        crc ^= *byte;
        for (int bit = 0; bit < 8; bit++) {{
            crc = (crc >> 1) ^ ((crc & 1u) ? UINT32_C(0xEDB88320) : 0u);
        }}
    }}
    return ~crc;
}}

static int differs(const char *what, int number, uint32_t found, uint32_t wanted)
{{
    if (found != wanted) {{
        printf("%s %d: %08lx, not %08lx\\n", what, number, (unsigned long)found, (unsigned long)wanted);
    }}
    return found != wanted;
}}

static void layer_done(int number, const int8_t *codes, int32_t count)
{{
    if (!failed) {{ /* what comes after the first difference says nothing */
        failed = differs("layer", number, crc32(0, codes, (size_t)count), golden_layers[number - 1]);
    }}
}}

static uint32_t fill(int8_t *codes, int32_t count, uint32_t x)
{{
    for (int32_t i = 0; i < count; i++) {{
        x = x * UINT32_C(1664525) + UINT32_C(1013904223);
        codes[i] = (int8_t)(x >> 24 < 128 ? (int32_t)(x >> 24) : (int32_t)(x >> 24) - 256);
    }}
    return x;
}}

int main(void)
{{
    uint32_t crc = 0, x = GOLDEN_SEED;
    for (size_t i = 0; i < sizeof golden_parts / sizeof golden_parts[0]; i++) {{
        crc = crc32(crc, golden_parts[i].begin, golden_parts[i].size);
    }}
    failed = differs("weights", 0, crc, GOLDEN_WEIGHTS);
{fills}    (void)x;
    {s.prefix}_run(&arena);
{checks}    printf("%s: %d layers, arena %ld bytes\\n", failed ? "FAILED" : "passed", GOLDEN_LAYERS, (long)sizeof arena);
    return failed;
}}
"""


def _filling(s: Source) -> str:
    if s.pixels:
        return f"{s.prefix}_input_from_rgb(&arena, pixels); /* uint8 RGB of the input's size */\n"
    port = s.inputs[0]
    return f"{s.code} *input = {s.prefix}_{port.symbol}(&arena);\n/* fill {port.type.size} codes {port.memory} */\n"


def makefile(s: Source) -> str:
    """Makefile: the library, the self-test and its size."""
    return f"""# make          the library lib{s.prefix}.a
# make test     build and run the self-test
# make size     flash and RAM
# Cross: make CC=arm-none-eabi-gcc CFLAGS="-O2 -mcpu=cortex-m4 -mthumb"
CFLAGS ?= -O2
WARNINGS = -std=c99 -Wall -Wextra -Wpedantic -Wconversion
AR ?= ar
SIZE ?= size
HEADERS = $(wildcard *.h)

lib{s.prefix}.a: {s.prefix}_model.o {s.prefix}_weights.o
\t$(AR) rcs $@ $^

%.o: %.c $(HEADERS)
\t$(CC) $(WARNINGS) $(CFLAGS) -c -o $@ $<

selftest: selftest.c {s.prefix}_model.c {s.prefix}_weights.o $(HEADERS)
\t$(CC) $(WARNINGS) $(CFLAGS) -o $@ selftest.c {s.prefix}_weights.o

test: selftest
\t./selftest

size: {s.prefix}_model.o {s.prefix}_weights.o
\t$(SIZE) $^

clean:
\trm -f *.o *.a selftest

.PHONY: test size clean
"""


def cmake_lists(s: Source) -> str:
    """CMakeLists.txt."""
    return f"""cmake_minimum_required(VERSION 3.13)
project({s.prefix} C)

add_library({s.prefix} STATIC {s.prefix}_model.c {s.prefix}_weights.c)
target_include_directories({s.prefix} PUBLIC ${{CMAKE_CURRENT_SOURCE_DIR}})
set_target_properties({s.prefix} PROPERTIES C_STANDARD 99 C_STANDARD_REQUIRED ON)

enable_testing()
add_executable(selftest EXCLUDE_FROM_ALL selftest.c {s.prefix}_weights.c)
set_target_properties(selftest PROPERTIES C_STANDARD 99)
add_test(NAME selftest COMMAND selftest)
"""


def readme(s: Source) -> str:
    """README.md: how to build, test and call the model, and what it needs."""
    p = s.prefix
    rows = "".join(
        f"| {direction} `{port.name}` | `{p}_{port.symbol}` | `{port.memory}` | {port.type.scale[0]:.6g} |"
        f" {port.type.zero_point} |\n"
        for direction, port in s.ports
    )
    layers = "".join(
        f"| {n} | `{layer.value}` | {layer.note} | {layer.macs:,} | {extent[1]:,} |\n"
        for n, (layer, extent) in enumerate(zip(s.layers, s.extents, strict=True), start=1)
    )
    return f"""# {s.title}

Integer-only C99 for {s.target}: no floating point, no allocation, no recursion, no library. Written by
edgeq, which computed what it must give.

```
make test    # builds the self-test and runs it: constants, every layer and the outputs against the reference
make         # lib{p}.a
make size    # flash and RAM with your compiler
```

## Call it

```c
#include "{p}_model.h"

static {p}_arena arena;

{_filling(s)}{p}_run(&arena);
const {s.code} *output = {p}_{s.outputs[0].symbol}(&arena);
```

Inputs and outputs lie in the arena, and a run overwrites its input. A code `q` stands for `scale * (q - zero point)`:

| | function | memory | scale | zero point |
|---|---|---|---|---|
{rows}
## What it needs

| | bytes |
|---|---|
| constants (flash) | {s.bank.size:,} |
| arena (RAM), exact | {s.arena_bytes:,} |
| lower bound of any memory plan that runs these layers in this order | {s.lower_bound:,} |
| a plan that never lets a result overlap an operand would need | {s.plain_bytes:,} |

`plan.svg` shows where each value lies and when. Code and stack depend on the compiler: `make size`, or `edgeq bench` for a simulated board.

## Files

`{p}_model.h` is the interface, `{p}_model.c` the layers, `{p}_weights.c` the constants, `edgeq_*.h` the kernels (one
operator each, in plain C), `{p}_golden.h` and `selftest.c` the self-test. Rounding: `{s.profile}`.
`MISRA.md` lists the deviations from MISRA C:2012 and why they stay.

## Layers

| | value | layer | multiplications | bytes of the result |
|---|---|---|---|---|
{layers}"""
