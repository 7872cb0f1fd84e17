"""Memory plans: no two live values share bytes but as a step allows, and never below the lower bound."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.passes.schedule import ALIGNMENT, Memory, Overlap, Step, naive_bytes, needs, plan_memory

Sizes = dict[str, int]


def lives(
    steps: list[Step], order: tuple[int, ...], inputs: list[str], outputs: list[str]
) -> dict[str, tuple[int, int]]:
    """First and last place in `order` at which each value exists, written out once more."""
    found = {value: [-1, -1] for value in inputs}
    for place, index in enumerate(order):
        found[steps[index].out] = [place, place]
        for value in steps[index].reads:
            found[value][1] = place
    for value in outputs:
        found[value][1] = len(order)
    return {value: (first, last) for value, (first, last) in found.items()}


def allowed(step: Step, x: str, distance: int, reverse: bool) -> bool:
    """Whether the result of `step` may begin `distance` bytes after its operand x while sharing bytes with it."""
    for overlap in step.overlaps:
        if overlap.operand == x:
            if overlap.exact:
                return distance == 0
            gap = overlap.reverse_gap if reverse else overlap.forward_gap
            if gap is not None:
                return distance >= gap if reverse else distance <= -gap
    return False


def check(steps: list[Step], sizes: Sizes, inputs: list[str], outputs: list[str], plan: Memory) -> None:
    assert sorted(plan.order) == list(range(len(steps)))
    known = set(inputs)
    for index in plan.order:
        assert set(steps[index].reads) <= known
        known.add(steps[index].out)
    alive = lives(steps, plan.order, inputs, outputs)
    place_of = {index: place for place, index in enumerate(plan.order)}
    buffers = [(name, plan.offsets[name], sizes[name], *alive[name]) for name in alive]
    buffers += [(f"scratch {k}", at, steps[k].scratch, place_of[k], place_of[k]) for k, at in plan.scratch.items()]
    assert all(at >= 0 and at % ALIGNMENT == 0 and at + size <= plan.arena_bytes for _, at, size, _, _ in buffers)
    maker = {step.out: k for k, step in enumerate(steps)}
    for (a, at_a, size_a, first_a, last_a), (b, at_b, size_b, first_b, last_b) in combinations(buffers, 2):
        if first_a > last_b or first_b > last_a or at_a >= at_b + size_b or at_b >= at_a + size_a:
            continue
        x, y, distance = (a, b, at_b - at_a) if first_a < first_b else (b, a, at_a - at_b)
        step = maker[y]
        assert max(last_a, last_b) >= place_of[step] == alive[x][1], (a, b)
        assert allowed(steps[step], x, distance, step in plan.reverse), (x, y, distance)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Step], Sizes, list[str], list[str]]:
    count = draw(st.integers(1, 9))
    sizes = {"v0": draw(st.integers(1, 200))}
    steps: list[Step] = []
    for k in range(1, count + 1):
        reads = draw(st.lists(st.sampled_from(sorted(sizes)), min_size=1, max_size=3, unique=True))
        overlaps = []
        for value in reads:
            kind = draw(st.sampled_from(("none", "exact", "forward", "reverse", "both")))
            gaps = [draw(st.integers(-40, 60)) for _ in range(2)]
            if kind == "exact":
                overlaps.append(Overlap(value, 0, 0, exact=True))
            elif kind != "none":
                forward, reverse = (
                    g if kind in (side, "both") else None for g, side in zip(gaps, ("forward", "reverse"), strict=True)
                )
                overlaps.append(Overlap(value, forward, reverse))
        steps.append(Step(tuple(reads), f"v{k}", draw(st.sampled_from((0, 0, 30))), tuple(overlaps)))
        sizes[f"v{k}"] = draw(st.integers(1, 200))
    read = {value for step in steps for value in step.reads}
    outputs = sorted({f"v{count}"} | {v for v in sizes if v not in read and v != "v0"})
    return steps, sizes, ["v0"], outputs


@settings(max_examples=60, deadline=None)
@given(problems())
def test_live_values_share_bytes_only_as_allowed(problem: tuple[list[Step], Sizes, list[str], list[str]]) -> None:
    steps, sizes, inputs, outputs = problem
    plan = plan_memory(steps, sizes, inputs, outputs)
    check(steps, sizes, inputs, outputs, plan)
    assert plan.lower_bound <= plan.arena_bytes
    assert max(needs([steps[k] for k in plan.order], sizes, inputs, outputs)) <= plan.lower_bound


def chain(*overlaps: Overlap | None) -> tuple[list[Step], Sizes]:
    steps = [Step((f"v{k}",), f"v{k + 1}", 0, (o,) if o else ()) for k, o in enumerate(overlaps)]
    return steps, {f"v{k}": 160 for k in range(len(overlaps) + 1)}


def test_a_chain_without_overlaps_alternates_between_two_places() -> None:
    steps, sizes = chain(None, None, None, None)
    assert plan_memory(steps, sizes, ["v0"], ["v4"]).arena_bytes == 320


def test_in_place_steps_need_one_place() -> None:
    steps, sizes = chain(*(Overlap(f"v{k}", 0, 0, exact=True) for k in range(4)))
    assert plan_memory(steps, sizes, ["v0"], ["v4"]).arena_bytes == 160


def test_gaps_do_not_add_up_where_steps_can_turn() -> None:
    steps, sizes = chain(*(Overlap(f"v{k}", 16, 16) for k in range(6)))
    plan = plan_memory(steps, sizes, ["v0"], ["v6"])
    assert plan.arena_bytes == plan.lower_bound == 176
    assert plan.reverse and len(plan.reverse) < 6
    assert naive_bytes(steps, sizes, ["v0"], ["v6"]) == 320


def test_a_value_that_is_read_again_is_never_overlapped() -> None:
    steps = [Step(("v0",), "v1", 0, (Overlap("v0", 0, 0),)), Step(("v0", "v1"), "v2", 0, (Overlap("v1", 0),))]
    plan = plan_memory(steps, {"v0": 160, "v1": 160, "v2": 160}, ["v0"], ["v2"])
    assert plan.arena_bytes == 320 and plan.overlapped == {(1, "v1")}


def test_the_order_that_needs_less_is_taken() -> None:
    # Two branches that each grow and shrink: one after the other, not side by side.
    steps = [
        Step(("x",), "a"), Step(("x",), "b"), Step(("a",), "small a"), Step(("b",), "small b"),
        Step(("small a", "small b"), "y"),
    ]  # fmt: skip
    sizes = {"x": 16, "a": 160, "b": 160, "small a": 16, "small b": 16, "y": 16}
    plan = plan_memory(steps, sizes, ["x"], ["y"])
    check(steps, sizes, ["x"], ["y"], plan)
    assert plan.arena_bytes <= 208
    assert plan.order != (0, 1, 2, 3, 4)


def test_the_same_problem_gives_the_same_plan() -> None:
    steps, sizes = chain(*(Overlap(f"v{k}", 17, 33) for k in range(8)))
    assert plan_memory(steps, sizes, ["v0"], ["v8"]) == plan_memory(steps, sizes, ["v0"], ["v8"])
