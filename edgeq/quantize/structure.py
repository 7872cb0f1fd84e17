"""Which values are codes, which of them share one type, and in which format: decided by graph, target and recipe alone.

Values joined by operators that only move codes share a type. A value read by a weighted operator is narrow, any other
is wide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from edgeq.formats import INT8, INT16, Format, Int, bits_of, is_table, unsigned
from edgeq.ir import ops as o
from edgeq.ir.bounds import SHARE_UNIT
from edgeq.ir.graph import Graph
from edgeq.quantize.integer_part import integer_results, read_as_codes
from edgeq.quantize.operators import (
    CLAMPS,
    WEIGHTED,
    accumulates,
    gated_function,
    moves_codes,
    never_negative,
    weight_of,
)
from edgeq.recipe import Recipe
from edgeq.reference.tflite import fixed_range, keeps_type
from edgeq.target import Target

_EXP = o.Function("exp")


class _Classes:
    """Union-find over values."""

    def __init__(self, values: Iterable[o.Value]) -> None:
        self._parent = {value: value for value in values}

    def __contains__(self, value: object) -> bool:
        return value in self._parent

    def find(self, value: o.Value) -> o.Value:
        root = value
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[value] != root:
            self._parent[value], value = root, self._parent[value]
        return root

    def join(self, *values: o.Value) -> None:
        for value in values[1:]:  # nothing to do for one value, or none
            self._parent[self.find(value)] = self.find(values[0])


@dataclass(frozen=True)
class Structure:
    """`integer`: results of operators on codes. `members`: values of each class that share one type, by its key.

    `formats`: format of each class. `held`: results that stay accumulators because the one reader takes them so.
    `fixed`: scale and zero point of the classes for which the runtime prescribes them. `weights`: formats of weights by
    the result of the operator on codes that reads them.
    """

    graph: Graph
    integer: frozenset[o.Value]
    members: dict[o.Value, tuple[o.Value, ...]]
    formats: dict[o.Value, Format]
    held: frozenset[o.Value]
    fixed: dict[o.Value, tuple[float, int]] = field(default_factory=dict)
    weights: dict[o.Value, Format] = field(default_factory=dict)

    @cached_property
    def key(self) -> dict[o.Value, o.Value]:
        """The class of each quantized value."""
        return {value: key for key, values in self.members.items() for value in values}

    def runs_on_codes(self, op: o.Op) -> bool:
        """Whether `op` is lowered to integers."""
        return o.results(op)[0] in self.integer

    def sources(self, key: o.Value) -> tuple[o.Value, ...]:
        """Members of a class that are computed rather than moved: their statistics describe the whole class."""
        moved = {v for v in self.members[key] if v in self.graph.producer and moves_codes(self.graph.producer[v])}
        return tuple(v for v in self.members[key] if v not in moved) or self.members[key]

    def through(self, key: o.Value) -> o.Function | None:
        """The function f when f is all that ever reads this class, so that only errors after f matter.

        For softmax it is the exponential: what lies far below the largest score, as masks do, may be clipped.
        """
        readers = [op for value in self.members[key] for op in self.graph.consumers.get(value, ())]
        still = [op for op in readers if not moves_codes(op)]
        if still and all(isinstance(op, o.Softmax) and self.runs_on_codes(op) for op in still):
            return None if set(self.members[key]) & set(self.graph.outputs) else _EXP
        if gate := gated_function(readers):
            return gate
        functions = {op.function for op in readers if isinstance(op, o.Apply)}
        if len(functions) != 1 or not all(isinstance(op, o.Apply) and self.runs_on_codes(op) for op in readers):
            return None
        return functions.pop()


def _readers(graph: Graph, value: o.Value) -> Iterator[o.Op | None]:
    """What reads a value, directly or moved to other places; None stands for the caller.

    Pools, gathers and enlarged images read it: generated C has them for the codes of most values alone.
    """
    if value in graph.outputs:
        yield None
    for op in graph.consumers.get(value, ()):
        if moves_codes(op) and not isinstance(op, o.MaxPool | o.Gather | o.Resize):
            yield from _readers(graph, o.results(op)[0])
        else:
            yield op


def _streams(graph: Graph, integer: frozenset[o.Value]) -> frozenset[o.Value]:
    """Sums that only normalizations and other sums read: the residual stream of a transformer, which has 16 bits.

    A few channels of it grow far beyond the others, which eight bits would round away, and normalization would then
    enlarge what the rounding left of them.
    """
    found = set()
    for op in graph.ops:
        if isinstance(op, o.Add | o.Sub) and op.out in integer:
            readers = list(_readers(graph, op.out))
            sums = (isinstance(reader, o.LayerNorm | o.Add | o.Sub) for reader in readers)
            normalized = (isinstance(reader, o.LayerNorm) and reader.out in integer for reader in readers)
            if all(sums) and any(normalized):
                found.add(op.out)
    return frozenset(found)


def _held(
    graph: Graph, target: Target, integer: frozenset[o.Value], streams: frozenset[o.Value], tables: frozenset[o.Value]
) -> frozenset[o.Value]:
    held: set[o.Value] = set()
    for op in reversed(graph.ops):
        result = o.results(op)[0]
        reader = graph.sole_consumer(result)
        if result not in integer or not accumulates(op) or reader is None or o.results(reader)[0] in tables:
            continue  # codes of a table come from codes alone
        if target.kernels == "tflite" and (isinstance(op, o.Softmax) or keeps_type(op)):
            continue  # its result is codes at once, or has its operand's scale, which the reader's need not have
        joins = isinstance(op, o.Linear) and isinstance(reader, o.Add) and _joins_stream(reader, streams, held)
        if o.results(reader)[0] in integer and (joins or _takes_accumulator(reader, target)):
            held.add(result)
    return frozenset(held)


def _joins_stream(reader: o.Add, streams: frozenset[o.Value], held: set[o.Value]) -> bool:
    """Whether a layer adds its sums to a stream, which takes one such operand: the last computed."""
    return reader.out in streams and reader.a != reader.b and held.isdisjoint((reader.a, reader.b))


def _takes_accumulator(reader: o.Op, target: Target) -> bool:
    if isinstance(reader, o.Apply):
        return reader.function.name in CLAMPS
    return isinstance(reader, o.Add | o.Sub) and target.keeps_wide_values and reader.a != reader.b


def _activations(op: o.Op) -> tuple[o.Value, ...]:
    match op:
        case o.Conv() | o.ConvTranspose() | o.Linear():
            return (op.x,)
        case o.Gather() | o.GatherElements() | o.LayerNorm():
            return (op.x,)
        case _:
            return o.operands(op)


def analyse(graph: Graph, target: Target, recipe: Recipe) -> Structure:
    """The structure of quantization of a simplified real graph for `target`."""
    integer = integer_results(graph, target, recipe)
    streams = _streams(graph, integer)
    integer_ops = [op for op in graph.ops if o.results(op)[0] in integer]
    held = _held(graph, target, integer, streams, _read_in_tables(integer_ops, recipe))
    quantized: dict[o.Value, None] = {}
    for op in integer_ops:
        quantized.update(dict.fromkeys(_activations(op)))
        if read_as_codes(op, graph, integer) or target.kernels == "tflite":  # whose accumulators nobody else can read
            quantized[o.results(op)[0]] = None
    leave_as_codes = recipe.output_codes or target.ports == "codes"
    outputs = {value for value in graph.outputs if value in integer} if leave_as_codes else set()
    quantized.update(dict.fromkeys(sorted(outputs)))
    values = [value for value in quantized if value not in held]
    classes = _Classes(values)
    for op in integer_ops:
        joined = _joined(op, target)
        if joined and all(value in quantized and value not in held for value in joined):
            classes.join(*joined)
    _join_concats(integer_ops, classes, target)
    members: dict[o.Value, list[o.Value]] = {}
    for value in values:
        members.setdefault(classes.find(value), []).append(value)
    bits = _bits_of_readers(integer_ops, classes, outputs, target, recipe)
    tables = _tables_of_readers(integer_ops, classes, graph, recipe)
    formats: dict[o.Value, Format] = {
        key: replace(target.narrow, bits=bits[key]) if key in bits else target.wide for key in members
    }
    formats |= {key: table for key, table in tables.items() if key in members}
    if target.unsigned:
        formats |= {key: replace(f, signed=False) for key, f in formats.items()
                    if isinstance(f, Int) and f.signed and all(never_negative(graph, value) for value in members[key])}  # fmt: skip
    fixed = _fixed(members, formats, graph, integer) if target.kernels == "tflite" else _shares(members, graph, integer)
    if target.kernels == "exact":
        sixteen = {key for key, group in members.items() if not streams.isdisjoint(group)} | fixed.keys()
        formats |= dict.fromkeys(sixteen, INT16)
    weights = {o.results(op)[0]: _weight_format(op, target, recipe) for op in integer_ops if weight_of(op)}
    return Structure(
        graph, integer, {key: tuple(group) for key, group in members.items()}, formats, held, fixed, weights
    )


def _fixed(
    members: dict[o.Value, list[o.Value]], formats: dict[o.Value, Format], graph: Graph, integer: frozenset[o.Value]
) -> dict[o.Value, tuple[float, int]]:
    """The classes that hold the result of a kernel whose scale is prescribed."""
    found = {}
    for key, group in members.items():
        whole = INT8 if bits_of(formats[key]) < 8 else formats[key]  # which no reader makes smaller
        ranges = [fixed_range(graph.producer[value], whole) for value in group if value in integer]
        if known := [item for item in ranges if item is not None]:
            found[key], formats[key] = known[0], whole
    return found


def _shares(
    members: dict[o.Value, list[o.Value]], graph: Graph, integer: frozenset[o.Value]
) -> dict[o.Value, tuple[float, int]]:
    """The classes of softmax's shares that only matrix products read, which take them as they are."""

    def is_softmax(value: o.Value) -> bool:
        return value in integer and isinstance(graph.producer[value], o.Softmax)

    def only_multiplied(value: o.Value) -> bool:
        return all(isinstance(reader, o.MatMul) for reader in _readers(graph, value))

    return {
        key: (1 / SHARE_UNIT, 0)
        for key, group in members.items()
        if any(map(is_softmax, group)) and all(map(only_multiplied, group))
    }


def _join_concats(integer_ops: list[o.Op], classes: _Classes, target: Target) -> None:
    """Give operands and result of every concatenation one type, except those whose type the runtime prescribes."""
    prescribed = set[o.Value]()
    if target.kernels == "tflite":
        prescribed = {
            classes.find(o.results(op)[0]) for op in integer_ops if fixed_range(op, target.narrow) is not None
        }
    for op in integer_ops:
        if isinstance(op, o.Concat) and target.same_scale_concat:
            joined = [v for v in (*op.xs, op.out) if v in classes and classes.find(v) not in prescribed]
            classes.join(*joined)


def _joined(op: o.Op, target: Target) -> tuple[o.Value, ...]:
    if moves_codes(op):
        return (_activations(op)[0], o.results(op)[0])
    if target.kernels == "tflite" and keeps_type(op):
        return (_activations(op)[0], o.results(op)[0])
    return ()


def _bits_of_readers(
    integer_ops: list[o.Op], classes: _Classes, outputs: set[o.Value], target: Target, recipe: Recipe
) -> dict[o.Value, int]:
    """Bits of every narrow class: the most that a weighted operator (or softmax) which reads it asks for; outputs ask for all."""
    bits = {classes.find(value): target.narrow.bits for value in outputs}
    for op in integer_ops:
        if isinstance(op, (*WEIGHTED, o.Softmax)):
            asked = recipe.formats_of(o.results(op)[0])
            wanted = asked.activation if asked is not None else None
            count = wanted.bits if isinstance(wanted, Int) else target.narrow.bits
            for key in map(classes.find, _activations(op)):
                bits[key] = max(bits.get(key, 0), count)
    return bits


def _read_in_tables(integer_ops: list[o.Op], recipe: Recipe) -> frozenset[o.Value]:
    """What weighted operators take as codes of a table."""
    found = set[o.Value]()
    for op in integer_ops:
        if table_read(op, recipe) is not None:
            found.update(_activations(op))
    return frozenset(found)


def table_read(op: o.Op, recipe: Recipe) -> Format | None:
    """The table format in whose codes `op` reads its operand, if a rule says so; products of two activations never do."""
    asked = recipe.formats_of(o.results(op)[0]) if weight_of(op) else None
    return asked.activation if asked is not None and asked.activation and is_table(asked.activation) else None


def _tables_of_readers(
    integer_ops: list[o.Op], classes: _Classes, graph: Graph, recipe: Recipe
) -> dict[o.Value, Format]:
    """The table format of every class of copies (edgeq/passes/copies.py) that all readers take in one; of what is never
    negative its unsigned form."""
    asked: dict[o.Value, set[Format | None]] = {}
    for op in integer_ops:
        if isinstance(op, WEIGHTED):
            for value in _activations(op):
                asked.setdefault(classes.find(value), set()).add(table_read(op, recipe))
                if not isinstance(graph.producer.get(value), o.Apply):
                    asked[classes.find(value)].add(None)  # no copy, so rounded by a requantization
    found: dict[o.Value, Format] = {}
    for key, (first, *others) in asked.items():
        if first is not None and not others:
            found[key] = unsigned(first) if never_negative(graph, key) else first
    return found


def _weight_format(op: o.Op, target: Target, recipe: Recipe) -> Format:
    asked = recipe.formats_of(o.results(op)[0])
    return target.weight if asked is None or asked.weight is None else asked.weight
