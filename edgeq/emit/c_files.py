"""The model's own source files, as text: its interface, its layers, its constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.emit.c_bank import Bank
from edgeq.emit.c_layer import Layer, comment
from edgeq.emit.c_needs import Need, left_out
from edgeq.ir import ops as o
from edgeq.ir.graph import Type
from edgeq.target import Instructions

HOST_FLAGS: dict[Instructions, str] = {"avx2": "-mavx2"}
"""Kernels for the processors that compilers run on themselves; those for others are cross-compiled."""


@dataclass(frozen=True)
class Port:
    """An input or output: its name in the model, its name in C, where its codes of `bits` lie, and what they mean.

    `offset` counts codes. A real input is quantized by the caller, ties as `ties` says.
    """

    name: str
    symbol: str
    type: Type
    offset: int
    bits: int
    is_real: bool
    ties: o.Ties

    @property
    def bytes(self) -> int:
        """Bytes of its codes."""
        return self.type.size * self.bits // 8

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
            "offset": self.offset * self.bits // 8,
            "bytes": self.bytes,
            "bits": self.bits,
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
class Levels:
    """Tables of levels of more than a byte, by name; of `step` products of them with codes the sum fits in 32 bits."""

    names: tuple[str, ...]
    step: int

    @property
    def text(self) -> str:
        """What edgeq_levels.h wants to be defined."""
        listed = ", ".join(self.names)
        return f"""#define EDGEQ_LEVEL_STEP {self.step} /* products that 32 bits hold the sum of */
#define EDGEQ_TABLES edgeq_tables
static const int32_t *const edgeq_tables[] = {{{listed}}};
"""


@dataclass(frozen=True)
class Source:
    """All that the text of one model needs. `levels` names the table of packed weights, if they have one; `wide` has those of more than a byte; `wide_records` says that records of channels are whole; `sums` are definitions for edgeq_terms.h. `extents` are (offset, size) of each layer's result, in codes.

    `pixels` are the table of each input channel and the channel of an RGB pixel that it maps (or nothing).
    """

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
    code_bits: int
    macs: int
    target: str
    profile: str
    headers: Sequence[str]
    pixels: Sequence[tuple[str, int]]
    levels: str
    wide: Levels | None
    wide_records: bool
    sums: str
    instructions: Instructions

    @property
    def code(self) -> str:
        """The type of a code in C."""
        return f"int{self.code_bits}_t"

    @property
    def flags(self) -> str:
        """What the compiler of this machine must be told to use the kernels' instructions."""
        return HOST_FLAGS.get(self.instructions, "")

    @property
    def codes_member(self) -> str:
        """The member of the arena's union that holds codes."""
        return "bytes" if self.code_bits == 8 else "codes"

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
 * An activation is a code of {s.code_bits} bits: real = scale * (code - zero point).
 */
#ifndef {guard}
#define {guard}

#include "edgeq.h"

/* Exact: the memory plan needs no more and no less. */
#define {s.prefix.upper()}_ARENA_BYTES {s.arena_bytes}

typedef union {{
    int8_t bytes[{s.prefix.upper()}_ARENA_BYTES];
{_codes_member(s)}    uint32_t aligned[{s.prefix.upper()}_ARENA_BYTES / 4];
}} {s.prefix}_arena;

EDGEQ_STATIC_ASSERT({s.prefix}_arena, sizeof({s.prefix}_arena) == {s.prefix.upper()}_ARENA_BYTES);

{accessors}
void {s.prefix}_run({s.prefix}_arena *arena);
{_pixels_declaration(s)}
#endif
"""


def _codes_member(s: Source) -> str:
    return "" if s.code_bits == 8 else f"    int16_t codes[{s.prefix.upper()}_ARENA_BYTES / 2];\n"


def _pixels_declaration(s: Source) -> str:
    if not s.pixels:
        return ""
    height, width = s.inputs[0].type.shape[2:]
    return f"""
/* Fill the input from RGB pixels [{height}][{width}][3], already of this size: what preprocessing does to values is in tables. */
void {s.prefix}_input_from_rgb({s.prefix}_arena *arena, const uint8_t *rgb);
"""


def _pixels_definition(s: Source) -> str:
    if not s.pixels:
        return ""
    height, width = s.inputs[0].type.shape[2:]
    lines = "".join(f"        to[{c}] = {table}[rgb[{channel}]];\n" for c, (table, channel) in enumerate(s.pixels))
    return f"""
void {s.prefix}_input_from_rgb({s.prefix}_arena *arena, const uint8_t *rgb)
{{
    {s.code} *to = {s.prefix}_input(arena);
    for (int32_t i = 0; i < {height * width}; i++, rgb += 3, to += 3) {{
{lines}    }}
}}
"""


def _accessor(s: Source, direction: str, port: Port) -> str:
    upper = f"{s.prefix}_{port.symbol}".upper()
    constant = "" if direction == "input" else "const "
    return f"""/* {direction.capitalize()} "{comment(port.name)}": codes {port.memory}. */
#define {upper}_BYTES {port.bytes}
#define {upper}_SCALE {float(port.type.scale[0])!r}
#define {upper}_ZERO_POINT ({port.type.zero_point})
EDGEQ_STATIC_ASSERT({s.prefix}_{port.symbol}, {port.offset * port.bits // 8} + {upper}_BYTES <= {s.prefix.upper()}_ARENA_BYTES);

EDGEQ_INLINE {constant}{s.code} *{s.prefix}_{port.symbol}({constant}{s.prefix}_arena *arena)
{{
    return arena->{s.codes_member} + {port.offset};
}}
"""


def model_source(s: Source) -> str:
    """<prefix>_model.c: the layers and the function that runs them."""
    includes = "".join(f'#include "{header}"\n' for header in s.headers if header != "edgeq.h")
    descriptors = "\n".join(_descriptor(n, layer) for n, layer in enumerate(s.layers, start=1))
    calls = "\n".join(_calls(n, layer, s.extents[n - 1], s.code_bits) for n, layer in enumerate(s.layers, start=1))
    needs = frozenset[Need]().union(*(layer.needs for layer in s.layers))
    work = sum(layer.spare for layer in s.layers), sum(layer.macs for layer in s.layers)
    choice = left_out(needs, *work, s.instructions)
    choice += "#define EDGEQ_GEMMLOWP /* rounding rule: see edgeq.h */\n\n" if s.profile == "gemmlowp2" else ""
    choice += "#define EDGEQ_CODE_BITS 16\n\n" if s.code_bits > 8 else ""
    choice += s.sums
    if s.wide_records:
        choice += "#define EDGEQ_WIDE_RECORDS /* some numbers of channels are large: see edgeq.h */\n\n"
    levels = f"#define EDGEQ_LEVELS {s.levels} /* of weights of 4 bits, by code */\n" if s.levels else ""
    levels += s.wide.text if s.wide else ""
    return f"""/* {s.title}: the layers, in the order in which they run. Generated; the kernels are in edgeq_*.h. */
{choice}#include "{s.prefix}_model.h"
#include "{s.prefix}_weights.h"
{levels}{includes}
/* A hook after each layer, for tests and profiles: its number (from 1), its codes' first byte and how many bytes they are. */
#ifndef EDGEQ_LAYER_DONE
#define EDGEQ_LAYER_DONE(number, codes, count)
#endif

{descriptors}
void {s.prefix}_run({s.prefix}_arena *memory)
{{
    {s.code} *const arena = memory->{s.codes_member};
{calls}
}}
{_pixels_definition(s)}"""


def _descriptor(number: int, layer: Layer) -> str:
    work = f", {layer.macs:,} multiplications" if layer.macs else ""
    title = f"/* {number}: {comment(layer.value)} ({layer.note}{work}) */\n"
    return f"{title}{layer.descriptor}" if layer.descriptor else title


def _calls(number: int, layer: Layer, extent: tuple[int, int], bits: int) -> str:
    lines = "".join(f"    {call};\n" for call in layer.calls)
    if bits > 8:
        at, size = extent[0], extent[1] * bits // 8
        return f"{lines}    EDGEQ_LAYER_DONE({number}, (const int8_t *)(arena + {at}), {size});"
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
