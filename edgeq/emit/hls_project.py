"""What makes a design a project: the test bench and what it expects, build files, the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeq.emit.c_bank import wrapped
from edgeq.emit.c_layer import comment
from edgeq.emit.hls_boards import FpgaBoard
from edgeq.emit.hls_cost import Cost, fifo_blocks, total
from edgeq.emit.hls_files import LEAST_DEPTH, word
from edgeq.emit.hls_golden import SEED, Golden
from edgeq.emit.hls_stage import Design, HlsPort


def golden_header(d: Design, g: Golden) -> str:
    """<prefix>_golden.h: what the test bench expects."""
    guard = f"{d.prefix.upper()}_GOLDEN_H"
    names = "".join(f'    "{_text(value)}",\n' for value in d.made) or '    "",\n'
    return f"""/* {d.title}: what the test bench expects, computed by the reference. CRC-32 as zlib's, of little-endian 64-bit words. */
#ifndef {guard}
#define {guard}

/* Codes of all inputs are bits 24..31 of x = 1664525 x + 1013904223, starting after this x. */
static const unsigned GOLDEN_SEED = {SEED}u;
static const int GOLDEN_LAYERS = {len(g.layers)};

static const char *const golden_names[] = {{
{names}}};

static const unsigned golden_layers[] = {{
{wrapped([f"{crc}u" for crc in g.layers] or ["0u"])}}};

static const unsigned golden_outputs[] = {{
{wrapped([f"{crc}u" for crc in g.outputs])}}};

/* The first codes of the first output, to compare by eye. */
static const int golden_first_codes[] = {{
{wrapped([str(code) for code in g.first_codes])}}};

#endif
"""


def _text(value: str) -> str:
    return comment(value).replace('"', "'")


def test_bench(d: Design) -> str:
    """<prefix>_tb.cpp: one frame against the reference; on the host also every value, and the streams' depths."""
    ports = (*d.inputs, *d.outputs)
    declared = "".join(f'    hls::stream<{word(p)} > {p.symbol}("{p.symbol}");\n' for p in ports)
    fills = "".join(_fill(d, p) for p in d.inputs)
    checks = "".join(_check(d, k, p) for k, p in enumerate(d.outputs))
    arguments = ", ".join(p.symbol for p in ports)
    return f"""/* Test bench: the outputs of one frame against the reference. With EDGEQ_HOST also every value in between, of which the
 * first that differs is named, and then the same frame with streams as deep as they are declared. Exit status 0 if all is equal.
 */
#include "{d.prefix}.h"
#include "{d.prefix}_golden.h"
#include "edgeq_bench.h"

static bool failed;

{_LAYER_DONE}
static void frame()
{{
    unsigned x = GOLDEN_SEED;
{declared}{fills}    {d.prefix}({arguments});
#ifdef EDGEQ_HOST
    if (edgeq_bench::is_stuck()) {{
        failed = true;
        return;
    }}
#endif
{checks}}}

{_MAIN}"""


_LAYER_DONE = """#ifdef EDGEQ_HOST
static void layer_done(int number, const long long *tokens, size_t count)
{
    if (!failed && edgeq_bench::crc32(tokens, count) != golden_layers[number - 1]) {
        std::printf("the first value that differs: %s (%d of %d)\\n", golden_names[number - 1], number, GOLDEN_LAYERS);
        failed = true;
    }
}
#endif
"""

_MAIN = """int main()
{
#ifdef EDGEQ_HOST
    edgeq_host::watching() = layer_done;
#endif
    frame();
#ifdef EDGEQ_HOST
    edgeq_host::scheduler().bounded = true;
    frame();
    failed |= edgeq_bench::has_left();
#endif
    std::printf("%s: %d values\\n", failed ? "FAILED" : "passed", GOLDEN_LAYERS);
    return failed;
}
"""


def _fill(d: Design, port: HlsPort) -> str:
    stream = d.entering[port.value]
    spare, code = max(8 - stream.bits, 0), "code < 128 ? code : code - 256" if stream.is_signed else "code"
    return f"""    for (int k = 0; k < {stream.count}; k++) {{
        {word(port)} token;
        const int code = (int)edgeq_bench::next(x);
        token.data = ({code}) >> {spare};
        token.last = k == {stream.count - 1};
        {port.symbol}.write(token);
    }}
"""


def _check(d: Design, number: int, port: HlsPort) -> str:
    count = d.leaving[port.value].count
    return f"""    {{
        static long long codes[{count}];
        for (int k = 0; k < {count}; k++) {{
            codes[k] = {port.symbol}.read().data.to_int();
        }}
        if (edgeq_bench::crc32(codes, {count}) != golden_outputs[{number}]) {{
            std::printf("{port.symbol} differs; its first code is %d\\n", (int)codes[0]);
            failed = true;
        }}
    }}
"""


def script(d: Design, board: FpgaBoard) -> str:
    """build.tcl: C simulation, synthesis, co-simulation and export in Vitis HLS."""
    p = d.prefix
    return f"""# vitis-run --mode hls --tcl build.tcl   (or vitis_hls -f build.tcl before 2024.2)
# Arguments of `steps`: csim csynth cosim export.
set steps {{csim csynth export}}
if {{[info exists ::env(EDGEQ_STEPS)]}} {{
    set steps $::env(EDGEQ_STEPS)
}}
open_project -reset {p}_hls
set_top {p}
add_files {p}.cpp
add_files -tb {p}_tb.cpp
add_files -tb {p}_golden.h
add_files -tb edgeq_bench.h
open_solution -reset solution -flow_target vivado
set_part {board.part}
create_clock -period {1000 / board.clock_mhz:g} -name default
# What waits for input must not hold back what was computed.
config_compile -pipeline_style flp
if {{[lsearch $steps csim] >= 0}} {{
    csim_design
}}
if {{[lsearch $steps csynth] >= 0}} {{
    csynth_design
}}
if {{[lsearch $steps cosim] >= 0}} {{
    cosim_design
}}
if {{[lsearch $steps export] >= 0}} {{
    export_design -format ip_catalog
}}
exit
"""


def makefile(d: Design) -> str:
    """Makefile: the test bench on this machine."""
    p = d.prefix
    return f"""# make test     build the test bench with the host's compiler and run it
CXX ?= g++
CXXFLAGS ?= -O1
FLAGS = -std=c++14 -Wall -Wno-unknown-pragmas -Wno-unused-label -DEDGEQ_HOST -Ihost -I.

{p}_tb: {p}_tb.cpp {p}.cpp $(wildcard *.h host/*.h)
\t$(CXX) $(FLAGS) $(CXXFLAGS) -o $@ {p}_tb.cpp {p}.cpp

test: {p}_tb
\t./{p}_tb

clean:
\trm -f {p}_tb

.PHONY: test clean
"""


def readme(d: Design, depths: Mapping[str, int], board: FpgaBoard, costs: Sequence[Cost]) -> str:
    """README.md: how to test and build the design, what it takes, what every stage is."""
    whole = total(costs)
    milliseconds = whole.cycles / board.clock_mhz / 1000
    return f"""# {d.title}

A dataflow design of integers in C++ for Vitis HLS: one function per operator, joined by streams. Written by edgeq, which
computed what it must give.

```
make test                                # here, with any C++ compiler: every value, and the depths of the streams
vitis-run --mode hls --tcl build.tcl     # C simulation, synthesis and export for {board.part}
EDGEQ_STEPS="csim csynth cosim" vitis-run --mode hls --tcl build.tcl
```

`host/` stands in for the vendor's headers in `make test` alone; the build script does not see it.

## Ports

One code is one word of an AXI stream; a code `q` stands for `scale * q`. Images flow row by row, pixel by pixel, channel by
channel. The last word of a frame has TLAST.

| | port | codes | scale |
|---|---|---|---|
{_port_rows(d)}
## Estimate for {board.name} at {board.clock_mhz} MHz

A frame every {whole.cycles:,} cycles ({milliseconds:.3g} ms). From formulas, not from synthesis.

| | estimated | {board.name} | share |
|---|---|---|---|
{_resource_rows(whole, board)}
## Streams

{_streams(d, depths, whole)}
## Stages

`PE x SIMD`: output channels at once, and inputs of each.

| function | value | PE x SIMD | cycles | LUT | DSP | BRAM |
|---|---|---|---|---|---|---|
{"".join(map(_stage_row, costs))}"""


def _port_rows(d: Design) -> str:
    return "".join(
        f"| {kind} `{port.name}` | `{port.symbol}` | {'x'.join(str(port.shape[a]) for a in port.axes)} | {port.scale:.6g} |\n"
        for kind, found in (("input", d.inputs), ("output", d.outputs))
        for port in found
    )


def _resource_rows(whole: Cost, board: FpgaBoard) -> str:
    names = {"LUT": "lut", "FF": "ff", "DSP": "dsp", "BRAM (18 Kibit)": "bram18"}
    return "".join(
        f"| {name} | {count:,} | {held:,} | {count / held:.0%} |\n"
        for name, field in names.items()
        for count, held in [(getattr(whole, field), getattr(board, field))]
    )


def _streams(d: Design, depths: Mapping[str, int], whole: Cost) -> str:
    """The deep streams, which make up most of the memory of networks with long branches."""
    deep = [stream for stream in d.streams if depths[stream.name] > LEAST_DEPTH]
    blocks = {stream.name: fifo_blocks(stream, depths) for stream in deep}
    rows = "".join(f"| `{s.name}` | {s.bits} | {depths[s.name]:,} | {blocks[s.name]} |\n" for s in deep)
    return f"""Streams hold two tokens but these, which hold what a branch must keep while another one is computed: {sum(blocks.values())} of
the design's {whole.bram18} block RAMs. One token less and the frame gets stuck, which `make test` would show.

| stream | bits | depth | BRAM |
|---|---|---|---|
{rows}"""


def _stage_row(c: Cost) -> str:
    fold = f"{c.fold.pe} x {c.fold.simd}" if c.fold else ""
    return f"| `{c.name}` | `{_text(c.value)}` | {fold} | {c.cycles:,} | {c.lut:,} | {c.dsp} | {c.bram18} |\n"
