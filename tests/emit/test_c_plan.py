"""The picture of the memory plan: everything is in it, and nothing lies where something living lies."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest

from edgeq.emit.c_place import Placed, place
from edgeq.emit.c_plan import plan_picture, tenants
from edgeq.passes.kernel import Program
from edgeq.passes.kernels import program
from tests.c_nets import WIDE_TARGET, folder_of, small_network, target
from tests.lowering import lowered
from tests.quantized import inputs_of


def planned(name: str) -> tuple[Placed, Program]:
    graph = small_network()
    found = program(lowered(graph, target(name), inputs_of(graph)))
    return place(found, target(name).instructions), found


@pytest.mark.parametrize("name", ["c-int8", "aarch64-int8", WIDE_TARGET])
def test_only_a_result_and_its_operand_share_memory(name: str) -> None:
    placed, found = planned(name)
    kept = tenants(placed, found)
    assert {t.kind for t in kept} == {"input", "output", "value", "scratch"} and len(kept) > 20
    overlapped = {(placed.root.get(v, v), k.out) for _, k in placed.kernels for v in k.reads}
    shared = 0
    for a, b in combinations(kept, 2):
        meets = (
            a.first <= b.last and b.first <= a.last and a.offset < b.offset + b.size and b.offset < a.offset + a.size
        )
        if meets:
            assert (a.name, b.name) in overlapped and a.last == b.first
            shared += 1
    assert shared > 1
    highest = max(t.offset + t.size for t in kept)
    width = found.bits // 8
    assert width * placed.memory.arena_bytes - 16 * width < highest <= width * placed.memory.arena_bytes


def test_the_picture_shows_every_tenant(tmp_path: Path) -> None:
    placed, found = planned("c-int8")
    root = ElementTree.fromstring(plan_picture("a < b", placed, found))
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    kept = tenants(placed, found)
    assert len(titles) == len(kept) and all(any(title.startswith(t.name) for title in titles) for t in kept)
    folder_of(small_network(), target("c-int8"), tmp_path / "out")
    written = (tmp_path / "out" / "plan.svg").read_text()
    assert f"{placed.memory.lower_bound:,}" in written and ElementTree.fromstring(written) is not None
