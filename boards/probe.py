"""What a machine is and has, asked by one shell script that needs nothing but a POSIX shell and its usual tools.

The script prints `key=value` lines and leaves out what it cannot find, so a figure that is absent was not there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PACKAGES = ("onnxruntime", "ai-edge-litert", "tflite-runtime", "tensorrt", "numpy")

SCRIPT = r"""
say() { [ -z "$2" ] || printf '%s=%s\n' "$1" "$2"; }
first() { for f in "$@"; do [ -r "$f" ] && tr '\0' '\n' < "$f" | head -n 1 && return; done; }
has() { command -v "$1" 2>/dev/null; }
say model "$(first /proc/device-tree/model /sys/class/dmi/id/product_name)"
[ -r /proc/device-tree/compatible ] && say soc "$(tr '\0' '\n' < /proc/device-tree/compatible | tail -n 1)"
say cpu "$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo 2>/dev/null | head -n 1)"
say machine "$(uname -m)"
say kernel "$(uname -sr)"
say cores "$(getconf _NPROCESSORS_ONLN 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
say memory_kb "$(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo 2>/dev/null)"
say os "$(sed -n 's/^PRETTY_NAME="\{0,1\}\([^"]*\).*/\1/p' /etc/os-release 2>/dev/null)"
say l4t "$(first /etc/nv_tegra_release)"
say jetpack "$(dpkg-query -W -f='${Version}' nvidia-jetpack 2>/dev/null)"
say governor "$(first /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor)"
say clock_khz "$(first /sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq)"
say max_clock_khz "$(first /sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq)"
for zone in /sys/class/thermal/thermal_zone*; do
    [ -r "$zone/temp" ] && say "temperature:$(first "$zone/type")" "$(cat "$zone/temp" 2>/dev/null)"
done
[ -z "$(has vcgencmd)" ] || say throttled "$(vcgencmd get_throttled 2>/dev/null | sed 's/.*=//')"
[ -z "$(has nvpmodel)" ] || say nvpmodel "$(nvpmodel -q 2>/dev/null | sed -n 's/^NV Power Mode: *//p')"
[ -z "$(has jetson_clocks)" ] || say jetson_clocks "$(jetson_clocks --show 2>/dev/null \
    | sed -n 's/^cpu0:.*MinFreq=\([0-9]*\) MaxFreq=\([0-9]*\).*/\1 \2/p')"
trtexec=$(has trtexec || { [ -x /usr/src/tensorrt/bin/trtexec ] && echo /usr/src/tensorrt/bin/trtexec; })
say trtexec "$trtexec"
[ -z "$trtexec" ] || say tensorrt "$("$trtexec" --help 2>&1 | sed -n 's/.*TensorRT v\([0-9][0-9]*\).*/\1/p' | head -n 1)"
for cc in cc gcc clang; do [ -z "$(has $cc)" ] || { say compiler "$(has $cc)"; break; }; done
say free_kb "$(df -Pk . 2>/dev/null | sed -n '$s/.* \([0-9][0-9]*\)  *[0-9]*% .*/\1/p')"
python=$1
[ -n "$(has "$python")" ] && "$python" - <<'END' 2>/dev/null
import platform, sys
print("python=" + platform.python_version())
print("python_path=" + sys.executable)
try:
    from importlib import metadata
except ImportError:
    metadata = None
for name in PACKAGES:
    try:
        print("package:%s=%s" % (name, metadata.version(name)))
    except Exception:
        pass
END
true
""".replace("PACKAGES", repr(PACKAGES))


@dataclass(frozen=True)
class Facts:
    """What a probe found; texts are empty, numbers 0 and mappings without the key where the machine does not tell.

    `temperatures_c` is by thermal zone, `packages` by distribution; `clocks_locked` tells whether jetson_clocks holds the
    processor at its highest clock.
    """

    model: str = ""
    soc: str = ""
    cpu: str = ""
    machine: str = ""
    kernel: str = ""
    os: str = ""
    cores: int = 0
    memory_bytes: int = 0
    free_bytes: int = 0
    python: str = ""
    python_path: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    compiler: str = ""
    governor: str = ""
    clock_mhz: float = 0.0
    max_clock_mhz: float = 0.0
    temperatures_c: Mapping[str, float] = field(default_factory=dict)
    throttling: tuple[str, ...] = ()
    trtexec: str = ""
    tensorrt: str = ""
    jetpack: str = ""
    l4t: str = ""
    nvpmodel: str = ""
    clocks_locked: bool | None = None

    def document(self) -> dict[str, Any]:
        """Everything, for JSON."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found


THROTTLING = {
    0: "under-voltage now",
    1: "clock capped now",
    2: "throttled now",
    3: "soft temperature limit now",
    16: "under-voltage has occurred",
    17: "clock capping has occurred",
    18: "throttling has occurred",
    19: "soft temperature limit has occurred",
}
"""Bits of `vcgencmd get_throttled`, as the Raspberry Pi documentation lists them."""


def throttling_of(text: str) -> tuple[str, ...]:
    """What `vcgencmd get_throttled` says, in words.

    >>> throttling_of("0x50005")
    ('under-voltage now', 'throttled now', 'under-voltage has occurred', 'throttling has occurred')
    """
    try:
        bits = int(text, 16)
    except ValueError:
        return ()
    return tuple(words for bit, words in THROTTLING.items() if bits >> bit & 1)


def tensorrt_version(number: str) -> str:
    """The version that trtexec spells as one number, with two digits for each part behind the first from 10 on.

    >>> tensorrt_version("8601"), tensorrt_version("100300"), tensorrt_version("110001")
    ('8.6.1', '10.3.0', '11.0.1')
    """
    if not number.isdigit():
        return ""
    n = int(number)
    if n >= 10000:
        return f"{n // 10000}.{n // 100 % 100}.{n % 100}"
    return f"{n // 1000}.{n // 100 % 10}.{n % 100}"


def facts_of(printed: str) -> Facts:
    """What the lines of SCRIPT say; lines that are no `key=value` are not its own."""
    pairs = [line.split("=", 1) for line in printed.splitlines() if "=" in line]
    found = {key: value.strip() for key, value in pairs}
    clocks = re.fullmatch(r"(\d+) (\d+)", found.get("jetson_clocks", ""))
    texts = ("model", "soc", "cpu", "machine", "kernel", "os", "python", "python_path", "compiler", "governor",
             "trtexec", "jetpack", "l4t", "nvpmodel")  # fmt: skip
    return Facts(
        **{name: found.get(name, "") for name in texts},
        cores=int(_number(found, "cores")),
        memory_bytes=1024 * int(_number(found, "memory_kb")),
        free_bytes=1024 * int(_number(found, "free_kb")),
        packages={key.partition(":")[2]: value for key, value in found.items() if key.startswith("package:")},
        clock_mhz=_number(found, "clock_khz") / 1000,
        max_clock_mhz=_number(found, "max_clock_khz") / 1000,
        temperatures_c={
            key.partition(":")[2]: _number(found, key) / 1000 for key in found if key.startswith("temperature:")
        },
        throttling=throttling_of(found.get("throttled", "")),
        tensorrt=tensorrt_version(found.get("tensorrt", "")),
        clocks_locked=clocks[1] == clocks[2] if clocks else None,
    )


def _number(found: Mapping[str, str], key: str) -> float:
    try:
        return float(found.get(key, ""))
    except ValueError:
        return 0.0
