"""Which operators run on codes, and which values must share one type: decided by the graph and the target alone.

An operator stays real when the target has no integer form of it, or (unless the target knows nothing else) when only
real operators read its result: the decode of a detector, the residual stream between layer norms. Values joined by operators that only move codes
share a type. A value read by a weighted operator is narrow, any other is wide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from edgeq.formats import INT8, INT16, Format, Int, bits_of, is_table, unsigned
from edgeq.ir import ops as o
from edgeq.ir.bounds import SHARE_UNIT
from edgeq.ir.graph import Graph
from edgeq.recipe import Recipe
from edgeq.reference.tflite import fixed_range, keeps_type
from edgeq.target import Target

Weighted = o.Conv | o.ConvTranspose | o.Linear | o.MatMul
Accumulating = Weighted | o.Add | o.Sub | o.Mul | o.AveragePool | o.Mean | o.Resize
_WEIGHTED = (o.Conv, o.ConvTranspose, o.Linear, o.MatMul)
_EXP = o.Function("exp")
CLAMPS = ("relu", "clip")
"""Functions that the clamp of a requantization computes."""

POSITIVE = ("relu", "sigmoid", "hardsigmoid", "softplus", "exp", "sqrt", "abs")
"""Functions without negative results; clip may be one."""


def is_weighted(op: o.Op) -> bool:
    """Whether `op` is a convolution or matrix product."""
    return isinstance(op, _WEIGHTED)


def weight_of(op: o.Op) -> o.Value | None:
    """The weight operand of a weighted operator with learned weights."""
    return op.weight if isinstance(op, o.Conv | o.ConvTranspose | o.Linear) else None


def is_matrix_product(op: o.Op, graph: Graph) -> bool:
    """Whether `op` with learned weights is a matrix product of rows, as a 1x1 convolution is."""
    if not isinstance(op, o.Conv):
        return isinstance(op, o.Linear)
    kernel = graph.types[op.weight].shape[2:]
    return (kernel, op.stride, op.padding, op.groups) == ((1, 1), (1, 1), (0, 0, 0, 0), 1)


def is_expectation(op: o.Op, graph: Graph) -> bool:
    """Whether `op` sums k p_k over a distribution (weights 0, 1, 2 …), as box-distribution decoders do."""
    weight = weight_of(op)
    if weight is None or weight not in graph.constants:
        return False
    array = graph.constants[weight].reshape(-1)
    return graph.types[weight].shape[0] == 1 and len(array) > 2 and bool(np.all(array == np.arange(len(array))))


def moves_codes(op: o.Op) -> bool:
    """Whether `op` only moves or selects elements, so that its result has its operand's type."""
    match op:
        case o.MaxPool() | o.Slice() | o.Reshape() | o.Transpose() | o.Expand() | o.Gather():
            return True
        case o.Pad():
            return op.mode != "constant" or op.value == 0.0
        case o.Resize():
            return op.mode == "nearest"
        case _:
            return False


def accumulates(op: o.Op) -> bool:
    """Whether the integer form of `op` yields a wide accumulator that is requantized afterwards."""
    if isinstance(op, o.Resize):
        return op.mode == "linear"
    return isinstance(op, (*_WEIGHTED, o.Add, o.Sub, o.Mul, o.AveragePool, o.Mean, o.Softmax, o.LayerNorm))


TFLITE_SOFTMAX_LIMIT = 512
"""So many equal shares are each half a step of LiteRT's 1/256, where its reference kernel shifts by 32 bits and aborts."""


def _fits_integers(op: o.Op, graph: Graph, target: Target) -> bool:
    if type(op) not in target.integer_ops or not all(graph.types[v].is_real for v in o.results(op)):
        return False
    match op:
        case o.Conv() | o.ConvTranspose() | o.Linear():
            constants = [v for v in (op.weight, op.bias) if v is not None]
            channels = graph.types[op.x].shape[-1 if isinstance(op, o.Linear) else 1]
            fits = all(v in graph.constants for v in constants) and channels >= target.least_channels
            return fits and not is_expectation(op, graph)
        case o.LayerNorm():
            return all(v in graph.constants for v in (op.gamma, op.beta) if v is not None)
        case o.AveragePool():
            return op.count_padding or not any(op.padding)
        case o.Resize():
            return op.mode != "cubic"
        case o.Pad():
            return moves_codes(op)
        case o.Softmax():
            narrow = target.kernels == "tflite" and target.narrow.bits <= 8
            return not narrow or graph.types[op.x].shape[op.axis] < TFLITE_SOFTMAX_LIMIT
        case o.Apply():
            return target.narrow.bits <= 8 or op.function.name in (*CLAMPS, *target.wide_functions)
        case o.Add() | o.Sub() | o.Mul():
            return not all(v in graph.constants for v in (op.a, op.b))
        case _:
            return True


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


def gated_function(readers: list[o.Op]) -> o.Function | None:
    """silu or hardswish, when `readers` are the two halves of x g(x)."""
    match readers:
        case [
            o.Apply(function=o.Function(name="sigmoid" | "hardsigmoid" as name)) as gate,
            o.Mul() as product,
        ]:
            if {product.a, product.b} == {gate.x, gate.out}:
                return o.Function("silu" if name == "sigmoid" else "hardswish")
    return None


def _integer_results(graph: Graph, target: Target, recipe: Recipe) -> frozenset[o.Value]:
    able = {
        o.results(op)[0]
        for op in graph.ops
        if _fits_integers(op, graph, target) and not recipe.keeps_real(o.results(op)[0])
    }
    return integer_part(graph, target, able)


def integer_part(graph: Graph, target: Target, able: Collection[o.Value]) -> frozenset[o.Value]:
    """Results of the operators that run on codes, out of those that could."""
    found: set[o.Value] = set()
    for op in reversed(graph.ops):
        result = o.results(op)[0]
        if result not in able:
            continue
        leaves_as_codes = target.ports == "codes" and result in graph.outputs and not _mixes_kinds(result, graph)
        if leaves_as_codes or isinstance(op, _WEIGHTED) or read_as_codes(op, graph, found):
            found.add(result)
    return frozenset(_without_real_arithmetic(graph, found))


def read_as_codes(op: o.Op, graph: Graph, integer: Collection[o.Value]) -> bool:
    """Whether an operator on codes, by its result in `integer`, reads a result of `op`."""
    return any(o.results(reader)[0] in integer for value in o.results(op) for reader in graph.consumers.get(value, ()))


def _mixes_kinds(value: o.Value, graph: Graph) -> bool:
    """Whether a decode puts different things, such as boxes and scores, into one tensor, which one scale cannot hold."""
    op = graph.producer.get(value)
    if op is None or isinstance(op, _WEIGHTED):
        return False
    return isinstance(op, o.Concat) or any(_mixes_kinds(operand, graph) for operand in o.operands(op))


def _without_real_arithmetic(graph: Graph, integer: set[o.Value]) -> set[o.Value]:
    """`integer` less element-wise operators whose operands real operators compute: rounding waits for their result."""
    kept = set(integer)
    for op in graph.ops:
        if o.results(op)[0] in kept and isinstance(op, o.Apply | o.Mul | o.Add | o.Sub):
            computed = [value for value in o.operands(op) if value in graph.producer]
            if computed and not any(value in kept for value in computed):
                kept.discard(o.results(op)[0])
    return kept


def _readers(graph: Graph, value: o.Value) -> Iterator[o.Op | None]:
    """What reads a value, directly or moved to other places; None stands for the caller."""
    if value in graph.outputs:
        yield None
    for op in graph.consumers.get(value, ()):
        if moves_codes(op):
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
    integer = _integer_results(graph, target, recipe)
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
        if isinstance(op, (*_WEIGHTED, o.Softmax)):
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
        if isinstance(op, _WEIGHTED):
            for value in _activations(op):
                asked.setdefault(classes.find(value), set()).add(table_read(op, recipe))
                if not isinstance(graph.producer.get(value), o.Apply):
                    asked[classes.find(value)].add(None)  # no copy, so rounded by a requantization
    found: dict[o.Value, Format] = {}
    for key, (first, *others) in asked.items():
        if first is not None and not others:
            found[key] = unsigned(first) if never_negative(graph, key) else first
    return found


def never_negative(graph: Graph, value: o.Value) -> bool:
    """Whether the operators behind a value say that it is at least zero: a ReLU, whatever only moves, picks or averages it."""
    maker = graph.producer.get(value)
    match maker:
        case o.Softmax():
            return True
        case o.Apply(function=o.Function(name="clip") as clip):
            return clip.a >= 0 or never_negative(graph, maker.x)
        case o.Apply():
            return maker.function.name in POSITIVE
        case o.Concat():
            return all(never_negative(graph, x) for x in maker.xs)
        case o.Resize():
            return maker.mode != "cubic" and never_negative(graph, maker.x)  # which overshoots
        case o.MaxPool() | o.AveragePool() | o.Mean():
            return never_negative(graph, maker.x)
        case o.Add():
            return never_negative(graph, maker.a) and never_negative(graph, maker.b)
        case None:
            return False
        case _:
            return moves_codes(maker) and never_negative(graph, o.operands(maker)[0])


def _weight_format(op: o.Op, target: Target, recipe: Recipe) -> Format:
    asked = recipe.formats_of(o.results(op)[0])
    return target.weight if asked is None or asked.weight is None else asked.weight
