"""The file that is sent to boards: its figures, and the state it reads from a tree that looks like a board's /sys."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.runtimes.device import bench

SOURCE = Path(bench.__file__)


@given(st.lists(st.floats(0.001, 1e4), min_size=1, max_size=40), st.integers(0, 100))
def test_percentiles_are_numpys(samples: list[float], percent: int) -> None:
    assert bench.percentile(samples, percent) == pytest.approx(float(np.percentile(samples, percent)))


def test_figures_of_a_timing() -> None:
    found = bench.timing(2, 9.0, [1.0, 2.0, 3.0, 4.0])
    assert (found["p50_ms"], found["min_ms"], found["first_ms"], found["runs"]) == (2.5, 1.0, 9.0, 4)
    assert found["throughput_per_s"] == 400.0


def test_the_layers_of_a_program() -> None:
    """Each by the least it took: what else runs on a board only adds."""
    runs = [(1_000_000, 200, 900), (3_000_000, 400, 700), *[(50_000_000, 40_000_000, 800)] * 9]
    lines = ["9000000 1 1", "8000000 1 1", *(" ".join(map(str, run)) for run in runs)]
    found = bench.timing_of_program("\n".join(lines), 1, ["first", "second"])
    assert (found["first_ms"], found["min_ms"], found["p50_ms"], found["runs"]) == (9.0, 1.0, 50.0, 11)
    assert found["layers_ms"] == {"first": 200e-6, "second": 700e-6}
    assert "layers_ms" not in bench.timing_of_program("5\n4\n", 0)


def test_the_first_run_and_the_warm_up_are_not_counted() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        time.sleep(0.02 if calls <= 4 else 0)

    found = bench.measure(call, 1, 3, 5)
    assert calls == 9 and found["first_ms"] >= 20 and found["runs"] == 5
    assert found["p50_ms"] < found["first_ms"]


def test_it_needs_nothing_but_the_standard_library_to_start() -> None:
    tree = ast.parse(SOURCE.read_text("utf-8"), feature_version=(3, 7))
    imported = {
        alias.name.split(".")[0]
        for node in tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in ([ast.alias(node.module or "")] if isinstance(node, ast.ImportFrom) else node.names)
    }
    assert imported <= sys.stdlib_module_names and "edgeq" not in SOURCE.read_text("utf-8").replace(
        "edgeq.device/1", ""
    )


def write(root: Path, files: dict[str, object]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return root


def test_the_state_of_a_board(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 600000,
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": 2400000,
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": 2400000,
            "sys/devices/system/cpu/cpu1/cpufreq/cpuinfo_max_freq": 2400000,
            "sys/devices/system/cpu/cpufreq/none": 1,
            "sys/class/thermal/thermal_zone0/temp": 51250,
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone1/temp": "not a number",
            "sys/class/thermal/cooling_device0/cur_state": 3,
            "sys/class/thermal/cooling_device0/type": "pwm-fan",
            "sys/class/thermal/cooling_device1/cur_state": 2,
            "sys/class/thermal/cooling_device1/type": "thermal-cpufreq-0",
            "sys/class/thermal/cooling_device2/cur_state": 0,
            "sys/class/hwmon/hwmon4/oc1_event_cnt": 7,
        },
    )
    found = bench.state(root)
    assert found["clocks_mhz"] == [600.0, 2400.0] and found["max_clock_mhz"] == 2400.0
    assert found["temperatures_c"] == {"cpu-thermal": 51.25}
    assert found["cooling"] == {"thermal-cpufreq-0": 2} and found["over_current_events"] == {"oc1_event_cnt": 7}
    assert bench.state(tmp_path / "nothing")["clocks_mhz"] == []


def test_power_of_a_jetson(tmp_path: Path) -> None:
    """INA3221 by hwmon (JetPack 5 and 6: in mV, curr mA, labels) and by iio (JetPack 4: mW)."""
    root = write(
        tmp_path / "new",
        {
            "sys/class/hwmon/hwmon1/name": "ina3221",
            "sys/class/hwmon/hwmon1/in1_input": 5000,
            "sys/class/hwmon/hwmon1/curr1_input": 1200,
            "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
            "sys/class/hwmon/hwmon1/in2_input": 5000,
            "sys/class/hwmon/hwmon1/in2_label": "no current",
            "sys/class/hwmon/hwmon0/name": "cpu_thermal",
        },
    )
    assert bench.rails_w(root) == {"VDD_IN": 6.0}
    old = write(
        tmp_path / "old",
        {
            "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input": 4250,
            "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN",
        },
    )
    assert bench.rails_w(old) == {"POM_5V_IN": 4.25}
    with bench.Power(root) as power:
        time.sleep(0.01)
    assert power.mean_w() == {"VDD_IN": 6.0}
    with bench.Power(tmp_path) as power:
        pass
    assert power.mean_w() == {}


def test_power_by_other_sensors(tmp_path: Path) -> None:
    """As the kernel's hwmon interface has it: microwatts, at once or averaged, with a label or without."""
    root = write(
        tmp_path,
        {
            "sys/class/hwmon/hwmon0/name": "amdgpu",
            "sys/class/hwmon/hwmon0/power1_average": 5_500_000,
            "sys/class/hwmon/hwmon0/power1_label": "PPT",
            "sys/class/hwmon/hwmon1/name": "meter",
            "sys/class/hwmon/hwmon1/power1_input": 2_000_000,
            "sys/class/hwmon/hwmon1/power2_input": "broken",
            "sys/class/hwmon/hwmon1/power1_max": 9_000_000,
        },
    )
    assert bench.rails_w(root) == {"PPT": 5.5, "meter power1": 2.0}


def test_a_tool_that_prints_for_ever_is_read_once() -> None:
    assert bench.first_line(["sh", "-c", "while :; do echo line; sleep 0.05; done"]) == "line"
    assert bench.first_line(["no such tool"]) == "" and bench.output_of(["no such tool"]) == ""
    assert bench.output_of(["echo", "throttled=0x0"]) == "throttled=0x0"


def test_a_program_that_fails(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(
        json.dumps({"kind": "command", "command": ["false"], "samples": 0, "warm_up": 0, "runs": 0})
    )
    command = [sys.executable, str(SOURCE), "job.json", "result.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "false ended with 1\n") and not (tmp_path / "result.json").exists()
