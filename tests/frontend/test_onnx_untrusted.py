"""Files that nobody vouches for: every one is read, or refused with one line and the right exit code."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.errors import EdgeqError, UnsupportedError, UsageError
from edgeq.frontend.onnx import import_onnx
from edgeq.frontend.onnx_load import first_line
from tests.onnx_text import model

RNG = np.random.default_rng(2)


def network() -> onnx.ModelProto:
    """A small network with most kinds of content: weights, attributes, shape arithmetic, a branch, a function."""
    body = """(float[1,3,8,8] x) => (float[1,"n"] y, float[1,4,4,4] z) {
        a = Conv<strides = [2,2], pads = [1,1,1,1]>(x, w, c)  f = own.Twice(a)
        z = If (t) <then_branch = p () => (float[1,4,4,4] r) { r = Relu(f) },
                    else_branch = q () => (float[1,4,4,4] s) { s = Neg(f) }>
        u = Resize<mode = "linear">(z, , scales)  v = Shape(u)  h = Gather(v, one)  i = Unsqueeze(h, zero)
        j = Concat<axis = 0>(one_v, minus)  y = Reshape(u, j) }"""
    weights = {
        "w": RNG.normal(0, 1, (4, 3, 3, 3)),
        "c": RNG.normal(0, 1, 4),
        "t": np.array(True),
        "scales": np.float32([1, 1, 2, 2]),
        "one": np.int64(1),
        "one_v": np.int64([1]),
        "zero": np.int64([0]),
        "minus": np.int64([-1]),
    }
    own = '<domain: "own", opset_import: ["" : 17]> Twice (a) => (b) { b = Add(a, a) }'
    return model(body, weights, more=own)


BYTES = network().SerializeToString()


def refused(source: bytes | str | Path | onnx.ModelProto, error: type[EdgeqError] = UnsupportedError) -> str:
    """The one line that refuses `source`."""
    with pytest.raises(error) as caught:
        import_onnx(source)
    message = str(caught.value)
    assert "\n" not in message
    assert type(caught.value).exit_code == error.exit_code
    return message


def test_the_network_is_read() -> None:
    assert len(import_onnx(BYTES).ops) >= 5


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"ONNX",
        b"not a model at all" * 9,
        b"\xff" * 4096,
        b"PK\x03\x04" + b"\x00" * 99,
        b"\x08\x07",
        b"\x3a\x00",
    ],
)
def test_bytes_that_are_no_model(content: bytes, tmp_path: Path) -> None:
    assert "not an ONNX model" in refused(content)
    (tmp_path / "model.onnx").write_bytes(content)
    assert "not an ONNX model" in refused(tmp_path / "model.onnx")


def test_every_truncation() -> None:
    for length in range(0, len(BYTES), 7):
        try:
            import_onnx(BYTES[:length])
        except UnsupportedError:
            continue
        assert length == 0


@given(st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=400, deadline=None)
def test_changed_bytes(changes: list[tuple[int, int]]) -> None:
    content = bytearray(BYTES)
    for place, byte in changes:
        content[place] = byte
    try:
        import_onnx(bytes(content))
    except (UnsupportedError, UsageError) as error:
        assert "\n" not in str(error)


def test_errors_without_words() -> None:
    """Where a message quotes bytes that are no text, some builds of the checker lose all of it."""
    assert first_line(onnx.checker.ValidationError()) == "ValidationError"
    assert first_line(ValueError("\nbad\nworse")) == "bad"


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_changed_fields(data: st.DataObject) -> None:
    """Mutations that keep the file well-formed: other operators, operands, attributes, shapes."""
    proto = onnx.ModelProto.FromString(BYTES)
    node = data.draw(st.sampled_from(list(proto.graph.node)))
    names = [name for n in proto.graph.node for name in (*n.input, *n.output)]
    match data.draw(st.sampled_from(["type", "input", "output", "ints", "int", "dims", "drop"])):
        case "type":
            node.op_type = data.draw(
                st.sampled_from(["Conv", "Gather", "Slice", "Reshape", "TopK", "Einsum", "Pad", "Tile"])
            )
        case "input" if node.input:
            node.input[data.draw(st.integers(0, len(node.input) - 1))] = data.draw(st.sampled_from(names))
        case "output":
            node.output[0] = data.draw(st.sampled_from(names))
        case "ints" | "int" if node.attribute:
            attribute = data.draw(st.sampled_from(list(node.attribute)))
            attribute.ints[:] = data.draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
            attribute.i = data.draw(st.integers(-(2**63), 2**63 - 1))
        case "dims":
            tensor = data.draw(st.sampled_from(list(proto.graph.initializer)))
            tensor.dims[:] = data.draw(st.lists(st.integers(-2, 2**40), max_size=4))
        case _:
            proto.graph.node.remove(node)
    try:
        import_onnx(proto)
    except (UnsupportedError, UsageError) as error:
        assert "\n" not in str(error)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert "no such model file" in refused(tmp_path / "none.onnx", UsageError)
    assert "no such model file" in refused(tmp_path, UsageError)
    assert "no such model file" in refused("model\0.onnx", UsageError)
    os.mkfifo(tmp_path / "pipe.onnx")
    assert "no such model file" in refused(tmp_path / "pipe.onnx", UsageError)


def test_a_sparse_giant_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "giant.onnx").open("wb") as file:
        file.truncate(1 << 40)
    assert "too large" in refused(tmp_path / "giant.onnx")


# --- structure ----------------------------------------------------------------------------------------------


def simple(
    body: str = "(float[2,3] x) => (float[2,3] y) { a = Relu(x)  y = Neg(a) }", **weights: object
) -> onnx.ModelProto:
    return model(body, weights)  # type: ignore[arg-type]


def cyclic() -> onnx.ModelProto:
    proto = simple()
    proto.graph.node[0].input[0] = "y"
    return proto


def twice_defined() -> onnx.ModelProto:
    proto = simple()
    proto.graph.node[1].output[0] = "a"
    proto.graph.output[0].name = "a"
    return proto


def twice_initialized() -> onnx.ModelProto:
    proto = simple("(float[2,3] x) => (float[2,3] y) { y = Add(x, w) }", w=np.ones(3))
    proto.graph.initializer.append(proto.graph.initializer[0])
    proto.graph.initializer[1].raw_data = np.zeros(3, np.float32).tobytes()
    return proto


def without_output() -> onnx.ModelProto:
    proto = simple()
    proto.graph.output[0].name = "nowhere"
    return proto


def not_a_number() -> onnx.ModelProto:
    return simple("(float[2,3] x) => (float[2,3] y) { y = Add(x, w) }", w=np.float32([1, np.nan, 2]))


def enormous_weight() -> onnx.ModelProto:
    proto = simple("(float[2,3] x) => (float[2,3] y) { y = Add(x, w) }", w=np.ones(3))
    proto.graph.initializer[0].dims[:] = [1 << 31, 1 << 31]
    return proto


def short_weight() -> onnx.ModelProto:
    proto = simple("(float[2,3] x) => (float[2,3] y) { y = Add(x, w) }", w=np.ones(3))
    proto.graph.initializer[0].dims[:] = [4]
    return proto


def negative_weight_shape() -> onnx.ModelProto:
    proto = simple("(float[2,3] x) => (float[2,3] y) { y = Add(x, w) }", w=np.ones(3))
    proto.graph.initializer[0].dims[:] = [-3]
    return proto


def strings() -> onnx.ModelProto:
    return simple("(string[2] x) => (string[2] y) { y = Identity(x) }")


def sequence_input() -> onnx.ModelProto:
    return simple("(seq(float[2]) x) => (seq(float[2]) y) { y = Identity(x) }")


def empty_input() -> onnx.ModelProto:
    return simple("(float[2,0] x) => (float[2,0] y) { y = Relu(x) }")


def enormous_input() -> onnx.ModelProto:
    return simple("(float[2147483648,4] x) => (float[2147483648,4] y) { y = Relu(x) }")


def enormous_value() -> onnx.ModelProto:
    return simple("(float[1,1] x) => (float[65536,65536] y) { y = Expand(x, s) }", s=np.int64([65536, 65536]))


def enormous_constant() -> onnx.ModelProto:
    return simple(
        "(float[1] x) => (float[1] y) { c = ConstantOfShape(s)  m = ReduceMax<keepdims = 0>(c)  y = Add(x, m) }",
        s=np.int64([1 << 20, 1 << 20]),
    )


def endless_range() -> onnx.ModelProto:
    return simple(
        "(float[1] x) => (float[1] y) { c = Range(a, b, d)  m = ReduceMax<keepdims = 0>(c)  y = Add(x, m) }",
        a=np.float32(0), b=np.float32(1e30), d=np.float32(1e-30),
    )  # fmt: skip


def doubling_constants() -> onnx.ModelProto:
    steps = "  ".join(f"c{k + 1} = Concat<axis = 0>(c{k}, c{k})" for k in range(60))
    return simple(
        f"(float[1] x) => (float[1] y) {{ {steps}  m = ReduceMax<keepdims = 0>(c60)  y = Add(x, m) }}", c0=np.ones(64)
    )


def doubling_functions() -> onnx.ModelProto:
    functions = "\n".join(
        f'<domain: "own", opset_import: ["" : 17, "own" : 1]> F{k} (a) => (b) '
        f"{{ c = own.F{k + 1}(a)  b = own.F{k + 1}(c) }}"
        for k in range(40)
    )
    last = '\n<domain: "own", opset_import: ["" : 17]> F40 (a) => (b) { b = Relu(a) }'
    return model("(float[2] x) => (float[2] y) { y = own.F0(x) }", more=functions + last)


def recursive_function() -> onnx.ModelProto:
    own = '<domain: "own", opset_import: ["" : 17, "own" : 1]> F (a) => (b) { c = Relu(a)  b = own.F(c) }'
    return model("(float[2] x) => (float[2] y) { y = own.F(x) }", more=own)


def malformed_operands() -> onnx.ModelProto:
    return simple("(float[2,3] x) => (float[2,3] y) { y = Conv(x, w) }", w=np.ones((2, 3)))


def a_loop() -> onnx.ModelProto:
    return simple(
        """(float[2] x) => (float[2] y) { y = Loop (n, , x) <body = b (int64 i, bool c, float[2] p)
        => (bool d, float[2] q) { d = Identity(c)  q = Relu(p) }> }""",
        n=np.int64(1 << 60),
    )


def unknown_type() -> onnx.ModelProto:
    proto = simple()
    proto.graph.input[0].type.tensor_type.elem_type = 99
    return proto


BROKEN: list[Callable[[], onnx.ModelProto]] = [
    cyclic, twice_defined, twice_initialized, without_output, not_a_number, enormous_weight, short_weight,
    negative_weight_shape, strings, sequence_input, empty_input, enormous_input, enormous_value, enormous_constant,
    endless_range, doubling_constants, doubling_functions, recursive_function, malformed_operands, a_loop, unknown_type,
]  # fmt: skip


@pytest.mark.parametrize("build", BROKEN)
def test_broken_models(build: Callable[[], onnx.ModelProto]) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    refused(build())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20  # KiB
    assert time.monotonic() - start < 60  # a hang, not a speed


# --- external data ------------------------------------------------------------------------------------------


def external(folder: Path, location: str, **entries: int) -> Path:
    """A model whose weight lies in `location`; the data itself is a file beside the folder and one inside it."""
    folder.mkdir(exist_ok=True)
    data = np.arange(3, dtype=np.float32).tobytes()
    (folder / "inside.data").write_bytes(data)
    (folder.parent / "outside.data").write_bytes(data)
    proto = simple("(float[2,3] x) => (float[2,3] y) { y = Add(x, w) }", w=np.ones(3))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_inside_is_read(tmp_path: Path) -> None:
    graph = import_onnx(external(tmp_path / "m", "inside.data", offset=0, length=12))
    np.testing.assert_array_equal(graph.constants["w"], [0, 1, 2])


@pytest.mark.parametrize(
    "location", ["../outside.data", "/etc/passwd", "", ".", "m/../../outside.data", "absent.data", "a\0b"]
)
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    refused(external(tmp_path / "m", location))


@pytest.mark.parametrize(
    "entries", [{"offset": 8, "length": 12}, {"offset": -4}, {"length": 1 << 62}, {"offset": 4}, {"length": 4}]
)
def test_external_data_out_of_range_is_refused(tmp_path: Path, entries: dict[str, int]) -> None:
    refused(external(tmp_path / "m", "inside.data", **entries))


def test_links_are_refused(tmp_path: Path) -> None:
    path = external(tmp_path / "m", "link.data")
    (tmp_path / "m" / "link.data").symlink_to(tmp_path / "outside.data")
    refused(path)
    path = external(tmp_path / "m", "folder/outside.data")
    (tmp_path / "m" / "folder").symlink_to(tmp_path)
    refused(path)


def test_external_data_of_bytes_is_refused(tmp_path: Path) -> None:
    assert "path" in refused(external(tmp_path / "m", "inside.data").read_bytes())
