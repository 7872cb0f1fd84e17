"""What a Jetson's tools print: tegrastats, and the files that trtexec exports.

Formats by source. tegrastats: "Tegrastats Utility" of the Jetson Linux Developer Guide (r32 to r36). trtexec:
samples/common/sampleReporting.cpp of NVIDIA/TensorRT, which writes the files (8.x: startEnqMs ..., from 10 on h2dMs ...
alike), and "Layer information" of the same. What is not in a line or a file is left out here too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeq.errors import BoardError


@dataclass(frozen=True)
class Tegrastats:
    """One line: memory in use and all of it, load and clock of every running core, of the GPU, temperatures, rails."""

    ram_mb: tuple[int, int]
    cpu: tuple[tuple[int, int], ...]
    gpu_percent: int | None
    gpu_mhz: int | None
    temperatures_c: Mapping[str, float]
    rails_mw: Mapping[str, tuple[int, int]]

    def describe(self) -> str:
        """The line in words."""
        gpu = "" if self.gpu_percent is None else f", GPU {self.gpu_percent}%"
        gpu += "" if self.gpu_mhz is None else f" at {self.gpu_mhz} MHz"
        rails = "".join(f", {rail} {now} mW" for rail, (now, _) in self.rails_mw.items())
        hottest = max(self.temperatures_c.items(), key=lambda item: item[1], default=("", 0.0))
        hot = f", {hottest[0]} {hottest[1]:.1f} C" if hottest[0] else ""
        return f"RAM {self.ram_mb[0]} of {self.ram_mb[1]} MB{gpu}{hot}{rails}"


_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB\b")
_CPU = re.compile(r"\bCPU \[([^\]]*)\](?:@(\d+))?")
_CORE = re.compile(r"(\d+)%(?:@(\d+))?")
_GPU = re.compile(r"\bGR3D(?:_FREQ)? (\d+)%(?:@\[?(\d+))?")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C\b")
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]+) (\d+)(?:mW)?/(\d+)(?:mW)?(?=\s|$)")
_BROKEN_SENSOR_C = -256.0
"""What tegrastats prints for a zone that cannot be read."""


def tegrastats_of(line: str) -> Tegrastats | None:
    """What one line of tegrastats says; None if it is no such line.

    >>> tegrastats_of("RAM 10/20MB (lfb 1x1MB) CPU [5%@100,off] GR3D_FREQ 7%@[306] cpu@40.5C VDD_IN 5000mW/4900mW").cpu
    ((5, 100),)
    """
    ram, cpu, gpu = _RAM.search(line), _CPU.search(line), _GPU.search(line)
    if ram is None or cpu is None:
        return None
    common = cpu[2] or 0
    cores = tuple((int(load), int(clock or common)) for load, clock in _CORE.findall(cpu[1]))
    temperatures = {zone: float(value) for zone, value in _TEMPERATURE.findall(line)}
    return Tegrastats(
        (int(ram[1]), int(ram[2])),
        cores,
        int(gpu[1]) if gpu else None,
        int(gpu[2]) if gpu and gpu[2] else None,
        {zone: value for zone, value in temperatures.items() if value != _BROKEN_SENSOR_C},
        {rail: (int(now), int(mean)) for rail, now, mean in _RAIL.findall(line) if rail not in ("RAM", "SWAP", "IRAM")},
    )


@dataclass(frozen=True)
class LayerTime:
    """One layer of an engine: mean milliseconds, its share of the whole, and the precision of its results if known."""

    name: str
    mean_ms: float
    share: float
    precision: str = ""


def layers_of(profile: str, layer_info: str = "") -> list[LayerTime]:
    """The layers of --exportProfile, with their precisions from --exportLayerInfo. Raises BoardError."""
    try:
        entries = [entry for entry in json.loads(profile) if "name" in entry]
        precisions = _precisions(json.loads(layer_info)) if layer_info else {}
        total = sum(float(entry["averageMs"]) for entry in entries) or 1.0
        return [
            LayerTime(entry["name"], float(entry["averageMs"]), float(entry["averageMs"]) / total,
                      precisions.get(entry["name"], ""))
            for entry in entries
        ]  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BoardError("the profile of trtexec cannot be read", value=error) from error


def _precisions(document: Mapping[str, Any]) -> dict[str, str]:
    """The first word of the format of each layer's first output: Int8, Half, Float."""
    found = {}
    for layer in document.get("Layers", []):
        if isinstance(layer, dict) and layer.get("Outputs"):  # with less verbosity a layer is its name alone
            found[str(layer["Name"])] = str(layer["Outputs"][0].get("Format/Datatype", "")).split(" ")[0]
    return found


def times_of(exported: str) -> list[float]:
    """Milliseconds of every query of --exportTimes: input copied, computed, output copied. Raises BoardError."""
    try:
        times = [float(entry["latencyMs"]) for entry in json.loads(exported)]
    except (ValueError, TypeError, KeyError) as error:
        raise BoardError("the times of trtexec cannot be read", value=error) from error
    if not times:
        raise BoardError("trtexec timed nothing")
    return times


@dataclass(frozen=True)
class Slower:
    """Operators that one engine computes together more slowly than another does."""

    operators: tuple[str, ...]
    mean_ms: float
    other_ms: float

    def describe(self) -> str:
        """Which, and by how much."""
        return f"{' + '.join(self.operators)} ({self.mean_ms:.4f} ms, not {self.other_ms:.4f})"


def slower_operators(
    layers: Sequence[LayerTime], nodes: Mapping[str, str], others: Sequence[LayerTime], other_nodes: Mapping[str, str]
) -> list[Slower]:
    """Where the first engine loses time to the second, the greatest loss first.

    TensorRT joins nodes and names a layer after all of them, differently in both engines. So layers are compared by the
    operators with weights in them: `nodes` and `other_nodes` map names of nodes to the names of those operators. What
    only one of the engines joins cannot be compared and is left out.
    """
    mine, its = times_by_operators(layers, nodes), times_by_operators(others, other_nodes)
    found = [Slower(tuple(sorted(key)), mine[key], its[key]) for key in mine if mine[key] > its.get(key, mine[key])]
    return sorted(found, key=lambda item: item.mean_ms - item.other_ms, reverse=True)


def times_by_operators(layers: Sequence[LayerTime], nodes: Mapping[str, str]) -> dict[frozenset[str], float]:
    """Milliseconds of what TensorRT joined, by the operators in it; `nodes` maps names of nodes to operators."""
    times: dict[frozenset[str], float] = {}
    for layer in layers:
        inside = frozenset(operator for node, operator in nodes.items() if _names(layer.name, node))
        if inside:
            times[inside] = times.get(inside, 0.0) + layer.mean_ms
    return times


def _names(layer: str, node: str) -> bool:
    """Whether a layer's name contains that of a node, and not only as a part of a longer one."""
    return re.search(rf"(?<![\w./:]){re.escape(node)}(?![\w./:])", layer) is not None
