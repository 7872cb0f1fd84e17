"""The memory plan: in which order steps run, and where each value lies in one arena.

A value lives from the step that makes it to the last that reads it. Two values that live at once must not share bytes,
with one exception: a step may say how its result can overlap an operand that dies there, because it reads each byte
before it writes it. Running forward, the result may begin `gap` bytes before the operand (or anywhere lower); running
in reverse, it may begin `gap` bytes after it (or anywhere higher). A gap may be negative.

Placement is greedy and improved by a seeded search, until it meets the lower bound or the search ends. The lower bound
is the largest number of bytes that any one step needs at once, so no plan of that order can be smaller.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

ALIGNMENT = 16
SEARCH_EFFORT = 12_000
"""Placements of single buffers that the search may try."""


@dataclass(frozen=True)
class Overlap:
    """How a result may share bytes with `operand`; a direction that is None is not possible."""

    operand: str
    forward_gap: int | None
    reverse_gap: int | None = None
    exact: bool = False
    """Only at the very same address (the gaps are 0 then)."""


@dataclass(frozen=True)
class Step:
    """One step: operands, result, bytes that only it needs, and the overlaps that it allows."""

    reads: tuple[str, ...]
    out: str
    scratch: int = 0
    overlaps: tuple[Overlap, ...] = ()


@dataclass(frozen=True)
class Memory:
    """`order`: indices of the steps; `offsets` in bytes of values, `scratch` of each step (of `scratch_sizes` bytes); `reverse` steps run backward.

    `lower_bound` is what the best plan of this order could need; `overlapped` are the pairs that share bytes.
    """

    order: tuple[int, ...]
    offsets: Mapping[str, int]
    scratch: Mapping[int, int]
    reverse: frozenset[int]
    arena_bytes: int
    lower_bound: int
    overlapped: frozenset[tuple[int, str]]
    scratch_sizes: Mapping[int, int]


@dataclass(frozen=True)
class _Buffer:
    name: str
    size: int
    first: int
    last: int


@dataclass
class _Problem:
    """The buffers of one order, and which of them meet."""

    steps: Sequence[Step]
    buffers: list[_Buffer] = field(default_factory=list)
    meets: list[list[int]] = field(default_factory=list)
    relations: dict[tuple[int, int], tuple[int, Overlap]] = field(default_factory=dict)


def aligned(size: int) -> int:
    """`size` rounded up to the alignment of buffers."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan_memory(
    steps: Sequence[Step], sizes: Mapping[str, int], inputs: Iterable[str], outputs: Iterable[str]
) -> Memory:
    """The best plan found. `sizes` are bytes of values; operands that have none (constants) take no part."""
    inputs, outputs = tuple(inputs), frozenset(outputs)
    orders = {tuple(range(len(steps))), _thrifty_order(steps, sizes, inputs, outputs)}
    bounds = {order: _lower_bound([steps[k] for k in order], sizes, inputs, outputs) for order in orders}
    order = min(sorted(orders), key=bounds.__getitem__)
    problem = _problem([steps[k] for k in order], sizes, inputs, outputs)
    offsets, reverse = _search(problem, bounds[order])
    named = {buffer.name: offset for buffer, offset in zip(problem.buffers, offsets, strict=True)}
    total = max((o + b.size for o, b in zip(offsets, problem.buffers, strict=True)), default=0)
    return Memory(
        order,
        {name: offset for name, offset in named.items() if not name.startswith(_SCRATCH)},
        {order[int(name[len(_SCRATCH) :])]: o for name, o in named.items() if name.startswith(_SCRATCH)},
        frozenset(order[place] for place in reverse),
        aligned(total),
        bounds[order],
        frozenset(_overlapped(problem, offsets, order)),
        {k: step.scratch for k, step in enumerate(steps) if step.scratch},
    )


_SCRATCH = "scratch of step "


# --- order ----------------------------------------------------------------------------------------------------------


def _thrifty_order(
    steps: Sequence[Step], sizes: Mapping[str, int], inputs: Iterable[str], outputs: frozenset[str]
) -> tuple[int, ...]:
    """Of the steps whose operands exist, always the one after which the fewest bytes are alive."""
    made = {step.out for step in steps}
    waiting = list(range(len(steps)))
    left = {value: sum(value in step.reads for step in steps) for step in steps for value in step.reads}
    known, order = set(inputs), []

    def growth(index: int) -> int:
        dying = {v for v in steps[index].reads if left[v] == 1 and v not in outputs}
        return sizes[steps[index].out] - sum(sizes.get(v, 0) for v in dying)

    while waiting:
        ready = [k for k in waiting if all(v in known or v not in made for v in steps[k].reads)]
        chosen = min(ready, key=lambda k: (growth(k), k))
        waiting.remove(chosen)
        order.append(chosen)
        known.add(steps[chosen].out)
        for value in set(steps[chosen].reads):
            left[value] -= 1
    return tuple(order)


def _lives(
    steps: Sequence[Step], sizes: Mapping[str, int], inputs: Iterable[str], outputs: frozenset[str]
) -> dict[str, tuple[int, int]]:
    """First and last step of every value; inputs exist before step 0, outputs after the last."""
    lives = dict.fromkeys(inputs, (-1, -1))
    for place, step in enumerate(steps):
        lives[step.out] = (place, place)
        for value in step.reads:
            if value in sizes and value in lives:
                lives[value] = (lives[value][0], place)
    return {v: (first, len(steps) if v in outputs else last) for v, (first, last) in lives.items()}


def needs(steps: Sequence[Step], sizes: Mapping[str, int], inputs: Iterable[str], outputs: Iterable[str]) -> list[int]:
    """Bytes that each step needs at once, with the overlap that saves most."""
    lives = _lives(steps, sizes, inputs, frozenset(outputs))
    found = []
    for place, step in enumerate(steps):
        before = {v: sizes[v] for v, (first, last) in lives.items() if first < place <= last}
        after = sum(sizes[v] for v, (first, last) in lives.items() if first <= place < last)
        after += sizes[step.out] if lives[step.out][1] == place else 0
        dying = [overlap for overlap in step.overlaps if lives[overlap.operand][1] == place]
        need = sum(before.values()) + sizes[step.out]
        if len(dying) == 1:
            x = sizes[dying[0].operand]
            need = sum(before.values()) - x + min(_extent(x, sizes[step.out], g) for g in _gaps(dying[0]))
        elif dying:
            need = max(sum(before.values()), after)
        found.append(need + step.scratch)
    return found


def _lower_bound(steps: Sequence[Step], sizes: Mapping[str, int], inputs: Iterable[str], outputs: Iterable[str]) -> int:
    return max([sum(sizes[v] for v in inputs), *needs(steps, sizes, inputs, outputs)])


def _gaps(overlap: Overlap) -> list[tuple[bool, int]]:
    found = [(False, overlap.forward_gap), (True, overlap.reverse_gap)]
    return [(reverse, gap) for reverse, gap in found if gap is not None]


def _extent(x: int, out: int, gap: tuple[bool, int]) -> int:
    """Bytes that operand and result cover together when they overlap as far as they can."""
    reverse, distance = gap
    if reverse:
        return max(x, distance + out, out)
    return max(out, distance + x, x)


# --- placement ------------------------------------------------------------------------------------------------------


def _problem(
    steps: Sequence[Step], sizes: Mapping[str, int], inputs: Iterable[str], outputs: frozenset[str]
) -> _Problem:
    problem = _Problem(steps)
    for value, (first, last) in _lives(steps, sizes, inputs, outputs).items():
        problem.buffers.append(_Buffer(value, sizes[value], first, last))
    for place, step in enumerate(steps):
        if step.scratch:
            problem.buffers.append(_Buffer(f"{_SCRATCH}{place}", step.scratch, place, place))
    index = {buffer.name: k for k, buffer in enumerate(problem.buffers)}
    for buffer in problem.buffers:
        meets = [k for k, b in enumerate(problem.buffers) if b.first <= buffer.last and buffer.first <= b.last]
        problem.meets.append([k for k in meets if problem.buffers[k] is not buffer])
    for place, step in enumerate(steps):
        for overlap in step.overlaps:
            x = index[overlap.operand]
            if problem.buffers[x].last == place:
                problem.relations[x, index[step.out]] = (place, overlap)
    return problem


def _bounds_of_relation(overlap: Overlap, reverse: bool) -> tuple[int | None, int | None]:
    """Largest and smallest allowed (result offset - operand offset) when they share bytes."""
    if overlap.exact:
        return 0, 0
    gap = overlap.reverse_gap if reverse else overlap.forward_gap
    if gap is None:
        return -1, 0  # never
    return (None, gap) if reverse else (-gap, None)


def _ceiling(value: int) -> int:
    return -(-value // ALIGNMENT) * ALIGNMENT


def _place(problem: _Problem, queue: Sequence[int], reverse: frozenset[int], limit: int) -> list[int] | None:
    """Offsets with the buffers placed in the order of `queue`, each as low as it can lie; None beyond `limit`."""
    offsets: list[int | None] = [None] * len(problem.buffers)
    for k in queue:
        candidates = {0}
        rules = []
        for m in problem.meets[k]:
            at = offsets[m]
            if at is None:
                continue
            end = at + problem.buffers[m].size
            candidates.add(_ceiling(end))
            most, least = _relation(problem, k, m, reverse)
            if most is not None:
                candidates.add((at + most) // ALIGNMENT * ALIGNMENT)
            if least is not None:
                candidates.add(_ceiling(at + least))
            rules.append((at, end, most, least))
        size = problem.buffers[k].size
        chosen = next((c for c in sorted(candidates) if c >= 0 and _fits(c, size, rules)), None)
        assert chosen is not None
        if chosen + size > limit:
            return None
        offsets[k] = chosen
    return [offset for offset in offsets if offset is not None]


_Found = tuple[int, list[int], list[int], frozenset[int]]
"""Bytes, offsets, the queue that gave them, and the reversed steps."""

_Rule = tuple[int, int, int | None, int | None]
_NEVER = (-1, 0)


def _relation(problem: _Problem, k: int, m: int, reverse: frozenset[int]) -> tuple[int | None, int | None]:
    """Largest and smallest allowed (offset of k - offset of m) if they may share bytes; _NEVER otherwise."""
    if (found := problem.relations.get((m, k))) is not None:
        return _bounds_of_relation(found[1], found[0] in reverse)
    if (found := problem.relations.get((k, m))) is not None:
        most, least = _bounds_of_relation(found[1], found[0] in reverse)
        return (None if least is None else -least), (None if most is None else -most)
    return _NEVER


def _fits(offset: int, size: int, rules: Sequence[_Rule]) -> bool:
    for at, end, most, least in rules:
        if offset < end and at < offset + size:
            distance = offset - at
            if (most is not None and distance > most) or (least is not None and distance < least):
                return False
    return True


def _search(problem: _Problem, goal: int) -> tuple[list[int], frozenset[int]]:
    """Offsets and reversed steps: the best of a few greedy queues, improved by seeded exchanges."""
    buffers, count = problem.buffers, len(problem.buffers)
    growing = frozenset(
        place for (x, y), (place, overlap) in problem.relations.items()
        if overlap.reverse_gap is not None and buffers[y].size > buffers[x].size
    )  # fmt: skip
    turning = sorted({place for place, o in problem.relations.values() if None not in (o.forward_gap, o.reverse_gap)})
    queues = [
        sorted(range(count), key=lambda k: (-buffers[k].size, buffers[k].first)),
        sorted(range(count), key=lambda k: (-buffers[k].last, -buffers[k].size)),
        sorted(range(count), key=lambda k: (buffers[k].first, -buffers[k].size)),
    ]
    best: _Found = (1 << 62, [], [], frozenset())
    for queue in queues:
        # Steps that alternate undo each other's gaps.
        for reverse in (
            growing,
            frozenset(turning[::2]),
            frozenset(turning[1::2]),
            frozenset[int](),
            frozenset(turning),
        ):
            best = _better(problem, queue, reverse, best)
    rng = random.Random(0)
    for _ in range(SEARCH_EFFORT // max(count, 1)):
        if best[0] <= _ceiling(goal):
            break
        queue, reverse = list(best[2]), best[3]
        if turning and rng.random() < 0.3:
            reverse ^= {rng.choice(turning)}
        for _ in range(rng.randint(1, 3)):
            queue.insert(rng.randrange(count), queue.pop(rng.randrange(count)))
        best = _better(problem, queue, reverse, best)
    return best[1], best[3]


def _better(
    problem: _Problem,
    queue: list[int],
    reverse: frozenset[int],
    best: _Found,
) -> _Found:
    offsets = _place(problem, queue, reverse, best[0])
    if offsets is None:
        return best
    total = max((o + b.size for o, b in zip(offsets, problem.buffers, strict=True)), default=0)
    return (total, offsets, queue, reverse)


def _overlapped(problem: _Problem, offsets: Sequence[int], order: Sequence[int]) -> Iterable[tuple[int, str]]:
    for (x, y), (place, _) in problem.relations.items():
        sizes = problem.buffers[x].size, problem.buffers[y].size
        if offsets[x] < offsets[y] + sizes[1] and offsets[y] < offsets[x] + sizes[0]:
            yield order[place], problem.buffers[x].name


def naive_bytes(steps: Sequence[Step], sizes: Mapping[str, int], inputs: Iterable[str], outputs: Iterable[str]) -> int:
    """The lower bound if no result could overlap an operand: what a plan without this module's exception needs."""
    plain = [replace(step, overlaps=()) for step in steps]
    return _lower_bound(plain, sizes, tuple(inputs), outputs)
