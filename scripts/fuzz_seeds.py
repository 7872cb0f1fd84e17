"""The files that fuzzing starts from: small networks of both formats, and shapes of known attacks on their readers."""

from __future__ import annotations

import struct

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_text import model
from tests.tflite_nets import float_net, functions_net, integer_net, layout_net

_CONVOLUTIONS = """(float[1,3,8,8] x) => (float[1,5] y, float[1,4,4,4] z) {
    a = Conv<strides = [2,2], pads = [1,1,1,1]>(x, w, c)  f = own.Twice(a)
    z = If (t) <then_branch = p () => (float[1,4,4,4] r) { r = Relu(f) },
                else_branch = q () => (float[1,4,4,4] s) { s = Neg(f) }>
    u = Resize<mode = "linear">(z, , scales)  n = BatchNormalization(u, c, c, c, v)  g = GlobalAveragePool(n)
    h = Flatten(g)  y = Gemm<transB = 1>(h, m, b) }"""
_ATTENTION = """(float[1,6,8] x) => (float[1,6,8] y) {
    q = MatMul(x, m)  t = Transpose<perm = [0,2,1]>(q)  a = MatMul(q, t)  p = Softmax<axis = -1>(a)
    o = MatMul(p, q)  l = LayerNormalization(o, g, g)  y = Add(l, x) }"""
_SHAPES = """(float[1,4,6,6] x) => (float[1,9,16] y, int64[1,9,2] i) {
    s = Shape(x)  n = Gather(s, one)  u = Unsqueeze(n, zero)  four = Mul(u, four_v)
    d = SpaceToDepth<blocksize = 2>(x)  shape = Concat<axis = 0>(one_v, four, minus)
    r = Reshape(d, shape)  y = Transpose<perm = [0,2,1]>(r)  k, i = TopK<axis = -1>(y, two) }"""
_QUANTIZED = """(float[1,3,8,8] x) => (float[1,4,8,8] y) {
    a = QuantizeLinear(x, s, z)  b = DequantizeLinear(a, s, z)  v = DequantizeLinear<axis = 0>(w, ws, wz)
    c = Conv<pads = [1,1,1,1]>(b, v)  d = QuantizeLinear(c, s, z)  y = DequantizeLinear(d, s, z) }"""


def onnx_seeds() -> list[bytes]:
    """Networks, and files shaped like published attacks: data outside the folder, huge sizes, cycles, deep nesting."""
    rng = np.random.default_rng(0)
    twice = '<domain: "own", opset_import: ["" : 17]> Twice (a) => (b) { b = Add(a, a) }'
    first = {
        "w": rng.normal(0, 1, (4, 3, 3, 3)), "c": rng.normal(0, 1, 4), "t": np.array(True), "v": np.ones(4),
        "scales": np.float32([1, 1, 2, 2]), "m": rng.normal(0, 1, (5, 4)), "b": rng.normal(0, 1, 5),
    }  # fmt: skip
    third = {"one": np.int64(1), "zero": np.int64([0]), "one_v": np.int64([1]), "four_v": np.int64([4]),
             "minus": np.int64([-1]), "two": np.int64([2])}  # fmt: skip
    fourth = {"w": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8), "ws": np.full(4, 0.01, np.float32),
              "wz": np.zeros(4, np.int8), "s": np.float32(0.05), "z": np.int8(3)}  # fmt: skip
    networks = [
        model(_CONVOLUTIONS, first, more=twice),
        model(_ATTENTION, {"m": rng.normal(0, 1, (8, 8)), "g": np.ones(8)}),
        model(_SHAPES, third),
        model(_QUANTIZED, fourth),
    ]
    return [proto.SerializeToString() for proto in (*networks, *_onnx_attacks())]


def _onnx_attacks() -> list[onnx.ModelProto]:
    def graph(nodes: list[onnx.NodeProto], *weights: TensorProto) -> onnx.ModelProto:
        ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
        made = helper.make_graph(nodes, "g", ports[:1], ports[1:], list(weights))
        return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    outside = numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="../../../etc/passwd")
    huge = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1 << 31, 1 << 31])
    many = numpy_helper.from_array(np.int64([1 << 31, 1 << 31]), "w")
    return [
        graph([helper.make_node("MatMul", ["x", "w"], ["y"])], outside),
        graph([helper.make_node("MatMul", ["x", "w"], ["y"])], huge),
        graph([helper.make_node("Expand", ["x", "w"], ["y"])], many),
        graph([helper.make_node("Add", ["x", "a"], ["b"]), helper.make_node("Add", ["b", "x"], ["a"]),
               helper.make_node("Add", ["a", "b"], ["y"])]),
        graph([helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["y"], ["y"])]),
    ]  # fmt: skip


def tflite_seeds() -> list[bytes]:
    """Networks, and files shaped like published attacks: eight bytes, offsets that point nowhere or at themselves."""
    networks = [
        float_net(), float_net("float16"), float_net("int8"), layout_net(), integer_net(), integer_net("int16"),
        integer_net(weight="int4"), functions_net(),
    ]  # fmt: skip
    attacks = [
        b"\x08\x00\x00\x00TFL3",
        b"\xff\xff\xff\xffTFL3" + bytes(8),
        struct.pack("<I4sIi", 8, b"TFL3", 4, 0),
        struct.pack("<I4sHHHHHHi", 16, b"TFL3", 12, 8, 4, 4, 4, 4, 12),
        networks[0] + b"PK\x05\x06" + bytes(18),
    ]
    return networks + attacks


SEEDS = {"onnx": onnx_seeds, "tflite": tflite_seeds}
