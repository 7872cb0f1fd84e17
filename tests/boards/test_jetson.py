"""What a Jetson's tools print, as their documentation and their source show it."""

from __future__ import annotations

import json

import pytest

from edgeq.boards.jetson import LayerTime, Slower, layers_of, slower_operators, tegrastats_of, times_of
from edgeq.boards.probe import tensorrt_version
from edgeq.boards.tensorrt import outputs_of
from edgeq.errors import BoardError

# Lines in the forms that "Tegrastats Utility" of the Jetson Linux Developer Guide describes, by release.
JETPACK_4_TX2 = (
    "RAM 2135/7855MB (lfb 1057x4MB) CPU [2%@2035,0%@2035,off,2%@2035,2%@2036,2%@2035] EMC_FREQ 1%@1866"
    " GR3D_FREQ 0%@1300 APE 150 MTS fg 0% bg 0% BCPU@30C MCPU@30C GPU@29C PLL@30C Tboard@28C Tdiode@28.25C PMIC@100C"
    " thermal@29.4C VDD_IN 3104/4029 VDD_CPU 291/730 VDD_GPU 145/207"
)
JETPACK_5_XAVIER_NX = (
    "RAM 2690/6854MB (lfb 6x1MB) SWAP 479/3427MB (cached 3MB) CPU [3%@1904,7%@1906,1%@1905,0%@1907,off,off]"
    " EMC_FREQ 0%@1600 GR3D_FREQ 0%@510 VIC_FREQ 601 APE 150 AUX@39C CPU@39.5C AO@37.5C GPU@37.5C PMIC@50C"
    " VDD_IN 5079mW/5080mW VDD_CPU_GPU_CV 696mW/697mW VDD_SOC 1104mW/1104mW"
)
JETPACK_6_ORIN = (
    "11-27-2024 19:20:22 RAM 3150/7620MB (lfb 37x4MB) SWAP 0/3810MB (cached 0MB) CPU [0%@883,12%@1510,off,off]"
    " GR3D_FREQ 99%@[612,0] cpu@63.687C soc2@62.781C cv0@-256C gpu@64.281C tj@64.281C VDD_IN 9880mW/5203mW"
    " VDD_CPU_GPU_CV 4120mW/991mW VDD_SOC 1630mW/1424mW"
)
OLDEST = "RAM 1023/3956MB (lfb 2x1MB) cpu [2%,off]@102"
COMMON_CLOCK = "RAM 1023/3956MB (lfb 2x1MB) CPU [2%,off,3%]@102 GR3D 7%@76"


def test_a_line_of_jetpack_4() -> None:
    found = tegrastats_of(JETPACK_4_TX2)
    assert found is not None
    assert found.ram_mb == (2135, 7855) and len(found.cpu) == 5 and found.cpu[-1] == (2, 2035)
    assert (found.gpu_percent, found.gpu_mhz) == (0, 1300)
    assert found.rails_mw == {"VDD_IN": (3104, 4029), "VDD_CPU": (291, 730), "VDD_GPU": (145, 207)}
    assert found.temperatures_c["thermal"] == 29.4


def test_a_line_of_jetpack_5() -> None:
    found = tegrastats_of(JETPACK_5_XAVIER_NX)
    assert found is not None
    assert found.ram_mb == (2690, 6854) and found.cpu == ((3, 1904), (7, 1906), (1, 1905), (0, 1907))
    assert found.rails_mw == {"VDD_IN": (5079, 5080), "VDD_CPU_GPU_CV": (696, 697), "VDD_SOC": (1104, 1104)}
    assert found.temperatures_c == {"AUX": 39.0, "CPU": 39.5, "AO": 37.5, "GPU": 37.5, "PMIC": 50.0}


def test_a_line_of_jetpack_6() -> None:
    found = tegrastats_of(JETPACK_6_ORIN)
    assert found is not None
    assert (found.gpu_percent, found.gpu_mhz) == (99, 612) and found.cpu == ((0, 883), (12, 1510))
    assert "cv0" not in found.temperatures_c and found.temperatures_c["gpu"] == 64.281
    assert found.describe() == (
        "RAM 3150 of 7620 MB, GPU 99% at 612 MHz, gpu 64.3 C, VDD_IN 9880 mW, VDD_CPU_GPU_CV 4120 mW, VDD_SOC 1630 mW"
    )


def test_other_lines() -> None:
    found = tegrastats_of(COMMON_CLOCK)
    assert found is not None and found.cpu == ((2, 102), (3, 102)) and (found.gpu_percent, found.gpu_mhz) == (7, 76)
    assert found.describe() == "RAM 1023 of 3956 MB, GPU 7% at 76 MHz"
    assert (
        tegrastats_of(OLDEST) is None and tegrastats_of("") is None and tegrastats_of("tegrastats: not found") is None
    )


# As Profiler::exportJSONProfile of samples/common/sampleReporting.cpp (NVIDIA/TensorRT) writes it: medianMs from 8.4 on.
PROFILE_8_2 = """[
  { "count" : 3 }
, { "name" : "w1 + QuantizeLinear_3 + Conv_4 + Relu_5", "timeMs" : 3.0, "averageMs" : 1.0, "percentage" : 25 }
, { "name" : "Reformatting CopyNode for Output Tensor 0 to Conv_4", "timeMs" : 9.0, "averageMs" : 3.0, "percentage" : 75 }
]
"""
PROFILE_10 = PROFILE_8_2.replace('"percentage"', '"medianMs" : 1.0, "percentage"')
LAYER_INFO = json.dumps(
    {
        "Layers": [
            {"Name": "w1 + QuantizeLinear_3 + Conv_4 + Relu_5", "LayerType": "CaskConvolution",
             "Outputs": [{"Name": "b", "Location": "Device", "Format/Datatype": "Int8 NC/32HW32"}]},
            "a layer of which only the name is told",
        ],
        "Bindings": ["images"],
    }
)  # fmt: skip


@pytest.mark.parametrize("profile", [PROFILE_8_2, PROFILE_10])
def test_layers(profile: str) -> None:
    first, second = layers_of(profile, LAYER_INFO)
    assert first == LayerTime("w1 + QuantizeLinear_3 + Conv_4 + Relu_5", 1.0, 0.25, "Int8")
    assert second.precision == "" and second.share == 0.75
    assert layers_of(profile)[0].precision == ""


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"name": "a"}]', "3", "null"])
def test_files_that_trtexec_did_not_write(text: str) -> None:
    for read in (layers_of, times_of, outputs_of):
        with pytest.raises(BoardError, match="of trtexec cannot be read"):
            read(text)


def test_times_and_outputs() -> None:
    trace = '[\n  { "startH2dMs" : 0, "h2dMs" : 0.5, "computeMs" : 2, "d2hMs" : 0.25, "latencyMs" : 2.75 }\n]'
    assert times_of(trace) == [2.75]
    with pytest.raises(BoardError, match="timed nothing"):
        times_of("[]")
    assert outputs_of('[ { "name" : "y", "dimensions" : "1x2x1", "values" : [ 1e-05, -3 ] }\n]')["y"].shape == (1, 2, 1)


def test_operators_are_compared_whatever_they_are_joined_with() -> None:
    """Names of layers as TensorRT builds them from those of nodes."""
    nodes = {"Conv:a.acc": "a", "Conv:ab.acc": "ab", "Conv:c.acc": "c", "Conv:d.acc": "d"}
    int8 = [
        LayerTime("w1.q.dq + QuantizeLinear + Conv:a.acc + Relu:b", 0.5, 0.1),
        LayerTime("w2 + Conv:ab.acc", 0.2, 0.1),
        LayerTime("Conv:c.acc + Conv:d.acc", 9.0, 0.1),
        LayerTime("Reformatting CopyNode for Input Tensor 0 to nothing", 4.0, 0.1),
    ]
    fp16 = [LayerTime("Conv:a + Relu:b", 0.3, 0.1), LayerTime("Conv:ab", 0.3, 0.1),
            LayerTime("Conv:c", 1.0, 0.1), LayerTime("Conv:d", 1.0, 0.1)]  # fmt: skip
    others = {"Conv:a": "a", "Conv:ab": "ab", "Conv:c": "c", "Conv:d": "d"}
    assert slower_operators(int8, nodes, fp16, others) == [Slower(("a",), 0.5, 0.3)]
    assert slower_operators([], nodes, fp16, others) == []


def test_versions() -> None:
    numbers = {
        "8502": "8.5.2",
        "8601": "8.6.1",
        "8602": "8.6.2",
        "100300": "10.3.0",
        "101303": "10.13.3",
        "110000": "11.0.0",
    }
    assert {number: tensorrt_version(number) for number in numbers} == numbers
    assert tensorrt_version("") == "" and tensorrt_version("v8") == ""
