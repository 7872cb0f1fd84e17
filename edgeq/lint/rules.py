"""The rules for ONNX files: what each one asks, why, and where that is known from."""

from __future__ import annotations

from edgeq.lint import numbers, placement
from edgeq.lint.finding import BOTH, Rule, Runtime
from edgeq.lint.net import Net

_TENSORRT: tuple[Runtime, ...] = ("tensorrt",)
_ONNXRUNTIME: tuple[Runtime, ...] = ("onnxruntime",)

RULES: tuple[Rule[Net], ...] = (
    Rule(
        "nonfinite-scale", "error", BOTH, "Scales are finite.",
        "A NaN or infinite scale turns every value into NaN or zero without a message (ONNX QuantizeLinear).",
        "Calibrate this tensor again: its range was NaN or infinite.", numbers.scale_not_finite,
    ),
    Rule(
        "scale-not-positive", "error", BOTH, "Scales are positive.",
        "Division by a zero or negative scale: TensorRT refuses it, ONNX Runtime computes nonsense.",
        "Give dead channels the scale of a live one, or any small positive one.", numbers.scale_not_positive,
    ),
    Rule(
        "scale-denormal", "warning", BOTH, "Scales are normal float32 numbers (1.2e-38 or more).",
        "Accelerators flush denormals to zero, which makes this a division by zero there.",
        "Raise the scale to 1.2e-38 or more; the weights behind it are zero in effect.", numbers.scale_denormal,
    ),
    Rule(
        "scale-not-constant", "error", BOTH, "Scales are constants.",
        "TensorRT refuses computed scales; ONNX Runtime then runs the operator in float (onnx-tensorrt operators).",
        "Quantize statically: run calibration and store the scales as initializers.", numbers.scale_not_constant,
    ),
    Rule(
        "axis-wrong", "error", BOTH, "Per-channel scales lie along the output channels of the weight.",
        "Conv has its output channels on axis 0, ConvTranspose on axis 1, MatMul on the last; another axis fails to"
        " load or gives each channel the scale of another (ONNX DequantizeLinear).",
        "Set axis to 0 for Conv, 1 for ConvTranspose, 0 or 1 for Gemm with or without transB.", numbers.axis_wrong,
    ),
    Rule(
        "axis-default", "warning", BOTH, "Per-channel quantizers say their axis.",
        "The default is 1, but most weights need 0, and some readers ignore scales whose axis is not written.",
        "Write the axis attribute.", numbers.axis_default,
    ),
    Rule(
        "qdq-pair-differs", "error", BOTH, "DequantizeLinear uses the scale and zero point of its QuantizeLinear.",
        "Otherwise the pair multiplies the tensor by the ratio of the scales: one of them is a mistake.",
        "Use the same two initializers on both sides.", numbers.pair_differs,
    ),
    Rule(
        "boxes-and-scores-one-scale", "error", BOTH, "Boxes and scores are not quantized together.",
        "One scale over box pixels and probabilities rounds every score to zero: the detector finds nothing.",
        "Leave the concatenation of the decoded head in float, or divide boxes by the image size first.",
        placement.boxes_and_scores,
    ),
    Rule(
        "unquantized-weight", "warning", BOTH, "Where the input is quantized, the weight is too.",
        "An integer kernel needs both; with a float weight the operator runs in float and the quantizers only cost.",
        "Store the weight as int8 with DequantizeLinear, or remove the quantizers of the input.",
        placement.unquantized_weight,
    ),
    Rule(
        "trt-zero-point", "error", _TENSORRT, "Zero points are 0.",
        "TensorRT's INT8 is symmetric (TensorRT developer guide, quantized types).",
        "Calibrate with symmetric activations and weights.", numbers.zero_point_not_zero,
    ),
    Rule(
        "uint8-qdq", "error", _TENSORRT, "Codes are int8.",
        "TensorRT's explicit quantization has no uint8; QuantizeLinear without a zero point means uint8, too.",
        "Use int8 with an int8 zero point of 0.", numbers.unsigned_codes,
    ),
    Rule(
        "trt-activation-per-channel", "error", _TENSORRT, "Activations have one scale.",
        "TensorRT quantizes activations per tensor (TensorRT developer guide, quantized types).",
        "Use one scale per activation; equalize channels in the weights instead.", numbers.activation_per_channel,
    ),
    Rule(
        "qlinear-ops", "error", _TENSORRT, "Quantization is written as QuantizeLinear and DequantizeLinear.",
        "TensorRT reads no QLinear… or …Integer operators (onnx-tensorrt operators).",
        "Export in the QDQ format.", numbers.qlinear_operators,
    ),
    Rule(
        "bias-qdq", "error", _TENSORRT, "Biases are float.",
        "TensorRT adds the bias in float and refuses an int32 DequantizeLinear there.",
        "Store the bias as a float initializer (ONNX Runtime's quantizer: QuantizeBias=False).", placement.bias_qdq,
    ),
    Rule(
        "weight-dq-missing", "error", _TENSORRT, "8-bit weights reach their operator through DequantizeLinear.",
        "TensorRT recognizes a quantized weight by its DequantizeLinear only (TensorRT developer guide).",
        "Put DequantizeLinear between the int8 initializer and the operator.", placement.weight_dq_missing,
    ),
    Rule(
        "dynamic-weights", "error", _TENSORRT, "Convolution weights are constants.",
        "TensorRT has no integer convolution with computed weights.",
        "Fold the weight, or leave this convolution in float.", placement.dynamic_weights,
    ),
    Rule(
        "trt-per-tensor-weights", "warning", _TENSORRT, "Weights have one scale per output channel.",
        "It costs nothing in TensorRT and saves points of accuracy, most in depthwise networks.",
        "Quantize weights per channel.", placement.per_tensor_weights,
    ),
    Rule(
        "residual-placement", "warning", _TENSORRT, "Only the skip branch of a residual addition is quantized.",
        "With the main branch left in float, TensorRT fuses convolution, addition and activation into one kernel.",
        "Remove the quantizers between the convolution and the addition.", placement.residual_placement,
    ),
    Rule(
        "qdq-after-weighted-op-before-activation", "warning", _TENSORRT,
        "No quantizer stands between a weighted operator and its activation.",
        "TensorRT fuses the two; a quantizer between them forces two kernels and rounds twice.",
        "Quantize after the activation.", placement.qdq_before_activation,
    ),
    Rule(
        "concat-scales-differ", "warning", _TENSORRT, "All operands of a concatenation have one scale.",
        "Otherwise every operand is rescaled first; with one scale the concatenation is a copy or nothing at all.",
        "Calibrate the operands together.", placement.concat_scales_differ,
    ),
    Rule(
        "conv-small-channels", "note", _TENSORRT, "Convolutions on integers have 16 channels or more.",
        "With fewer, TensorRT's INT8 kernels are seldom faster than FP16 (ModelOpt leaves them in float, too).",
        "Measure this layer both ways.", placement.few_channels,
    ),
    Rule(
        "float-islands", "warning", BOTH, "Between operators on integers there is none in float.",
        "Each costs a conversion before and after it, often more than its INT8 kernel saves.",
        "Quantize it too, or leave its neighbours in float.", placement.float_islands,
    ),
    Rule(
        "opset-too-new", "warning", _TENSORRT, "The operator set is 17 or older.",
        "TensorRT 8.6 (JetPack 5) reads up to 17, TensorRT 11 up to 25 (TensorRT opset guide).",
        "Export with operator set 17 unless the board has a newer TensorRT.", numbers.opset_too_new,
    ),
    Rule(
        "ort-bias-scale", "error", _ONNXRUNTIME, "The scale of a quantized bias is input scale times weight scale.",
        "The fused kernel takes the int32 codes as they are and ignores the scale written beside them.",
        "Quantize the bias with the product of the two scales.", numbers.bias_scale,
    ),
    Rule(
        "ort-int8-activations", "warning", _ONNXRUNTIME, "On x86, activations are uint8.",
        "Measured: convolutions on int8 activations mostly stay unfused and run slower than float.",
        "Use uint8 activations with int8 weights.", numbers.signed_activations,
    ),
    Rule(
        "ort-unfused-conv", "warning", _ONNXRUNTIME, "The result of a quantized convolution is quantized.",
        "Measured: without QuantizeLinear right behind it, it runs in float and dequantizes its weight on every run.",
        "Quantize its result too, or leave it in float with float weights.", placement.unfused_convolution,
    ),
    Rule(
        "ort-unfused-gate", "warning", _ONNXRUNTIME, "In x sigmoid(x) the result of the sigmoid is quantized.",
        "Measured: QLinearSigmoid and QLinearMul take a third of the time of the four float passes otherwise needed.",
        "Quantize the result of the Sigmoid to uint8 with scale 1/256.", placement.unfused_gate,
    ),
)  # fmt: skip
