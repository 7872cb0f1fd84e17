"""Which operators have a meaning on reals, on indices and on truth values, and which operands must agree.

The companion of edgeq/ir/fit.py for graphs without codes: every problem is one short phrase.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from edgeq.formats import BOOL, INDEX, REAL, Format
from edgeq.ir import ops as o

_MOVES = (
    o.Concat, o.Slice, o.Pad, o.Reshape, o.Transpose, o.Expand, o.Gather, o.GatherElements, o.Where, o.Cast,
)  # fmt: skip
_ON_INDICES = (o.Add, o.Sub, o.Mul, o.Reduce, o.TopK, o.ArgMax)
_FUNCTIONS_ON_INDICES = ("neg", "abs", "sign", "relu", "clip")
_NAMES: dict[Format, str] = {REAL: "reals", INDEX: "indices", BOOL: "truth values"}
_LOGIC = ("and", "or")


def _allowed(op: o.Op) -> tuple[Format, ...]:
    """What the numbers that `op` works on may be."""
    match op:
        case o.Binary():
            if op.function in _LOGIC:
                return (BOOL,)
            return (REAL, INDEX, BOOL) if op.function == "equal" else (REAL, INDEX)
        case o.Apply():
            if op.function.name == "not":
                return (BOOL,)
            return (REAL, INDEX) if op.function.name in _FUNCTIONS_ON_INDICES else (REAL,)
        case o.Reduce() if op.function == "l2":
            return (REAL,)
        case o.Reduce() if op.function in ("max", "min"):
            return (REAL, INDEX, BOOL)
        case o.Resize() if op.mode == "nearest":
            return (REAL, INDEX, BOOL)
        case _ if isinstance(op, _MOVES):
            return (REAL, INDEX, BOOL)
        case _ if isinstance(op, _ON_INDICES):
            return (REAL, INDEX)
        case _:
            return (REAL,)


def _payload(op: o.Op) -> tuple[o.Value, ...]:
    """The operands that hold the numbers, without conditions and indices."""
    match op:
        case o.Where():
            return op.a, op.b
        case o.Gather() | o.GatherElements():
            return (op.x,)
        case _:
            return o.operands(op)


def _named(kinds: Iterable[Format]) -> str:
    return ", ".join(sorted(_NAMES.get(kind, str(kind)) for kind in kinds))


def kind_problems(op: o.Op, kind: Callable[[o.Value], Format]) -> Iterator[str]:
    """What keeps `op` from having a meaning on operands of these kinds."""
    kinds = {kind(value) for value in _payload(op)}
    if len(kinds) > 1:
        yield f"operands mix {_named(kinds)}"
    elif not kinds <= set(_allowed(op)):
        yield f"no meaning on {_named(kinds)}; allowed: {_named(_allowed(op))}"
    match op:
        case o.Where() if kind(op.condition) != BOOL:
            yield "the condition is not a truth value"
        case o.Gather() | o.GatherElements() if kind(op.indices) != INDEX:
            yield "the indices are not integers"
        case _:
            pass
