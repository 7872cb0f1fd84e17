"""Units as Yosys synthesizes them beside the model; the cost of memories and designs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from edgeq.emit.hls_build import build
from edgeq.emit.hls_cost import block_rams, design_cost, macs_cost, total
from edgeq.emit.hls_stage import Fold, Macs
from edgeq.emit.hls_units import mac_luts
from edgeq.formats import INT4, INT8
from edgeq.targets import find_target
from tests.hls_nets import residual_network
from tests.lowering import lowered
from tests.quantized import inputs_of

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import fpga_units

NEAR = 0.15


@pytest.mark.skipif(shutil.which("yosys") is None, reason="Yosys is not installed")
@pytest.mark.parametrize(
    "name",
    ["INT4", *(pytest.param(name, marks=pytest.mark.slow) for name in ("INT8", "E2M1", "E2M3", "POST4", "POT4"))],
)
def test_a_multiply_accumulate_is_as_large_as_synthesized(name: str) -> None:
    unit = fpga_units.mac_unit(name)
    assert unit.synthesized > 20 and abs(unit.difference) <= NEAR


def test_the_committed_table_is_the_models() -> None:
    table = (Path(__file__).parents[2] / "runtimes" / "hls" / "UNITS.md").read_text()
    for name, format_ in fpga_units.FORMATS.items():
        assert f"| {name} | {mac_luts(format_, fpga_units.LEVEL_BITS, fpga_units.SUM_BITS)} |" in table


def test_memories_take_the_fewest_blocks() -> None:
    assert [block_rams(512, 36), block_rams(513, 36), block_rams(16384, 1), block_rams(100, 200)] == [1, 2, 1, 6]


def test_wide_integers_take_slices_and_narrow_ones_luts() -> None:
    macs = {format_: Macs(100, 8, 16, 9, format_, format_.bits, 8, 24) for format_ in (INT4, INT8)}
    narrow, wide = (macs_cost(macs[format_], Fold(4, 8)) for format_ in (INT4, INT8))
    assert narrow[2] == 0 and wide[2] == 32 and narrow[0] > wide[0]


def test_the_cost_of_a_design_is_that_of_its_stages() -> None:
    graph = residual_network()
    design = build(lowered(graph, find_target("fpga-int4"), inputs_of(graph)), {}, "net", "net")
    costs = design_cost(design, {"s_4": 5000})
    whole = total(costs)
    assert whole.lut == sum(cost.lut for cost in costs) > 1000
    assert whole.cycles == max(cost.cycles for cost in costs) > 9 * 8 * 4
    assert whole.bram18 > total(design_cost(design, {})).bram18
