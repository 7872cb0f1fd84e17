"""The parts of a dataflow design: streams, constants, and stages that read streams and write one.

A stage is one call of a function of runtimes/hls. What it reads and writes, and in which order, follows from shapes
alone; `work` says what it costs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgeq.formats import Format, IntArray
from edgeq.ir import ops as o
from edgeq.ir.bounds import Interval

Config = Mapping[str, int | str]


@dataclass(frozen=True)
class Stream:
    """`count` integers of `bits` each, one a cycle."""

    name: str
    bits: int
    count: int
    is_signed: bool = True

    @property
    def type(self) -> str:
        """The C++ type of a token."""
        return f"ap_{'' if self.is_signed else 'u'}int<{self.bits}>"

    @property
    def signed_bits(self) -> int:
        """Bits of signed integers that hold the tokens."""
        return self.bits + int(not self.is_signed)


@dataclass(frozen=True)
class Table:
    """A constant array: its C++ element type, what it holds [rows, lanes] or [n], and the bits of an element."""

    name: str
    type: str
    content: IntArray
    bits: int


@dataclass(frozen=True)
class Macs:
    """A layer of multiply-accumulates: sums over `taps` products for each of `outputs` channels of `pixels` pixels.

    `inputs` are the channels that one sum runs over, of each of the window's positions. `stored` are the tokens that line
    buffers hold.
    """

    pixels: int
    outputs: int
    inputs: int
    window: int
    weight: Format
    weight_bits: int
    input_bits: int
    sum_bits: int


@dataclass(frozen=True)
class Fold:
    """`pe` output channels at once, `simd` inputs of each."""

    pe: int = 1
    simd: int = 1


@dataclass(frozen=True)
class Work:
    """What a stage costs besides its tables: cycles for one frame, buffers of (words, bits), multipliers of (bits, bits), and
    bits of adders. `macs` and `fold` belong to layers of multiply-accumulates, whose cycles and units follow from them.
    """

    cycles: int
    buffers: tuple[tuple[int, int], ...] = ()
    multipliers: tuple[tuple[int, int], ...] = ()
    adder_bits: int = 0
    macs: Macs | None = None
    fold: Fold = Fold()


@dataclass(frozen=True)
class Stage:
    """A call `function`<config, …>(arguments) named `name`, which computes `value`.

    `arguments` are streams and tables by name, in order; `reads` and `writes` are those that are streams. A `template`
    stands in the place of the configuration where there is none.
    """

    name: str
    kind: str
    value: o.Value
    header: str
    function: str
    config: Config
    reads: tuple[Stream, ...]
    writes: tuple[Stream, ...]
    arguments: tuple[str, ...]
    tables: tuple[Table, ...]
    work: Work
    template: str = ""


@dataclass(frozen=True)
class HlsPort:
    """An input or output: its `name` in the model, the `symbol` of its AXI stream, the value of codes.

    Words of the stream have `bits`, of which codes take `code_bits` and stand in `range`.
    """

    name: str
    symbol: str
    value: o.Value
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    bits: int
    code_bits: int
    scale: float
    real: bool
    ties: o.Ties
    range: tuple[int, int]


@dataclass(frozen=True)
class Design:
    """Stages in the order in which data flows.

    `entering` and `leaving` are the streams of the ports' values. `made` says after how many stages each value of the
    graph is on which stream; `alias` maps values to those whose tokens they are. `prelude` is C++ that configurations
    need (products by shifts).
    """

    prefix: str
    title: str
    inputs: tuple[HlsPort, ...]
    outputs: tuple[HlsPort, ...]
    entering: Mapping[o.Value, Stream]
    leaving: Mapping[o.Value, Stream]
    stages: tuple[Stage, ...]
    streams: tuple[Stream, ...]
    made: Mapping[o.Value, tuple[int, Stream]]
    prelude: str
    bounds: Mapping[o.Value, Interval]
    alias: Mapping[o.Value, o.Value]
    shapes: Mapping[o.Value, tuple[int, ...]]
    axes: Mapping[o.Value, tuple[int, ...]]
