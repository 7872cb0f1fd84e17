"""What a design of hls4ml takes by the units that edgeq's designs are estimated from, so that both can be compared.

hls4ml estimates nothing without the vendor's tools. Its generated configuration says what is built, though: in streaming
designs a convolution starts anew with every pixel of its input, every `reuse_factor` cycles; it has as many multipliers as
products of one window, divided by that factor; streams are as deep as their pragmas say. Products, adders and memories are
counted by edgeq's formulas, all codes with 8 bits and all sums as wide as edgeq proves them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeq.emit.hls_cost import CONTROL_FFS, CONTROL_LUTS, SMALL_BITS, Cost, block_rams, macs_cost
from edgeq.emit.hls_stage import Design, Fold, Macs

CODE_BITS = 8


def peer_costs(made: Any, design: Design) -> Iterator[Cost]:
    """The cost of every layer of `made` (a ModelGraph); `design` is edgeq's, of the same network."""
    macs = {stage.value.removesuffix(".acc"): stage.work.macs for stage in design.stages if stage.work.macs}
    depths = _depths(Path(made.config.get_output_dir()))
    for layer in made.get_layers():
        if layer.class_name in ("Input", "Reshape"):
            continue
        sums = macs.get(layer.name)
        bits = (sums.sum_bits if sums else CODE_BITS) * _channels(layer)
        stream = _memory(depths.get(layer.get_output_variable().name, 1), bits)
        units = _units(layer, sums) if sums else (0, 0, 0)
        kept = _memory(*_kept(layer))
        lut, ff, dsp = (own + control for own, control in zip(units, (CONTROL_LUTS, CONTROL_FFS, 0), strict=True))
        weights = _weights(layer, sums) if sums else (0, 0)
        memories = (stream, kept, weights)
        yield Cost(
            layer.name, layer.class_name, layer.name, lut + sum(m[0] for m in memories), ff, dsp,
            sum(m[1] for m in memories), _cycles(layer),
        )  # fmt: skip


def multipliers(layer: Any) -> int:
    """Products made at once."""
    products = int(layer.weights["weight"].data.size)
    return -(-products // int(layer.get_attr("reuse_factor", 1)))


def _units(layer: Any, macs: Macs) -> tuple[int, int, int]:
    return macs_cost(macs, Fold(1, multipliers(layer)))


def _cycles(layer: Any) -> int:
    """For one frame: a pixel in every `reuse_factor` cycles; of a dense layer every input, then the products."""
    reuse = int(layer.get_attr("reuse_factor", 1))
    if layer.class_name == "Dense":
        return int(layer.get_attr("n_in")) + reuse
    height, width = layer.get_attr("in_height"), layer.get_attr("in_width")
    if height is None:  # an activation takes a pixel a cycle, a transposition one code
        shape = layer.get_output_variable().shape
        return int(shape[0] * shape[1] if layer.class_name == "Activation" and len(shape) == 3 else _size(layer))
    return int(height) * int(width) * (reuse if layer.class_name.startswith("Conv") else 1)


def _size(layer: Any) -> int:
    return int(layer.get_output_variable().size())


def _channels(layer: Any) -> int:
    """Codes in one word of the result's stream."""
    return int(layer.get_output_variable().shape[-1])


def _kept(layer: Any) -> tuple[int, int]:
    """Words and bits of the line buffer: all rows of the window but one."""
    rows = layer.get_attr("filt_height") or layer.get_attr("pool_height")
    if rows is None:
        return (_size(layer), CODE_BITS) if layer.class_name == "Transpose" else (0, 0)
    channels = int(layer.get_attr("n_chan") or layer.get_attr("n_filt"))
    return int(layer.get_attr("in_width")), (int(rows) - 1) * channels * CODE_BITS


def _weights(layer: Any, macs: Macs) -> tuple[int, int]:
    """Without reuse every multiplier has one weight, which is a constant."""
    words = int(layer.get_attr("reuse_factor", 1))
    return _memory(words, multipliers(layer) * macs.weight_bits) if words > 1 else (0, 0)


def _memory(words: int, bits: int) -> tuple[int, int]:
    """LUTs and block RAMs, by edgeq's rule."""
    if words * bits <= SMALL_BITS:
        return bits * -(-words // 64), 0
    return 0, block_rams(words, bits)


def _depths(folder: Path) -> dict[str, int]:
    """Depths of streams by name, from the pragmas of the generated text."""
    (source,) = (folder / "firmware").glob("myproject.cpp")
    found = re.findall(r"#pragma HLS STREAM variable=(\w+) depth=(\d+)", source.read_text())
    return {name: int(depth) for name, depth in found}
