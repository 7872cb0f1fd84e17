"""The files of a generated folder, as text: everything but the constants and the layers is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgeq.emit.c_bank import Bank, wrapped
from edgeq.emit.c_layers import Layer, comment
from edgeq.ir import ops as o
from edgeq.ir.graph import Type


@dataclass(frozen=True)
class Port:
    """An input or output: its name in the model, its name in C, where its codes lie, and what they mean.

    A real input is quantized by the caller, ties as `ties` says.
    """

    name: str
    symbol: str
    type: Type
    offset: int
    is_real: bool
    ties: o.Ties

    @property
    def memory(self) -> str:
        """The shape as memory holds it."""
        shape = self.type.shape
        if len(shape) == 4:
            return f"[{shape[2]}][{shape[3]}][{shape[1]}], as height, width, channel"
        return "".join(f"[{size}]" for size in shape) or "[1]"

    def document(self) -> dict[str, object]:
        """As plain JSON values, for the manifest."""
        return {
            "name": self.name,
            "symbol": self.symbol,
            "shape": list(self.type.shape),
            "offset": self.offset,
            "bytes": self.type.size,
            "scale": self.type.scale[0],
            "zero_point": self.type.zero_point,
            "real": self.is_real,
            "ties": self.ties,
        }


@dataclass(frozen=True)
class Golden:
    """What the self-test expects: CRC-32 of each layer's codes and of each output, for the stream that starts at `seed`."""

    seed: int
    layers: tuple[int, ...]
    outputs: tuple[int, ...]
    first_codes: tuple[int, ...]


@dataclass(frozen=True)
class Source:
    """All that the text of one model needs. `extents` are (offset, bytes) of each layer's result."""

    prefix: str
    title: str
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    layers: Sequence[Layer]
    extents: Sequence[tuple[int, int]]
    bank: Bank
    golden: Golden
    arena_bytes: int
    lower_bound: int
    plain_bytes: int
    macs: int
    target: str
    profile: str
    headers: Sequence[str] = field(default_factory=tuple)

    @property
    def ports(self) -> list[tuple[str, Port]]:
        """Every port with its direction."""
        return [("input", p) for p in self.inputs] + [("output", p) for p in self.outputs]


def model_header(s: Source) -> str:
    """<prefix>_model.h: what a caller needs."""
    guard = f"{s.prefix.upper()}_MODEL_H"
    accessors = "\n".join(_accessor(s, direction, port) for direction, port in s.ports)
    return f"""/* {s.title}: integers only, one arena, no allocation.
 *
 * Fill the input, call {s.prefix}_run, read the output before the next run: inputs and outputs share the arena's memory.
 * An activation is a code of 8 bits: real = scale * (code - zero point).
 */
#ifndef {guard}
#define {guard}

#include "edgeq.h"

/* Exact: the memory plan needs no more and no less. */
#define {s.prefix.upper()}_ARENA_BYTES {s.arena_bytes}

typedef union {{
    int8_t bytes[{s.prefix.upper()}_ARENA_BYTES];
    uint32_t aligned[{s.prefix.upper()}_ARENA_BYTES / 4];
}} {s.prefix}_arena;

EDGEQ_STATIC_ASSERT({s.prefix}_arena, sizeof({s.prefix}_arena) == {s.prefix.upper()}_ARENA_BYTES);

{accessors}
void {s.prefix}_run({s.prefix}_arena *arena);

#endif
"""


def _accessor(s: Source, direction: str, port: Port) -> str:
    upper = f"{s.prefix}_{port.symbol}".upper()
    constant = "" if direction == "input" else "const "
    return f"""/* {direction.capitalize()} "{comment(port.name)}": codes {port.memory}. */
#define {upper}_BYTES {port.type.size}
#define {upper}_SCALE {float(port.type.scale[0])!r}
#define {upper}_ZERO_POINT ({port.type.zero_point})
EDGEQ_STATIC_ASSERT({s.prefix}_{port.symbol}, {port.offset} + {upper}_BYTES <= {s.prefix.upper()}_ARENA_BYTES);

EDGEQ_INLINE {constant}int8_t *{s.prefix}_{port.symbol}({constant}{s.prefix}_arena *arena)
{{
    return arena->bytes + {port.offset};
}}
"""


def model_source(s: Source) -> str:
    """<prefix>_model.c: the layers and the function that runs them."""
    includes = "".join(f'#include "{header}"\n' for header in s.headers if header != "edgeq.h")
    descriptors = "\n".join(_descriptor(n, layer) for n, layer in enumerate(s.layers, start=1))
    calls = "\n".join(_calls(n, layer, s.extents[n - 1]) for n, layer in enumerate(s.layers, start=1))
    rounding = "#define EDGEQ_GEMMLOWP /* rounding rule: see edgeq.h */\n\n" if s.profile == "gemmlowp2" else ""
    return f"""/* {s.title}: the layers, in the order in which they run. Generated; the kernels are in edgeq_*.h. */
{rounding}#include "{s.prefix}_model.h"
#include "{s.prefix}_weights.h"
{includes}
/* A hook after each layer, for tests and profiles: its number (from 1), its codes and how many they are. */
#ifndef EDGEQ_LAYER_DONE
#define EDGEQ_LAYER_DONE(number, codes, count)
#endif

{descriptors}
void {s.prefix}_run({s.prefix}_arena *memory)
{{
    int8_t *const arena = memory->bytes;
{calls}
}}
"""


def _descriptor(number: int, layer: Layer) -> str:
    work = f", {layer.macs:,} multiplications" if layer.macs else ""
    title = f"/* {number}: {comment(layer.value)} ({layer.note}{work}) */\n"
    return f"{title}{layer.descriptor}" if layer.descriptor else title


def _calls(number: int, layer: Layer, extent: tuple[int, int]) -> str:
    lines = "".join(f"    {call};\n" for call in layer.calls)
    return f"{lines}    EDGEQ_LAYER_DONE({number}, arena + {extent[0]}, {extent[1]});"


def weights_header(s: Source) -> str:
    """<prefix>_weights.h."""
    guard = f"{s.prefix.upper()}_WEIGHTS_H"
    return f"""/* {s.title}: constants, {s.bank.size:,} bytes. */
#ifndef {guard}
#define {guard}

#include "edgeq.h"

{s.bank.declarations()}
#endif
"""


def weights_source(s: Source) -> str:
    """<prefix>_weights.c."""
    return f"""/* {s.title}: constants, {s.bank.size:,} bytes. Generated. */
#include "{s.prefix}_weights.h"

{s.bank.definitions()}"""


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
static const int8_t golden_first_codes[] = {{
{wrapped([str(code) for code in g.first_codes])}}};

#endif
"""


def self_test(s: Source) -> str:
    """selftest.c: a program that checks the constants, every layer and the outputs."""
    fills = "".join(f"    x = fill({s.prefix}_{p.symbol}(&arena), {p.type.size}, x);\n" for p in s.inputs)
    checks = "".join(
        f'    failed |= differs("{p.symbol}", 0, '
        f"crc32(0, {s.prefix}_{p.symbol}(&arena), {p.type.size}), golden_outputs[{k}]);\n"
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

int8_t *input = {p}_{s.inputs[0].symbol}(&arena);
/* fill {s.inputs[0].type.size} codes {s.inputs[0].memory} */
{p}_run(&arena);
const int8_t *output = {p}_{s.outputs[0].symbol}(&arena);
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

Code and stack depend on the compiler: `make size`, or `edgeq bench` for a simulated board.

## Files

`{p}_model.h` is the interface, `{p}_model.c` the layers, `{p}_weights.c` the constants, `edgeq_*.h` the kernels (one
operator each, in plain C), `{p}_golden.h` and `selftest.c` the self-test. Rounding: `{s.profile}`.

## Layers

| | value | layer | multiplications | bytes of the result |
|---|---|---|---|---|
{layers}"""
