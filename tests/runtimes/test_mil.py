"""Our reading of MIL operators beside coremltools', which computes operators on constants while it builds a program."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgeq.emit.coreml_read import Spot
from edgeq.errors import UnsupportedError
from edgeq.runtimes.mil import Call, Content, as_declared, compute

RNG = np.random.default_rng(0)
X = RNG.normal(0, 2, (2, 3, 4, 5)).astype(np.float32)
Y = RNG.normal(0, 2, (3, 1, 5)).astype(np.float32)
POSITIVE = np.abs(X) + np.float32(0.1)
WHOLE, DIVISOR = (np.rint(array * 4).astype(np.int32) for array in (X, Y))
DIVISOR[DIVISOR == 0] = 3
HALVES = np.arange(-8, 8, dtype=np.float32).reshape(2, 8) / 2

CASES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {"x": X}) for kind in ("relu", "sigmoid", "tanh", "exp", "abs", "erf", "sin", "cos", "floor")),
    *((kind, {"x": X}) for kind in ("ceil", "sign", "softplus", "identity")),
    *((kind, {"x": POSITIVE}) for kind in ("log", "sqrt")),
    ("round", {"x": HALVES}),
    *((kind, {"x": X, "y": Y}) for kind in ("add", "sub", "mul", "real_div", "maximum", "minimum", "mod")),
    *((kind, {"x": WHOLE, "y": DIVISOR}) for kind in ("mod", "floor_div", "equal", "less_equal", "greater")),
    ("pow", {"x": POSITIVE, "y": Y}),
    ("clip", {"x": X, "alpha": np.float32(-1), "beta": np.float32(0.5)}),
    ("leaky_relu", {"x": X, "alpha": np.float32(0.2)}),
    ("elu", {"x": X, "alpha": np.float32(0.7)}),
    ("sigmoid_hard", {"x": X, "alpha": np.float32(0.3), "beta": np.float32(0.4)}),
    ("gelu", {"x": X, "mode": "EXACT"}),
    ("gelu", {"x": X, "mode": "TANH_APPROXIMATION"}),
    ("matmul", {"x": X, "y": X, "transpose_y": True}),
    ("linear", {"x": X[0, 0], "weight": Y[:, 0], "bias": np.float32([1, 2, 3])}),
    ("softmax", {"x": X, "axis": np.int32(1)}),
    ("layer_norm", {"x": X, "axes": np.int32([2, 3]), "epsilon": np.float32(1e-3)}),
    *((kind, {"x": X, "axes": np.int32([1, 3]), "keep_dims": True}) for kind in ("reduce_mean", "reduce_sum")),
    *((kind, {"x": X, "axes": np.int32([2]), "keep_dims": True}) for kind in ("reduce_max", "reduce_l2_norm")),
    ("reduce_argmax", {"x": X, "axis": np.int32(1), "keep_dims": True}),
    ("select", {"cond": X > 0, "a": X, "b": Y}),
    ("concat", {"values": [X, X], "axis": np.int32(2)}),
    (
        "slice_by_index",
        {
            "x": X, "begin": np.int32([1, 2, 0, 4]), "end": np.int32([2, 0, 4, 0]), "stride": np.int32([1, -1, 2, -2]),
            "end_mask": np.array([False, True, False, False]),
        },
    ),
    ("pad", {"x": X, "pad": np.int32([0, 1, 2, 0]), "mode": "constant", "constant_val": np.float32(1.5)}),
    ("reshape", {"x": X, "shape": np.int32([6, 20])}),
    ("transpose", {"x": X, "perm": np.int32([2, 0, 3, 1])}),
    ("tile", {"x": X, "reps": np.int32([1, 2, 1, 3])}),
    ("gather", {"x": X, "indices": np.int32([[2, 0]]), "axis": np.int32(1)}),
    ("gather_along_axis", {"x": X, "indices": np.abs(WHOLE) % 4, "axis": np.int32(2)}),
    ("cast", {"x": X, "dtype": "int32"}),
    ("quantize", {"input": X, "scale": np.float32(0.02), "zero_point": np.int8(5), "output_dtype": "int8"}),
]  # fmt: skip


def apples(kind: str, inputs: dict[str, Any]) -> Any:
    """The value that coremltools infers; None where it has no rule."""
    import coremltools as ct
    from coremltools.converters.mil import Builder

    found = []

    @Builder.program(input_specs=[Builder.TensorSpec((1,))], opset_version=ct.target.iOS17)
    def program(unused: Any) -> Any:
        given = {k: [Builder.const(val=v) for v in vs] if isinstance(vs, list) else vs for k, vs in inputs.items()}
        found.append(getattr(Builder, kind)(**given))
        return Builder.identity(x=unused)

    del program
    return found[0].val


def content(value: Any) -> list[Content]:
    if isinstance(value, list):
        return [part for item in value for part in content(item)]
    if isinstance(value, str):
        return [value]
    array = np.asarray(value)
    dtype = {"f": "fp32", "b": "bool", "i": "int8" if array.dtype == np.int8 else "int32"}[array.dtype.kind]
    return [as_declared(torch.from_numpy(np.array(array)), dtype)]


@pytest.mark.parametrize(("kind", "inputs"), CASES, ids=[f"{kind}-{k}" for k, (kind, _) in enumerate(CASES)])
def test_operators(kind: str, inputs: dict[str, Any]) -> None:
    wanted = apples(kind, inputs)
    assert wanted is not None, "coremltools has no rule for this operator"
    found = compute(Call(kind, {key: content(value) for key, value in inputs.items()}, Spot("out", wanted.shape, "")))
    assert isinstance(found, torch.Tensor)
    assert tuple(found.shape) == wanted.shape
    assert np.allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5), kind
    assert len(np.unique(wanted)) > 1


def test_operators_without_a_rule_there() -> None:
    """silu x / (1 + e^-x) and dequantize (code - zero point) scale, by their formulas."""
    silu = compute(Call("silu", {"x": content(X)}, Spot("out", X.shape, "fp32")))
    assert isinstance(silu, torch.Tensor) and np.allclose(silu.numpy(), X / (1 + np.exp(-X)), atol=1e-6)
    codes = WHOLE.astype(np.int8)
    inputs = {"input": content(codes), "scale": content(np.float32(0.02)), "zero_point": content(np.int8(5))}
    reals = compute(Call("dequantize", inputs, Spot("out", X.shape, "fp32")))
    assert isinstance(reals, torch.Tensor) and np.allclose(reals.numpy(), (codes.astype(int) - 5) * 0.02, atol=1e-6)


def test_half_precision_rounds_once() -> None:
    third = torch.tensor([1 / 3, 1e-9, 70000.0])
    assert as_declared(third, "fp16").tolist() == np.float16([1 / 3, 1e-9, np.inf]).astype(np.float32).tolist()
    with pytest.raises(UnsupportedError, match="got bf16"):
        as_declared(third, "bf16")


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(UnsupportedError, match="does not write; at y; got lstm"):
        compute(Call("lstm", {}, Spot("y", (1,), "fp32")))
