"""What to do about ONNX operators that have no meaning here, and the one message that lists them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.errors import UnsupportedError

QUANTIZED = {
    "BipolarQuant", "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QLinearAdd",
    "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearLeakyRelu",
    "QLinearMatMul", "QLinearMul", "QLinearSigmoid", "Quant", "QuantizeLinear", "Trunc",
}  # fmt: skip

_NO_NMS = "export without non-maximum suppression (nms=False)"
_STATIC = "export with static shapes and no control flow"

HINTS = {
    "NonMaxSuppression": _NO_NMS,
    "EfficientNMS_TRT": _NO_NMS,
    "BatchedNMS_TRT": _NO_NMS,
    "RoiAlign": "export the part before the region heads",
    "MaxRoiPool": "export the part before the region heads",
    "NonZero": "export with static shapes, or leave post-processing out",
    "Unique": "leave post-processing out of the export",
    "Compress": "leave post-processing out of the export",
    "Loop": _STATIC,
    "Scan": _STATIC,
    "If": _STATIC,
    "SequenceConstruct": _STATIC,
    "SequenceAt": _STATIC,
    "SplitToSequence": "use torch.split with fixed sizes",
    "GridSample": "replace deformable sampling, or export with a fixed grid as Gather",
    "DeformConv": "replace it by a convolution",
    "LSTM": "recurrent networks are out of scope",
    "GRU": "recurrent networks are out of scope",
    "RNN": "recurrent networks are out of scope",
    "ScatterND": "replace assignment into a tensor by torch.cat of its parts",
    "ScatterElements": "replace assignment into a tensor by torch.where or torch.cat",
    "GatherND": "replace advanced indexing by torch.gather or slices",
    "CumSum": "precompute it as a constant",
    "LpPool": "use average pooling of the powers",
    "LRN": "replace it by batch normalization",
    "RandomNormalLike": "export in eval mode",
    "RandomUniformLike": "export in eval mode",
    "Bernoulli": "export in eval mode",
    "Upsample": "export with opset 11 or later, which has Resize",
    "MaxUnpool": "use Resize or ConvTranspose",
    "FusedConv": "give the model before ONNX Runtime optimized it",
    "FusedMatMul": "give the model before ONNX Runtime optimized it",
}


@dataclass(frozen=True)
class Problem:
    """A node that could not be read, and why."""

    op_type: str
    where: str
    reason: str


def unsupported(problems: Sequence[Problem]) -> UnsupportedError:
    """One error for all problems: per operator the count, one node, the reason and the nearest way out."""
    if any(problem.op_type in QUANTIZED for problem in problems):
        return UnsupportedError(
            "the model is already quantized",
            where=next(problem.where for problem in problems if problem.op_type in QUANTIZED),
            next_step="Give the float model.",
        )
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.op_type, problem.reason), []).append(problem)
    return UnsupportedError("unsupported operators: " + "; ".join(map(_described, groups.values())))


def _described(problems: list[Problem]) -> str:
    first = problems[0]
    reason = f" ({first.reason})" if first.reason else ""
    hint = HINTS.get(first.op_type.rpartition(":")[2])
    way_out = f", {hint}" if hint else ""
    return f"{len(problems)} × {first.op_type} such as {first.where}{reason}{way_out}"
