"""The conformance cases of the ONNX project, for every operator that the importer claims.

A case runs with all its operands as inputs where that is possible, else with all but the first fixed (weights,
shapes, axes), else entirely fixed. What is out of scope is listed in EXCLUDED with the reason, and must be refused.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from functools import cache

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase

from edgeq.errors import UnsupportedError
from edgeq.frontend.onnx import SUPPORTED, import_onnx
from edgeq.frontend.onnx_load import OPSETS
from edgeq.ir.graph import Graph
from edgeq.reference.interpret import run

EXCLUDED = {
    r"averagepool_.*dilations": "dilated average pooling does not occur in vision models",
    r"(average|max)pool_3d|convtranspose_3d": "volumes are out of scope",
    r"batchnorm_.*_training_mode|training_dropout": "training mode",
    r"maxpool_with_argmax": "the indices output of MaxPool",
    r"maxpool_2d_uint8": "pooling of integers",
    r"layer_normalization_(?!.*_expanded)": "the cases ask for the mean and deviation outputs",
    r"reduce_m.._empty_set|sum_empty_set_non_reduced|zero_size_splits|tri[lu]_zero": "values without elements",
    r"allowzero_reordered": "values without elements",
    r"int_shape_zero|slice_start_out_of_bounds|causal_conv_with_state_kernel_size_one_expanded": "an empty result",
    r"shape_start_greater_than_end": "an empty result",
    r"resize_tf_crop": "resampling of a region of interest",
    r"resize_.*antialias": "antialiased downsampling",
    r"resize_.*exclude_outside": "a cubic kernel other than a = -0.75",
    r"resize_.*half_pixel_symmetric": "half_pixel_symmetric where it differs from half_pixel",
    r"wrap_pad": "circular padding",
    r"equal_string": "strings",
    r"if_": "a condition that is computed at run time",
    r"gathernd_example_int32_batch_dim1": "batched GatherND",
    r"scatternd_(add|max|min|multiply)": "ScatterND with a reduction",
}
UNLIKE = {
    r"resize_downsample_scales_(cubic|linear)_align_corners": "the case divides by a fractional size; runtimes do not",
    r"test_size": "the interpreter holds a scalar constant as one element",
}
FIXED = re.compile(r"gather_elements_negative_indices")  # an index computed at run time must not be negative


@cache
def cases() -> dict[str, list[TestCase]]:
    """The cases that use only claimed operators and opsets, by the operator (or "functions" for spelled-out ones)."""
    from onnx.backend.test.case.node import collect_testcases

    found = defaultdict(list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collected = collect_testcases("")
    for case in collected:
        types = {node.op_type for node in case.model.graph.node} if case.model else set()
        opsets = [entry.version for entry in case.model.opset_import if entry.domain == ""] if case.model else []
        claimed = types and types <= SUPPORTED and set(opsets) <= set(OPSETS)
        if claimed and all(isinstance(array, np.ndarray | np.generic) for array in case.data_sets[0][0]):
            found["functions" if "_expanded" in case.name else case.model.graph.node[0].op_type].append(case)
    return found


def listed(table: dict[str, str], case: TestCase) -> bool:
    return any(re.search(pattern, case.name) for pattern in table)


def with_fixed(case: TestCase, inputs: list[np.ndarray], first: int) -> onnx.ModelProto:
    """The model of `case` with every input from number `first` on as an initializer."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    for info, array in list(zip(case.model.graph.input, inputs, strict=True))[first:]:
        model.graph.input.remove(info)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), info.name))
    return model


def imported(case: TestCase, inputs: list[np.ndarray]) -> Graph:
    """The graph of `case`, with as few fixed operands as the importer allows."""
    for first in (1, 0) if FIXED.search(case.name) else (len(inputs), 1, 0):
        try:
            return import_onnx(with_fixed(case, inputs, first))
        except UnsupportedError as error:
            refusal = error
    raise refusal


def check(case: TestCase) -> None:
    for inputs, outputs in case.data_sets:
        arrays = [np.asarray(array) for array in inputs]
        graph = imported(case, arrays)
        names = [info.name for info in case.model.graph.input]
        given = {name: plain(array) for name, array in zip(names, arrays, strict=True) if name in graph.inputs}
        found = run(graph, given)
        for info, expected in zip(case.model.graph.output, outputs, strict=True):
            actual = found[info.name].numpy()
            assert actual.shape == np.shape(expected), case.name
            half = any(array.dtype in (np.float16, ml_dtypes.bfloat16) for array in arrays)
            rtol, atol = (0.02, 0.02) if half else (case.rtol, 1e-5)
            np.testing.assert_allclose(actual, plain(np.asarray(expected)), rtol=rtol, atol=atol, err_msg=case.name)


def plain(array: np.ndarray) -> np.ndarray:
    """Floats of any width as float32."""
    return array.astype(np.float32) if array.dtype.kind not in "biu" else np.array(array)


@pytest.mark.parametrize("op_type", sorted((SUPPORTED - {"If"}) | {"functions"}))
def test_onnx_cases(op_type: str) -> None:
    mine = [case for case in cases()[op_type] if not listed(EXCLUDED, case) and not listed(UNLIKE, case)]
    if not mine:
        pytest.skip("the ONNX project has no case within the claimed range")
    for case in mine:
        check(case)


def test_there_are_many_cases() -> None:
    tested = [case for group in cases().values() for case in group if not listed(EXCLUDED, case)]
    assert len(tested) > 850
    assert len({case.model.graph.node[0].op_type for case in tested}) > 95


def test_excluded_cases_are_refused() -> None:
    refused = set()
    for case in (case for group in cases().values() for case in group):
        for pattern in (pattern for pattern in EXCLUDED if re.search(pattern, case.name)):
            with pytest.raises(UnsupportedError):
                imported(case, [np.asarray(array) for array in case.data_sets[0][0]])
            refused.add(pattern)
    assert refused == set(EXCLUDED)
