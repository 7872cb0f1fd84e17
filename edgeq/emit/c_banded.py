"""A chain of kernels in bands of rows as one C layer: the calls of every band, and a descriptor for each geometry.

Bands differ in their rows and padding alone, so most share their descriptors, and all share their constants.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgeq.emit.c_bands import Band, Banded
from edgeq.emit.c_bank import Bank
from edgeq.emit.c_layer import Layer, LayerContext
from edgeq.emit.c_needs import Need
from edgeq.emit.c_place import Placed
from edgeq.ir.cost import macs
from edgeq.passes.kernel import Program
from edgeq.target import Instructions


def print_bands(
    program: Program,
    placed: Placed,
    bank: Bank,
    instructions: Instructions,
    number: str,
    step: int,
    work: Banded,
    print_kernel: Callable[[LayerContext], Layer],
) -> Layer:
    """The layer of `work`, step `step` of the plan."""
    known: dict[str, str] = {}
    headers: dict[str, None] = {}
    needs: set[Need] = set()
    descriptors, calls, spare = [], [], 0
    for b, band in enumerate(work.bands):
        inner = _inside(placed, program, step, work, band)
        for k, kernel in enumerate(band.kernels):
            this = LayerContext(
                band.program, inner, bank, instructions, f"{number}{'abcdefgh'[k]}", k, kernel, f"_{b + 1}"
            )
            layer = print_kernel(this)
            headers |= dict.fromkeys(layer.headers)
            needs |= layer.needs
            spare += layer.spare
            text = layer.descriptor.replace(f" {this.name} ", " @ ")
            if text not in known:
                known[text] = this.name
                descriptors.append(layer.descriptor)
            calls += [call.replace(f"&{this.name},", f"&{known[text]},") for call in layer.calls]
    total = sum(macs(kernel.op, program.graph) for kernel in work.kernels)
    share = work.macs / max(total, 1) - 1
    note = f"{len(work.kernels)} layers in {len(work.bands)} bands of rows, {share:.0%} more multiplications"
    text = "".join(descriptors)
    return Layer(work.out, "layers in bands", total, tuple(headers), text, tuple(calls), note, frozenset(needs), spare)


def _inside(placed: Placed, program: Program, step: int, work: Banded, band: Band) -> Placed:
    """Where the values of one band lie: in the scratch memory of the chain, except its rows of input and output."""
    base, memory = placed.memory.scratch[step], work.memory
    offsets = {value: base + at for value, at in memory.offsets.items()}
    for value, row in zip((work.reads[0], work.out), band.first, strict=True):
        shape = program.type(value).shape
        offsets[value] = placed.offset(value) + row * shape[1] * shape[3]
    scratch = {k: base + at for k, at in memory.scratch.items()}
    inner = replace(memory, offsets=offsets, scratch=scratch)
    return replace(placed, kernels=tuple(enumerate(band.kernels)), root={}, memory=inner, direct=frozenset())
