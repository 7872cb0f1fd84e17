"""The table of targets: one row for each board and format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from edgeq.catalogue import FAMILIES, FP8_E4M3, FP8_E5M2, NAMED, KMeans
from edgeq.errors import UsageError, did_you_mean
from edgeq.formats import (
    E2M1,
    E2M3,
    INT4,
    INT8,
    INT8_NARROW,
    INT16,
    POST4,
    POT4,
    UINT8,
    Float,
    Format,
    Int,
    bits_of,
    fits_in_bytes,
)
from edgeq.ir import ops as o
from edgeq.target import Agreement, Instructions, StoredWeights, Target

HALF_DB = 40.0
"""Rounding operands and result to half precision once leaves about 70 dB; sums that cancel, less (51 at the worst seen)."""

# Operators with an exact meaning on codes; everything else is computed on reals.
INTEGER_OPS: frozenset[type[o.Op]] = frozenset(
    {
        o.Conv, o.ConvTranspose, o.Linear, o.MatMul, o.Add, o.Sub, o.Mul, o.Apply, o.MaxPool, o.AveragePool, o.Mean,
        o.Resize, o.Concat, o.Slice, o.Pad, o.Reshape, o.Transpose, o.Expand, o.Gather,
    }
)  # fmt: skip


# Integers are Quant nodes, minifloats FloatQuant; tables are INT8 by their levels.
QONNX_WEIGHTS: tuple[Format, ...] = (
    *(Int(bits, narrow=True) for bits in range(2, 17)),
    *(Float(exponent, mantissa) for exponent in range(1, 6) for mantissa in range(1, 7 - exponent + 1)),
    FP8_E4M3, FP8_E5M2,
)  # fmt: skip


# Tables of up to 4 bits halve the file, and others have levels beyond a byte: the file holds their own codes.
ONNX_TABLES: tuple[Format, ...] = (
    *(format_ for format_ in NAMED.values() if bits_of(format_) <= 4 or not fits_in_bytes(format_)),
    *(Float(exponent, mantissa) for exponent in range(2, 6) for mantissa in range(1, 8 - exponent)
      if exponent + mantissa == 3 or not fits_in_bytes(Float(exponent, mantissa))),
)  # fmt: skip


def _stored(name: str, summary: str, weights: StoredWeights, ios: int, aliases: tuple[str, ...] = ()) -> Target:
    """A CoreML target that computes in half precision on stored weights."""
    return Target(
        name,
        f"CoreML with {summary} (iOS {ios}, macOS {ios - 3})",
        emitter="coreml",
        runtime="coreml",
        precision="fp16",
        agreement=Agreement(real_layer_db=HALF_DB),
        stored_weights=weights,
        half_scales=True,
        more_weights=(INT8_NARROW, *((INT4, POST4, POT4) if ios >= 18 else ())),
        ios=ios,
        aliases=aliases,
    )


# What generated C computes besides: attention and normalization, so that transformers need no reals.
TRANSFORMER_OPS = INTEGER_OPS | {o.Softmax, o.LayerNorm}

# Functions that linear interpolation between 513 samples of 16-bit codes computes well.
SMOOTH: tuple[o.FunctionName, ...] = (
    "sigmoid", "tanh", "silu", "hardswish", "hardsigmoid", "gelu", "gelu_tanh", "mish", "softplus", "elu", "leaky_relu", "erf",
)  # fmt: skip

# LiteRT's SOFTMAX takes and gives codes, though it computes in single precision in between.
TFLITE_OPS = INTEGER_OPS | {o.Softmax}


def tflite_target(name: str, summary: str, **fields: Any) -> Target:
    """A row for integer TFLite files; `fields` replace what they have in common."""
    common = Target(
        name,
        summary,
        emitter="tflite",
        runtime="litert",
        precision="int8",
        agreement=Agreement(equal_share=0.999),  # of LiteRT's reference kernels
        wide=INT8,
        symmetric=False,
        same_scale_concat=True,  # QUANTIZE in front of each operand costs time and, in XNNPACK, a code in five
        kernels="tflite",
        rounding="gemmlowp2",
        decomposed=("silu",),
        more_weights=(INT4, INT8_NARROW),
        integer_ops=TFLITE_OPS,
    )
    return replace(common, **fields)


def c_target(name: str, processor: str, instructions: Instructions = "portable", **fields: Any) -> Target:
    """A row for integer-only C; `fields` replace what they have in common."""
    common = Target(
        name,
        f"integer-only C99 for {processor}",
        emitter="c",
        runtime="native",
        precision="int8",
        agreement=Agreement(equal_share=1.0, code_difference=0),
        wide=INT8,
        symmetric=False,
        estimator="auto",
        rounding="single",
        ports="codes",
        instructions=instructions,
        looks_up=instructions == "portable",
        separate_layers=True,
        more_weights=(INT8_NARROW, INT4, Int(2)),
        integer_ops=TRANSFORMER_OPS,
    )
    return replace(common, **fields)


def fpga_target(name: str, summary: str, **fields: Any) -> Target:
    """A row for dataflow designs; `fields` replace what they have in common."""
    common = Target(
        name,
        f"a dataflow design in C++ for Vitis HLS, {summary}",
        emitter="hls",
        runtime="hls",
        precision="int8",
        agreement=Agreement(equal_share=1.0, code_difference=0),
        wide=INT8,
        unsigned=True,
        rounding="single",
        ports="codes",
        separate_layers=True,
        more_weights=(INT8_NARROW, INT4, POST4, POT4, E2M1, E2M3, Int(2)),
        integer_ops=TRANSFORMER_OPS,
    )
    return replace(common, **fields)


TARGETS: tuple[Target, ...] = (
    Target(
        "jetson-int8",
        "ONNX with TensorRT-legal INT8 Q/DQ (8.6, 10.x, 11) and an engine build script",
        emitter="onnx",
        runtime="tensorrt",
        precision="int8",
        agreement=Agreement(equal_share=0.95),  # wide values are floats in the file, so near-ties may fall apart
        float_share=0.10,
        integer_ops=INTEGER_OPS,
        aliases=("engine", "tensorrt", "trt"),
    ),
    Target(
        "jetson-fp16",
        "ONNX in float with a script that builds an FP16 engine",
        emitter="onnx",
        runtime="tensorrt",
        precision="fp16",
        agreement=Agreement(signal_to_noise_db=60.0),
    ),
    Target(
        "jetson-fp32",
        "ONNX in float with a script that builds an FP32 engine",
        emitter="onnx",
        runtime="tensorrt",
        precision="fp32",
        agreement=Agreement(signal_to_noise_db=60.0),
    ),
    Target(
        "onnx-int8",
        "ONNX with UINT8 activations, INT8 weights, for ONNX Runtime on x86",
        emitter="onnx",
        runtime="onnxruntime",
        precision="int8",
        agreement=Agreement(),
        narrow=UINT8,
        wide=UINT8,
        symmetric=False,
        least_channels=5,
        float_share=0.20,
        least_gain=1
        / 60,  # all in float takes 1.8 times as long: worth it only for noise that spoils a network (-18 dB)
        real_results=False,
        conversion_macs=32,  # 0.7 ns an element with the change of layout, where float loses 0.02 ns on each product
        decomposed=("silu", "hardswish"),
        more_weights=(INT4, *ONNX_TABLES),
        integer_ops=INTEGER_OPS,
        aliases=("onnx", "onnxruntime", "ort"),
    ),
    Target(
        "qonnx-int8",
        "QONNX with Quant and FloatQuant nodes, 8-bit integers unless formats are given, for FINN and hls4ml",
        emitter="onnx",
        runtime="qonnx",
        precision="int8",
        agreement=Agreement(),  # sums of reals, so near-ties may fall apart
        wide=INT8,
        more_weights=QONNX_WEIGHTS,
        integer_ops=INTEGER_OPS,
        aliases=("qonnx", "finn"),
    ),
    Target(
        "onnx-fp32",
        "ONNX in float for ONNX Runtime",
        emitter="onnx",
        runtime="onnxruntime",
        precision="fp32",
        agreement=Agreement(signal_to_noise_db=60.0),
    ),
    Target(
        "onnx-w4",
        "ONNX in float with INT4 weights in blocks of 32 input channels, for ONNX Runtime 1.20 and later",
        emitter="onnx",
        runtime="onnxruntime",
        precision="fp32",
        agreement=Agreement(signal_to_noise_db=60.0),
        stored_weights=StoredWeights(INT4, block=32),
    ),
    Target(
        "onnx-mxfp4",
        "ONNX in float with MXFP4 weights: E2M1 in blocks of 32 that share a power of two",
        emitter="onnx",
        runtime="onnxruntime",
        precision="fp32",
        agreement=Agreement(signal_to_noise_db=60.0),
        stored_weights=StoredWeights(FAMILIES["mxfp4"]),
    ),
    tflite_target(
        "tflite-int8",
        "TFLite with INT8 activations and weights, for LiteRT on any CPU",
        aliases=("tflite", "litert"),
    ),
    tflite_target(
        "rpi-int8",
        "TFLite with INT8 activations and weights, for LiteRT on a Raspberry Pi",
        aliases=("rpi", "raspberry-pi"),
    ),
    tflite_target(
        "rpi-w8a16",
        "TFLite with INT16 activations and INT8 weights: more exact, without XNNPACK's speed",
        narrow=INT16,
        wide=INT16,
        symmetric=True,
        estimator="minmax",
        wide_functions=("sigmoid", "tanh", "leaky_relu"),
    ),
    tflite_target(
        "rpi-w4a8",
        "TFLite with INT8 activations and INT4 weights: half the size",
        weight=INT4,
    ),
    tflite_target(
        "mcu-tflite-int8",
        "TFLite with INT8 inputs, outputs and operators that TFLite Micro has",
        ports="codes",
        tabulated=("gelu", "gelu_tanh"),
        aliases=("tflm",),
    ),
    Target(
        "tflite-fp32",
        "TFLite in float for LiteRT",
        emitter="tflite",
        runtime="litert",
        precision="fp32",
        agreement=Agreement(signal_to_noise_db=60.0),
    ),
    Target(
        "coreml-w8a8",
        "CoreML with INT8 weights and activations (iOS 17, macOS 14; quick from A17 Pro and M4 on)",
        emitter="coreml",
        runtime="coreml",
        precision="int8",
        agreement=Agreement(equal_share=0.9, real_layer_db=HALF_DB),  # half precision moves codes over near-ties
        float_share=0.10,
        integer_ops=INTEGER_OPS,
        stored_weights=StoredWeights(INT8_NARROW),
        half_scales=True,
        ios=17,
    ),
    _stored("coreml-w8", "INT8 weights", StoredWeights(INT8_NARROW), 16, aliases=("coreml", "mlpackage")),
    _stored("coreml-w4", "INT4 weights in blocks of 32 input channels", StoredWeights(INT4, block=32), 18),
    _stored("coreml-post4", "4-bit power-of-sqrt2 weights", StoredWeights(POST4), 18),
    _stored("coreml-pot4", "4-bit power-of-two weights", StoredWeights(POT4), 18),
    _stored(
        "coreml-mxfp4",
        "MXFP4 weights: E2M1 in blocks of 32 that share a power of two",
        StoredWeights(FAMILIES["mxfp4"]),
        18,
    ),
    _stored("coreml-kmeans4", "4-bit weights, each with its own table", StoredWeights(KMeans(4)), 18),
    _stored("coreml-kmeans6", "6-bit weights, each with its own table", StoredWeights(KMeans(6)), 18),
    _stored(
        "coreml-kmeans8", "8-bit weights, each with its own table", StoredWeights(KMeans(8), per_channel=False), 16
    ),
    Target(
        "coreml-fp16",
        "CoreML in half precision",
        emitter="coreml",
        runtime="coreml",
        precision="fp16",
        agreement=Agreement(real_layer_db=HALF_DB),
    ),
    Target(
        "coreml-fp32",
        "CoreML in float",
        emitter="coreml",
        runtime="coreml",
        precision="fp32",
        agreement=Agreement(signal_to_noise_db=60.0),
    ),
    Target(
        "reference",
        "the exact integer network alone, in any formats, measured in the reference",
        emitter="graph",
        runtime="reference",
        precision="int8",
        agreement=Agreement(equal_share=1.0, code_difference=0),
        symmetric=False,
        rounding="single",
        separate_layers=True,
        integer_ops=TRANSFORMER_OPS,
    ),
    c_target("c-int8", "any processor", aliases=("c",)),
    c_target("rv32imc-int8", "RISC-V RV32IMC"),
    c_target("rv32imcb-int8", "RISC-V RV32IMC with Zba and Zbb (smallest and largest in one instruction)"),
    c_target("cortex-m4-int8", "ARM Cortex-M4 and M33 (DSP extension)", "dsp"),
    c_target("cortex-m7-int8", "ARM Cortex-M7 (DSP extension)", "dsp"),
    c_target("cortex-m55-int8", "ARM Cortex-M55 and M85 (MVE)", "mve"),
    c_target(
        "c-w8a16",
        "any processor, with activations of 16 bits: nearly lossless",
        narrow=INT16,
        wide=INT16,
        symmetric=True,
        estimator="minmax",
        wide_functions=SMOOTH,
        looks_up=False,
        interpolates=True,
        integer_ops=INTEGER_OPS,
    ),
    c_target("rv64gcv-int8", "RISC-V RV64GCV (vectors of 128 bits or more)", "rvv"),
    c_target("aarch64-int8", "ARM aarch64 with dot products (Cortex-A55, A76 and later)", "neon"),
    c_target("x86-64-int8", "x86-64 with AVX2 (2013 and later)", "avx2"),
    fpga_target(
        "fpga-fx8",
        "fixed point: scales are powers of two, so that shifts alone requantize",
        power_of_two=True,
        more_weights=(INT8_NARROW,),
    ),
    fpga_target("fpga-int4", "with weights of 4 bits", weight=INT4),
    fpga_target("fpga-e2m3", "with minifloat weights of 6 bits", weight=E2M3),
    fpga_target("fpga-post4", "with 4-bit power-of-sqrt2 weights, products by shifts and sums", weight=POST4),
    c_target("c-w4a8", "any processor, with weights of 4 bits: half the flash", weight=INT4),
    c_target("rv32imc-w4a8", "RISC-V RV32IMC, with weights of 4 bits", weight=INT4),
    c_target("cortex-m4-w4a8", "ARM Cortex-M4 and M33 (DSP extension), with weights of 4 bits", "dsp", weight=INT4),
    c_target("cortex-m7-w4a8", "ARM Cortex-M7 (DSP extension), with weights of 4 bits", "dsp", weight=INT4),
    c_target("cortex-m55-w4a8", "ARM Cortex-M55 and M85 (MVE), with weights of 4 bits", "mve", weight=INT4),
)


def find_target(name: str) -> Target:
    """The target called `name` (or by one of its aliases); raises UsageError with the closest name otherwise."""
    for target in TARGETS:
        if name == target.name or name in target.aliases:
            return target
    names = [target.name for target in TARGETS]
    hint = did_you_mean(name, [*names, *(alias for target in TARGETS for alias in target.aliases)])
    raise UsageError("unknown target", value=name, allowed=", ".join(names), next_step=hint)


def describe(target: Target) -> dict[str, object]:
    """The row as plain JSON values."""
    return {
        "name": target.name,
        "summary": target.summary,
        "emitter": target.emitter,
        "runtime": target.runtime,
        "precision": target.precision,
        "aliases": list(target.aliases),
        "weight": _weight_of(target),
        "more_weights": [str(format_) for format_ in target.more_weights],
        "narrow": str(target.narrow) if target.is_integer else target.precision,
        "wide": str(target.wide) if target.is_integer else target.precision,
        "symmetric": target.symmetric,
        "ports": target.ports,
        "float_share": target.float_share,
        "estimator": target.estimator,
        "rounding": target.rounding if target.is_integer else None,
        "agreement": vars(target.agreement),
    }


def _weight_of(target: Target) -> str:
    if target.stored_weights:
        block = f" block {target.stored_weights.block}" if target.stored_weights.block else ""
        return f"{target.stored_weights.format}{block}"
    return str(target.weight) if target.is_integer else target.precision
