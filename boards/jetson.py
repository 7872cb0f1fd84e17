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


def slower_than(layers: Sequence[LayerTime], other: Sequence[LayerTime]) -> list[tuple[LayerTime, LayerTime]]:
    """Layers of both engines that the first runs more slowly, the greatest loss first; names that differ are left out."""
    by_name = {layer.name: layer for layer in other}
    pairs = [(layer, by_name[layer.name]) for layer in layers if layer.name in by_name]
    slower = [(mine, its) for mine, its in pairs if mine.mean_ms > its.mean_ms]
    return sorted(slower, key=lambda pair: its_loss(*pair), reverse=True)


def its_loss(mine: LayerTime, its: LayerTime) -> float:
    """Milliseconds by which the first is slower."""
    return mine.mean_ms - its.mean_ms
