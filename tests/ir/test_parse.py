"""Text that is not quite the text of a graph: the line and what was expected, never a traceback, never a hang."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.errors import UsageError
from edgeq.ir.graph import Array, Graph
from edgeq.ir.parse import from_text
from edgeq.ir.text import sha256, to_text
from tests.nets import integer_graphs

LINES = """\
edgeq graph 1
name "n"
input %x: int8[1,4] scale 0.5 zp -3
constant %w: int8[2,4] scale (0.5, 0.25) axis 0 sha256 FINGERPRINT
%a: int32[1,2] scale (0.25, 0.125) axis 1 = linear(%x, %w, none)
%y: int8[1,2] scale 1.0 = requantize(%a, multiplier=@1, shift=(-1, -2), rounding=single, low=-128, high=127)
%t: real[1,2] = apply(%z, function=clip(0.0, 6.0))
output %y
@1 = (1073741824, 1073741824)
"""
CONSTANTS: dict[str, Array] = {"w": np.zeros((2, 4), np.int8)}


def text_with(old: str = "", new: str = "") -> str:
    assert old in LINES
    return fingerprinted(LINES.replace(old, new, 1) if old else LINES)


def fingerprinted(text: str) -> str:
    return text.replace("FINGERPRINT", sha256(CONSTANTS["w"])[:16])


def test_the_unchanged_text_is_a_graph() -> None:
    graph = from_text(text_with(), CONSTANTS)
    assert [type(op).__name__ for op in graph.ops] == ["Linear", "Requantize", "Apply"]
    assert graph.types["x"].zero_point == -3


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ('name "n"', 'name "n', 2, "a quoted string"),
        ('name "n"', r'name "\x"', 2, "a JSON string"),
        ('name "n"', 'name "n" extra', 2, "the end of the line"),
        ('name "n"', 'name "n"\nname "m"', 3, "one name only"),
        ('name "n"', "banana", 2, "name, input, constant, output, %value or @number"),
        ("int8[1,4]", "int9x[1,4]", 3, "a number format such as int8"),
        ("int8[1,4]", "int800[1,4]", 3, "integer of 1 to 64 bits"),
        ("int8[1,4]", "e30m3[1,4]", 3, "minifloat with 1 to 5 exponent"),
        ("int8[1,4]", f"int{'9' * 5000}[1,4]", 3, "a number format such as int8"),
        ("int8[1,4]", "c8:1,2,99999999999999999999[1,4]", 3, "levels below 2^62"),
        ("int8[1,4]", "int8[1,-4]", 3, "a shape such as"),
        ("int8[1,4]", "int8 [1,4]", 3, "a shape such as"),
        ("int8[1,4]", f"int8[1,{'9' * 19}]", 3, "a shape such as"),
        ("int8[1,4]", "int8[1,٤]", 3, "a shape such as"),
        ("scale 0.5 zp", "scale half zp", 3, "a number"),
        ("scale 0.5 zp", "scale 0.5.5 zp", 3, "the end of the line"),
        ("zp -3", "zp 1.5", 3, "an integer"),
        ("zp -3", "zp --3", 3, "an integer"),
        ("input %x", "input x", 3, "'%'"),
        ("input %x", "input % x", 3, "a quoted string"),
        ("sha256 FINGERPRINT", "sha256 123", 4, "16 hexadecimal digits"),
        ("%a: int32", "%x: int32", 5, "a name other than 'x', which is defined above"),
        ("linear(", "linnear(", 5, "conv, conv_transpose, linear"),
        ("linear(%x", "linear(none", 5, "'%'"),
        ("%w, none)", "%w)", 5, "', '"),
        ("%w, none)", "%w, none, none)", 5, "no more attributes"),
        ("%w, none)", "%w, none", 5, "', '"),
        ("%w, none)", "%w, none) ", 5, "the end of the line"),
        ("rounding=single", "rounding=double", 6, "gemmlowp2, gemmlowp2-up, single, single15, fp32rne, fc-float"),
        ("rounding=single", "rounding=single, rounding=single", 6, "multiplier, shift, low, high|low, high"),
        (", high=127", "", 6, "also high"),
        ("high=127", "high=127.0", 6, "an integer"),
        ("shift=(-1, -2)", "shift=-1", 6, "'('"),
        ("shift=(-1, -2)", "shift=(-1 -2)", 6, "','"),
        ("multiplier=@1", "multiplier=@2", 6, "a line @2"),
        ("%y: int8", "%y: int8[1,2], %q: int8", 6, "1 results of requantize, not 2"),
        ("clip(0.0, 6.0)", "clip(0.0)", 7, "', '"),
        ("clip(0.0, 6.0)", "print(1)", 7, "relu, clip"),
        ("clip(0.0, 6.0)", "__import__('os')", 7, "relu, clip"),
        ("@1 = (1073741824, 1073741824)", "@1 = (1073741824, x)", 9, "an integer"),
        ("@1 = (1073741824, 1073741824)", "@1 = (1073741824) tail", 9, "the end of the line"),
        ("@1 = (1073741824, 1073741824)", "@1 = ()\n@1 = ()", 10, "@1 once only"),
        ("@1 = (1073741824, 1073741824)", "@x = ()", 9, "@number"),
    ],
)
def test_a_wrong_line_is_named(old: str, new: str, line: int, expected: str) -> None:
    with pytest.raises(UsageError) as raised:
        from_text(text_with(old, new), CONSTANTS)
    assert f"line {line}," in str(raised.value)
    assert any(part in str(raised.value.allowed) for part in expected.split("|"))
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("text", ["", "\n\n", "edgeq graph 2\n", "{}", "edgeq graph 1 \n", "\x00"])
def test_text_of_something_else(text: str) -> None:
    with pytest.raises(UsageError, match="not the text of a graph"):
        from_text(text, {})


def test_a_text_without_name() -> None:
    with pytest.raises(UsageError, match="no line with its name"):
        from_text("edgeq graph 1\n", {})


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({}, "constants of the text and of the arrays differ; got w"),
        ({**CONSTANTS, "extra": CONSTANTS["w"]}, "differ; got extra"),
        ({"w": np.ones((2, 4), np.int8)}, "not the one that the text was printed with; at w"),
    ],
)
def test_constants_must_be_those_of_the_text(constants: dict[str, Array], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_text(text_with(), constants)


@settings(deadline=None)
@given(st.text(max_size=200))
def test_garbage(text: str) -> None:
    for garbage in (text, f"edgeq graph 1\n{text}"):
        with pytest.raises(UsageError):
            from_text(garbage, {})


@pytest.mark.parametrize(
    "line",
    [
        "(" * 100_000,
        "%a: " + "int8[" * 50_000,
        "%a: int8[" + "1," * 50_000,
        'name "' + "\\" * 100_001,
        "%a: real[] = concat([" + "%a, " * 20_000,
        "%a: c9:" + "1," * 100_000,
        "%a: @1[]\n@1 = @1",
    ],
    ids=lambda line: line[:20],
)
def test_long_garbage_ends(line: str) -> None:
    with pytest.raises(UsageError) as raised:
        from_text(f"edgeq graph 1\n{line}", {})
    assert len(str(raised.value)) < 600


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(integer_graphs(steps=3), st.integers(0, 2**32), st.integers(1, 3))
def test_damaged_text_is_a_graph_or_a_usage_error(graph: Graph, seed: int, edits: int) -> None:
    chooser = random.Random(seed)
    text = to_text(graph)
    for _ in range(edits):
        start = chooser.randrange(len(text))
        stop = start + chooser.choice([0, 1, 1, 5, 40])
        text = (
            text[:start] + chooser.choice(["", " ", "9", "(", ")", "%", "@1", '"', "\n", ",", "-", "inf"]) + text[stop:]
        )
    try:
        from_text(text, graph.constants)
    except UsageError as error:
        assert "\n" not in str(error)
