"""The text of a design: configuration and function of each stage, its constants, and the top function."""

from __future__ import annotations

from collections.abc import Mapping

from edgeq.emit.c_bank import wrapped
from edgeq.emit.c_layer import comment
from edgeq.emit.hls_stage import Design, HlsPort, Stage, Stream, Table

LUT_TABLE_BITS = 4096
"""Tables of fewer bits stay out of block RAM, where each would take a block of 18 Kibit."""

SMALL_BITS = 1024
"""Other memories of up to so many bits are made of LUTs."""

LEAST_DEPTH = 2
"""Tokens that every stream holds."""

Depths = Mapping[str, int]


def header(d: Design) -> str:
    """<prefix>.h: the interface."""
    guard = f"{d.prefix.upper()}_H"
    ports = "".join(_port_note(kind, port) for kind, port in _ports(d))
    return f"""/* {d.title}: a dataflow design of integers, one frame a call.
 *
{ports} * One code is one word; the last word of a frame has `last` set. real = scale * code.
 */
#ifndef {guard}
#define {guard}

#include "edgeq_stage.h"

void {d.prefix}({_parameters(d)});

#endif
"""


def _ports(d: Design) -> list[tuple[str, HlsPort]]:
    return [("input", port) for port in d.inputs] + [("output", port) for port in d.outputs]


def _port_note(kind: str, port: HlsPort) -> str:
    order = "[height][width][channel]" if len(port.shape) == 4 else "row by row"
    size = "x".join(str(port.shape[axis]) for axis in port.axes)
    return f' * {kind} "{comment(port.name)}": `{port.symbol}`, {size} codes {order}, scale {port.scale!r}\n'


def word(port: HlsPort) -> str:
    """The type of a word of a port's AXI stream."""
    return f"ap_axis<{port.bits}, 0, 0, 0>"


def _parameters(d: Design) -> str:
    return ", ".join(f"hls::stream<{word(port)} > &{port.symbol}" for _, port in _ports(d))


def tables(d: Design, *, is_sketch: bool = False) -> str:
    """<prefix>_tables.h: weights and all other constants; in a sketch weights are 0, as what flows does not depend on them."""
    guard = f"{d.prefix.upper()}_TABLES_H"
    found = "\n".join(
        _table(table, stage, "" if is_sketch and table.content.ndim == 2 and stage.work.macs else _body(table))
        for stage in d.stages
        for table in stage.tables
    )
    return f"""/* {d.title}: constants. */
#ifndef {guard}
#define {guard}

{_includes(d)}
{found}
#endif
"""


def _body(table: Table) -> str:
    if table.content.ndim == 1:
        return wrapped([str(entry) for entry in table.content.tolist()])
    return "".join(f"    {{{', '.join(map(str, row))}}},\n" for row in table.content.tolist())


def _table(table: Table, stage: Stage, body: str) -> str:
    sizes = "".join(
        f"[{size}]"
        for size in (table.content.shape if table.type != "edgeq::interpolation" else table.content.shape[:1])
    )
    return f"/* of {comment(stage.value)} */\nstatic const {table.type} {table.name}{sizes} = {{\n{body}}};\n"


def _includes(d: Design) -> str:
    names = dict.fromkeys(["edgeq_port.h", "edgeq_products.h", *(stage.header for stage in d.stages)])
    return "".join(f'#include "{name}"\n' for name in sorted(names))


def source(d: Design, depths: Depths) -> str:
    """<prefix>.cpp: all stages and the top function."""
    functions = "\n".join(_function(stage) for stage in d.stages)
    return f"""/* {d.title}: the stages, in the order in which data flows. Generated; the functions are in edgeq_*.h. */
#include "{d.prefix}.h"
{_includes(d)}#include "{d.prefix}_tables.h"

{d.prelude}
{functions}
{_top(d, depths)}"""


def _function(stage: Stage) -> str:
    parameters = ", ".join(_reference(stream) for stream in (*stage.reads, *stage.writes))
    config, template = _config(stage), stage.template or f"{stage.name}_config"
    storage = "".join(
        f"#pragma HLS bind_storage variable={t.name} type=rom_1p impl={_storage(t)}\n" for t in stage.tables
    )
    return f"""/* {stage.kind}: {comment(stage.value)} */
{config}static void {stage.name}({parameters})
{{
#pragma HLS inline off
{storage}    edgeq::{stage.function}<{template}>({", ".join(stage.arguments)});
}}
"""


def is_in_blocks(table: Table) -> bool:
    """Whether a table lies in block RAM."""
    return table.content.size * table.bits > LUT_TABLE_BITS


def _storage(table: Table) -> str:
    return "bram" if is_in_blocks(table) else "lutram"


def _reference(stream: Stream) -> str:
    return f"hls::stream<{stream.type} > &{stream.name}"


def _config(stage: Stage) -> str:
    if stage.template:
        return ""
    lines = "".join(
        f"    typedef {value} {name};\n"
        if isinstance(value, str)
        else f"    static const int {name} = {_number(value)};\n"
        for name, value in stage.config.items()
    )
    return f"struct {stage.name}_config {{\n{lines}}};\n"


def _number(value: int) -> str:
    return str(value) if value > -(1 << 31) else f"({value + 1} - 1)"


def _top(d: Design, depths: Depths) -> str:
    interfaces = "".join(f"#pragma HLS interface mode=axis port={port.symbol}\n" for _, port in _ports(d))
    streams = "".join(_declared(stream, depths) for stream in d.streams)
    enters = "".join(
        _call(
            port.symbol, f"edgeq::enter<{d.entering[port.value].count}>({port.symbol}, {d.entering[port.value].name})"
        )
        for port in d.inputs
    )
    leaves = "".join(
        _call(port.symbol, f"edgeq::leave<{d.leaving[port.value].count}>({d.leaving[port.value].name}, {port.symbol})")
        for port in d.outputs
    )
    ends = _ends(d)
    numbers = {after: (number, stream) for number, (after, stream) in enumerate(d.made.values(), start=1)}
    calls = ""
    for k, stage in enumerate(d.stages, start=1):
        calls += _call(stage.name, f"{stage.name}({', '.join(s.name for s in (*stage.reads, *stage.writes))})")
        if k in numbers:
            calls += f"    EDGEQ_DONE({numbers[k][0]}, {numbers[k][1].name});\n"
    return f"""void {d.prefix}({_parameters(d)})
{{
{interfaces}#pragma HLS interface mode=s_axilite port=return
#pragma HLS dataflow
{streams}{ends}{enters}{calls}{leaves}    EDGEQ_RUN();
}}
"""


def depth_of(stream: Stream, depths: Depths) -> int:
    """Tokens that a stream holds."""
    return depths.get(stream.name, LEAST_DEPTH)


def in_blocks(stream: Stream, depth: int) -> bool:
    """Whether a stream of `depth` lies in block RAM."""
    return depth * stream.bits > SMALL_BITS


def _declared(stream: Stream, depths: Depths) -> str:
    """A stream; a deep one is told to lie in block RAM, as tools would make some of shift registers."""
    depth = depth_of(stream, depths)
    place = f"#pragma HLS bind_storage variable={stream.name} type=fifo impl=bram\n"
    return (
        f'    hls::stream<{stream.type}, {depth}> {stream.name}("{stream.name}");\n'
        f"#pragma HLS stream variable={stream.name} depth={depth}\n{place if in_blocks(stream, depth) else ''}"
    )


def _ends(d: Design) -> str:
    """Which functions write and read each stream, and its tokens in a frame, for the search of cycles on the host."""
    writers = {stream.name: stage.name for stage in d.stages for stream in stage.writes}
    readers = {stream.name: stage.name for stage in d.stages for stream in stage.reads}
    writers |= {d.entering[port.value].name: port.symbol for port in d.inputs}
    readers |= {d.leaving[port.value].name: port.symbol for port in d.outputs}
    return "".join(
        f'    EDGEQ_ENDS({s.name}, "{writers[s.name]}", "{readers[s.name]}", {s.count});\n' for s in d.streams
    )


def _call(name: str, call: str) -> str:
    return f'    EDGEQ_STAGE("{name}", {call});\n'


def host(d: Design) -> str:
    """host/<prefix>_host.cpp: the design as a function of arrays, for programs of this machine."""
    fills = "".join(
        f"    for (size_t k = 0; k < {d.entering[p.value].count}; k++) {{\n        {word(p)} word;\n"
        f"        word.data = inputs[{n}][k];\n        word.last = k + 1 == {d.entering[p.value].count};\n"
        f"        {p.symbol}.write(word);\n    }}\n"
        for n, p in enumerate(d.inputs)
    )
    reads = "".join(
        f"    for (size_t k = 0; k < {d.leaving[p.value].count}; k++) {{\n"
        f"        outputs[{n}][k] = {p.symbol}.read().data.to_int();\n    }}\n"
        for n, p in enumerate(d.outputs)
    )
    declared = "".join(f'    hls::stream<{word(p)} > {p.symbol}("{p.symbol}");\n' for _, p in _ports(d))
    arguments = ", ".join(p.symbol for _, p in _ports(d))
    return f"""/* {d.title}: one frame from arrays to arrays. mode 0: plain; 1: streams as deep as they are declared; 2: as deep as it
 * takes. Gives 1 if the frame got stuck; `tell` gets the cycle of waits, or a line for each stream: name, depth, most tokens
 * at once, tokens left.
 */
#include "../{d.prefix}.h"

extern "C" int edgeq_frame(const short *const *inputs, short *const *outputs, edgeq_host::watcher watch, int mode,
                           void (*tell)(const char *line))
{{
    edgeq_host::run_scheduler &scheduler = edgeq_host::scheduler();
    scheduler.bounded = mode > 0;
    scheduler.growing = mode == 2;
    scheduler.stuck = false;
    edgeq_host::watching() = watch;
{declared}{fills}    {d.prefix}({arguments});
    if (tell) {{
        for (const edgeq_host::filling &f : edgeq_host::fillings()) {{
            const std::string numbers = std::to_string(f.depth) + " " + std::to_string(f.peak) + " " + std::to_string(f.left);
            tell((f.name + " " + numbers).c_str());
        }}
    }}
    if (scheduler.stuck) {{
        if (tell) {{
            tell(scheduler.cycle.c_str());
        }}
        return 1;
    }}
{reads}    return 0;
}}
"""
