"""What a design costs on an FPGA, from formulas: LUTs, flip-flops, DSP slices, block RAMs of 18 Kibit, cycles a frame.

Multiply-accumulates follow FINN-R's shape (control, products, adder tree, accumulator for each output channel) with
units that were calibrated on synthesized ones (edgeq/emit/hls_units.py). Memories take the cheapest arrangement of
blocks, or LUTs where they are small. Flip-flops are one for each bit that a pipeline stage hands on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from edgeq.emit.hls_files import SMALL_BITS, depth_of, in_blocks, is_in_blocks
from edgeq.emit.hls_stage import Design, Fold, Macs, Stage, Stream, Table
from edgeq.emit.hls_units import adder_luts, decoder_luts, dsps_of, product_luts, slice_operand_bits
from edgeq.formats import level_range
from edgeq.ir.bounds import signed_bits

BLOCKS = ((36, 512), (18, 1024), (9, 2048), (4, 4096), (2, 8192), (1, 16384))
"""Width and depth of what one block RAM of 18 Kibit can be."""

CONTROL_LUTS, CONTROL_FFS = 60, 60
"""Counters and handshakes of one stage."""

WINDOW_LUTS = 180
"""Addresses and borders of a window."""


@dataclass(frozen=True)
class Cost:
    """One stage or the sum of many; `cycles` is how long a frame keeps the slowest one busy."""

    name: str
    kind: str
    value: str
    lut: int = 0
    ff: int = 0
    dsp: int = 0
    bram18: int = 0
    cycles: int = 0
    fold: Fold | None = None

    def document(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self)


def total(costs: Iterable[Cost]) -> Cost:
    """Sums of resources, and the cycles of the slowest: the initiation interval of the design."""
    found = list(costs)
    sums = {name: sum(getattr(cost, name) for cost in found) for name in ("lut", "ff", "dsp", "bram18")}
    return Cost("total", "design", "", **sums, cycles=max((cost.cycles for cost in found), default=0))


def design_cost(design: Design, depths: Mapping[str, int]) -> list[Cost]:
    """The cost of every stage; a stream counts with the stage that writes it."""
    return [stage_cost(stage, depths) for stage in design.stages]


def stage_cost(stage: Stage, depths: Mapping[str, int]) -> Cost:
    """The cost of one stage with its tables, buffers and the streams it writes."""
    work = stage.work
    lut, ff, dsp, blocks = CONTROL_LUTS, CONTROL_FFS, 0, 0
    for a, b in work.multipliers:
        lut, dsp = lut + 2 * adder_luts(a), dsp + dsps_of(a, b)
    lut, ff = lut + adder_luts(work.adder_bits), ff + 2 * work.adder_bits
    if work.macs is not None:
        macs_lut, macs_ff, macs_dsp = macs_cost(work.macs, work.fold)
        lut, ff, dsp = lut + macs_lut, ff + macs_ff, dsp + macs_dsp
    memories = [_table_shape(table) for table in stage.tables] + [(*shape, False) for shape in work.buffers]
    blocks += sum(fifo_blocks(stream, depths) for stream in stage.writes)
    memories += [(depth, s.bits, True) for s in stage.writes if not in_blocks(s, depth := depth_of(s, depths))]
    for words, bits, is_small in memories:
        if is_small or words * bits <= SMALL_BITS:
            lut += bits * -(-words // 64)
        else:
            blocks += block_rams(words, bits)
    return Cost(
        stage.name, stage.kind, stage.value, lut, ff, dsp, blocks, work.cycles, work.fold if work.macs else None
    )


def fifo_blocks(stream: Stream, depths: Mapping[str, int]) -> int:
    """Blocks of 18 Kibit of a stream; 0 if it is made of LUTs."""
    depth = depth_of(stream, depths)
    return block_rams(depth, stream.bits) if in_blocks(stream, depth) else 0


def macs_cost(macs: Macs, fold: Fold) -> tuple[int, int, int]:
    """LUTs, flip-flops and DSP slices of the units of a layer."""
    lanes, products = fold.pe * fold.simd, _product_width(macs)
    operand = slice_operand_bits(macs.weight)
    dsp = dsps_of(operand, macs.input_bits) if operand else 0
    tree = (fold.simd - 1) * adder_luts(products + 1)
    product = decoder_luts(macs.weight) if dsp else product_luts(macs.weight, macs.input_bits)
    lut = WINDOW_LUTS + lanes * product + fold.pe * (tree + adder_luts(macs.sum_bits))
    ff = lanes * products + fold.pe * 2 * macs.sum_bits + 64
    return lut, ff, lanes * dsp


def _product_width(macs: Macs) -> int:
    """Bits of a product with the largest level."""
    return min(signed_bits(level_range(macs.weight)) + macs.input_bits, macs.sum_bits)


def _table_shape(table: Table) -> tuple[int, int, bool]:
    words = table.content.shape[0]
    return words, table.content.size // words * table.bits, not is_in_blocks(table)


def block_rams(words: int, bits: int) -> int:
    """Blocks of 18 Kibit for a memory of `words` of `bits`, arranged as is cheapest.

    >>> block_rams(1024, 18), block_rams(512, 40), block_rams(20_000, 8)
    (1, 2, 10)
    """
    return min(-(-bits // width) * -(-words // depth) for width, depth in BLOCKS)
