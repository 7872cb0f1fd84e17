"""The rules for .tflite files: what each one asks, why, and where that is known from."""

from __future__ import annotations

from edgeq.lint import tflite_checks as checks
from edgeq.lint.finding import Rule, Runtime
from edgeq.lint.tflite_net import TfliteNet

_BOTH: tuple[Runtime, ...] = ("litert", "tflm")
_LITERT: tuple[Runtime, ...] = ("litert",)
_TFLM: tuple[Runtime, ...] = ("tflm",)
_SPEC = "TFLite quantization specification"

TFLITE_RULES: tuple[Rule[TfliteNet], ...] = (
    Rule(
        "tfl-scale-not-positive", "error", _BOTH, "Scales are finite and positive.",
        "Kernels divide by scales when they are prepared: the file does not load, or computes nonsense.",
        "Calibrate this tensor again.", checks.scale_not_positive,
    ),
    Rule(
        "tfl-scale-denormal", "warning", _BOTH, "Scales are normal float32 numbers (1.2e-38 or more).",
        "Their ratios leave the range of the fixed-point multiplier, which becomes zero.",
        "Raise the scale; the weights behind it are zero in effect.", checks.scale_denormal,
    ),
    Rule(
        "tfl-quantization-damaged", "error", _BOTH, "Scales and zero points fit the tensor's shape.",
        "A runtime reads beyond them or gives a channel the scale of another.",
        "Convert the model again.", checks.broken_quantization,
    ),
    Rule(
        "tfl-activation-per-channel", "error", _BOTH, "Activations have one scale.",
        f"Kernels read only the first scale ({_SPEC}).", "Use one scale per activation.", checks.activation_per_channel,
    ),
    Rule(
        "tfl-per-tensor-weights", "warning", _BOTH, "Convolution weights have one scale per output channel.",
        f"It costs nothing and saves points of accuracy, most in depthwise networks ({_SPEC}).",
        "Quantize weights per channel.", checks.per_tensor_weights,
    ),
    Rule(
        "tfl-axis-wrong", "error", _BOTH, "Scales lie along the output channels: axis 0, of DEPTHWISE_CONV_2D axis 3.",
        f"Kernels apply them to output channels whatever axis the file names ({_SPEC}).",
        "Set quantized_dimension to 0, or to 3 for DEPTHWISE_CONV_2D.", checks.weight_axis,
    ),
    Rule(
        "tfl-weight-zero-point", "error", _BOTH, "Zero points of weights are 0.",
        f"Integer kernels leave them out of the sum ({_SPEC}).", "Quantize weights symmetrically.",
        checks.weight_zero_point,
    ),
    Rule(
        "tfl-wide-weights", "note", _BOTH, "Weights do not use the code -128.",
        f"Some kernels multiply pairs in 16 bits, where twice -128 times -128 overflows ({_SPEC}: [-127, 127]).",
        "Quantize weights to the narrow range.", checks.narrow_weights,
    ),
    Rule(
        "tfl-bias-scale", "error", _BOTH, "The scale of a bias is input scale times weight scale.",
        f"Kernels add the int32 codes as they are and ignore the scale written beside them ({_SPEC}).",
        "Quantize the bias with the product of the two scales.", checks.bias_scale,
    ),
    Rule(
        "tfl-bias-type", "error", _BOTH, "Biases are int32 with zero point 0 (int64 allowed beside int16 activations).",
        f"Kernels refuse any other type ({_SPEC}).", "Store the bias as int32.", checks.bias_type,
    ),
    Rule(
        "tfl-shared-scale", "error", _BOTH, "Operators that move codes have one scale and zero point on both sides.",
        f"Their kernels copy codes: another scale behind them gives the same codes another meaning ({_SPEC}).",
        "Calibrate operand and result together, or put QUANTIZE between.", checks.shared_scale,
    ),
    Rule(
        "tfl-fixed-scale", "error", _BOTH, "LOGISTIC, SOFTMAX, TANH, L2_NORMALIZATION and LOG_SOFTMAX have their own scales.",
        f"Kernels compute for these and refuse or ignore others ({_SPEC}).",
        "Use 1/256 and -128 for LOGISTIC and SOFTMAX, 1/128 and 0 for TANH and L2_NORMALIZATION.", checks.fixed_scale,
    ),
    Rule(
        "tfl-int16-zero-point", "error", _BOTH, "int16 activations have zero point 0.",
        "Kernels for int16 are symmetric and refuse others.", "Calibrate symmetrically.", checks.symmetric_int16,
    ),
    Rule(
        "tfl-uint8-codes", "warning", _BOTH, "Codes are int8.",
        "uint8 is the scheme before 2019: slower in XNNPACK, absent from most kernels of TFLite Micro.",
        "Convert the model again for int8.", checks.unsigned_codes,
    ),
    Rule(
        "boxes-and-scores-one-scale", "error", _BOTH, "Boxes and scores are not quantized together.",
        "One scale over box pixels and probabilities rounds every score to zero: the detector finds nothing.",
        "Give boxes and scores outputs of their own, or divide boxes by the image size first.", checks.boxes_and_scores,
    ),
    Rule(
        "float-islands", "warning", _BOTH, "Between operators on integers there is none in float.",
        "Each costs a DEQUANTIZE and a QUANTIZE, often more than its integer kernel saves.",
        "Quantize it too, or leave its neighbours in float.", checks.float_islands,
    ),
    Rule(
        "tfl-hybrid", "warning", _LITERT, "Where weights are integers, activations are too.",
        "Activations are quantized again on every run: slower than full integers, and no fixed meaning to verify.",
        "Quantize activations as well, or store the weights as float16.", checks.hybrid,
    ),
    Rule(
        "tflm-hybrid", "error", _TFLM, "Where weights are integers, activations are too.",
        "TFLite Micro has no kernels that mix them.", "Quantize activations as well.", checks.hybrid,
    ),
    Rule(
        "tflm-float", "warning", _TFLM, "Operators with weights run on integers.",
        "Float kernels need a floating-point unit and four times the memory.", "Quantize the model to int8.",
        checks.float_operators,
    ),
    Rule(
        "tfl-custom", "warning", _LITERT, "All operators are builtin.",
        "A runtime needs the custom operator linked in.", "Convert without custom operators.", checks.custom_operators,
    ),
    Rule(
        "tfl-recent-runtime", "warning", _LITERT, "Old runtimes know every operator's version.",
        "Boards often carry tflite-runtime 2.14, the last release: it refuses newer versions (measured by loading).",
        "Convert for an older runtime, or install ai-edge-litert on the board.", checks.recent_runtime,
    ),
    Rule(
        "tflm-operator", "error", _TFLM, "Every operator exists in TFLite Micro.",
        "Its resolver cannot register others (micro_mutable_op_resolver.h).",
        "Replace the operator, or leave it outside the model.", checks.microcontroller_operators,
    ),
    Rule(
        "tflm-custom", "error", _TFLM, "All operators are builtin.",
        "TFLite Micro needs a kernel of your own for each.", "Convert without custom operators.",
        checks.custom_operators,
    ),
    Rule(
        "tflm-float-ports", "note", _TFLM, "Ports of a network on integers are integers.",
        "Float ports need QUANTIZE and DEQUANTIZE in soft float, and four times the memory.",
        "Export with int8 inputs and outputs.", checks.float_ports,
    ),
)  # fmt: skip
