"""The one file that is sent to a board: runs an artifact on given inputs, and tells how fast and in what state.

It needs Python 3.7, its standard library and the one runtime that the job names (with the numpy that came with it):
onnxruntime, ai_edge_litert or tflite_runtime. The kinds "program" and "command" run an executable and need no package.

    python3 bench.py job.json result.json

The job: kind, artifact, samples (how many inputs), inputs and outputs (files), threads (a list), warm_up and runs. Inputs
are arrays called "<sample>.<port>", as the artifact itself stores them; outputs come back the same way. The result is one
JSON document. Timings are wall-clock milliseconds of single runs after warm_up others, by the first sample.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

SCHEMA = "edgeq.device/1"
NO_RUNTIME = 7
"""Exit status when the runtime is not installed."""
SAMPLE_EVERY_S = 0.1


def percentile(samples: Sequence[float], percent: float) -> float:
    """The value below which `percent` of the samples lie, linear between neighbours.

    >>> percentile([4.0, 1.0, 3.0, 2.0], 50), percentile([1.0, 2.0], 90)
    (2.5, 1.9)
    """
    ordered = sorted(samples)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def timing(threads: int, first_ms: float | None, samples_ms: Sequence[float]) -> dict[str, Any]:
    """The figures of one number of threads (0: not threads of the processor); `first_ms` if it was measured."""
    return {
        "threads": threads,
        "first_ms": first_ms,
        "p50_ms": percentile(samples_ms, 50),
        "p90_ms": percentile(samples_ms, 90),
        "p99_ms": percentile(samples_ms, 99),
        "min_ms": min(samples_ms),
        "runs": len(samples_ms),
        "throughput_per_s": 1000 * len(samples_ms) / sum(samples_ms),
    }


def timing_of_program(printed: str, warm_up: int, layers: Sequence[str] = ()) -> dict[str, Any]:
    """The timing of a program that prints a line for a run: nanoseconds, then those of each of its `layers`.

    Layers are told by the least that each took: what else runs there only adds.
    """
    first, *others = ([int(word) / 1e6 for word in line.split()] for line in printed.splitlines())
    runs = others[warm_up:]
    found = timing(1, first[0], [line[0] for line in runs])
    if layers:
        found["layers_ms"] = {name: min(line[k] for line in runs) for k, name in enumerate(layers, start=1)}
    return found


def measure(call: Callable[[], object], threads: int, warm_up: int, runs: int) -> dict[str, Any]:
    """Time `call`: the very first run apart, then `warm_up` runs unheard, then `runs`."""

    def elapsed_ms() -> float:
        start = time.perf_counter()
        call()
        return (time.perf_counter() - start) * 1000

    first_ms = elapsed_ms()
    for _ in range(warm_up):
        call()
    return timing(threads, first_ms, [elapsed_ms() for _ in range(runs)])


# --- the state of the board -------------------------------------------------------------------------------------------


def read(path: Path) -> str:
    """The text of a file of /sys, or nothing."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def number(path: Path) -> float | None:
    """The number in a file of /sys, or None."""
    try:
        return float(read(path))
    except ValueError:
        return None


def output_of(command: Sequence[str]) -> str:
    """What a tool of the board prints, or nothing where there is no such tool."""
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip()


def first_line(command: Sequence[str]) -> str:
    """The first line of a tool that prints for ever, or nothing."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return ""
    timer = threading.Timer(5, process.kill)
    timer.start()
    assert process.stdout is not None
    line = process.stdout.readline().decode("utf-8", "replace").strip()
    process.kill()
    process.wait()
    process.stdout.close()
    timer.cancel()
    return line


def state(root: Path = Path("/")) -> dict[str, Any]:
    """Clocks in MHz, temperatures in degrees, what slows the board down, and what its tools say, as far as it tells."""
    found: dict[str, Any] = {"clocks_mhz": [], "temperatures_c": {}, "cooling": {}, "over_current_events": {}}
    for cpu in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        clock = number(cpu / "scaling_cur_freq")
        if clock is not None:
            found["clocks_mhz"].append(clock / 1000)
        found["governor"] = read(cpu / "scaling_governor")
        found["max_clock_mhz"] = (number(cpu / "cpuinfo_max_freq") or 0.0) / 1000
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        temperature = number(zone / "temp")
        if temperature is not None:
            found["temperatures_c"][read(zone / "type") or zone.name] = temperature / 1000
    for device in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        level, kind = number(device / "cur_state"), read(device / "type")
        if level and "fan" not in kind.lower():  # a fan cools; everything else slows down
            found["cooling"][kind or device.name] = int(level)
    for counter in sorted((root / "sys/class/hwmon").glob("hwmon*/oc*_event_cnt")):
        found["over_current_events"][counter.name] = int(number(counter) or 0)
    found["throttled"] = output_of(["vcgencmd", "get_throttled"]).rpartition("=")[2]
    found["tegrastats"] = first_line(["tegrastats", "--interval", "500"])
    return found


def rails_w(root: Path = Path("/")) -> dict[str, float]:
    """Watts of every rail that the board measures: by an INA3221, or by any sensor of the kernel that tells power."""
    found = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = read(chip / "name")
        if not name.startswith("ina"):
            for meter in sorted(chip.glob("power[0-9]*_input")) or sorted(chip.glob("power[0-9]*_average")):
                index, microwatts = meter.name.partition("_")[0], number(meter)
                if microwatts is not None:
                    found[read(chip / f"{index}_label") or f"{name} {index}"] = microwatts / 1e6
            continue
        for channel in range(1, 8):
            millivolts, milliamperes = number(chip / f"in{channel}_input"), number(chip / f"curr{channel}_input")
            label = read(chip / f"in{channel}_label") or f"{chip.name}.{channel}"
            if millivolts is not None and milliamperes is not None:
                found[label] = millivolts * milliamperes / 1e6
    for rail in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/in_power*_input")):  # JetPack 4
        milliwatts = number(rail)
        if milliwatts is not None:
            found[read(rail.parent / rail.name.replace("in_power", "rail_name_")[:-6]) or rail.name] = milliwatts / 1e3
    return found


class Power:
    """Mean watts of every rail while it is entered."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root, self._stop = root, threading.Event()
        self._samples: list[dict[str, float]] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            self._samples.append(rails_w(self._root))
            if not self._samples[-1] or self._stop.wait(SAMPLE_EVERY_S):
                return

    def __enter__(self) -> Power:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def mean_w(self) -> dict[str, float]:
        return {
            rail: sum(sample.get(rail, 0.0) for sample in self._samples) / len(self._samples)
            for rail in self._samples[0]
        }


def peak_rss_bytes() -> int:
    """The largest resident memory of this process, or of the programs that it ran."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return 1024 * max(own, children)


# --- the runtimes -----------------------------------------------------------------------------------------------------


def onnxruntime(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """ONNX Runtime: the name of the runtime, then the timing of each number of threads."""
    import numpy
    import onnxruntime as ort

    yield {"name": "ONNX Runtime", "version": ort.__version__}
    inputs = numpy.load(job["inputs"])
    outputs: dict[str, Any] = {}
    for threads in job["threads"]:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        session = loaded(ort, job["artifact"], options)
        names = [port.name for port in session.get_outputs()]

        def feed(sample: int) -> dict[str, Any]:
            return {port.name: inputs[f"{sample}.{k}"] for k, port in enumerate(session.get_inputs())}  # noqa: B023

        if job["runs"]:
            fed = feed(0)
            timed = measure(lambda: session.run(names, fed), threads, job["warm_up"], job["runs"])  # noqa: B023
            if job.get("layers"):
                options.enable_profiling, options.profile_file_prefix = True, "profile"
                watched = loaded(ort, job["artifact"], options)
                for _ in range(job["warm_up"] + job["runs"]):
                    watched.run(names, fed)
                timed["layers_ms"] = nodes_ms(json.loads(read(Path(watched.end_profiling()))), job["warm_up"])
            yield timed
        if not outputs:
            for sample in range(job["samples"]):
                given = session.run(names, feed(sample))
                outputs.update({f"{sample}.{k}": array for k, array in enumerate(given)})
    numpy.savez(job["outputs"], **outputs)


def loaded(ort: Any, artifact: str, options: Any) -> Any:
    """A session of ONNX Runtime that adds products of bytes exactly, which on x86 without VNNI it must be told to do.

    There it refuses a file whose constants several nodes share, which then runs as other programs would run it.
    """
    if saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            return ort.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
        except Exception:  # ONNX Runtime's own exceptions have no common base but Exception
            options.add_session_config_entry("session.x64quantprecision", "0")
    return ort.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])


def saturates() -> bool:
    """Whether ONNX Runtime adds products of unsigned and signed bytes in 16 bits on this machine's processor."""
    return platform.machine() in ("x86_64", "AMD64") and "vnni" not in read(Path("/proc/cpuinfo"))


def nodes_ms(events: Sequence[dict[str, Any]], warm_up: int) -> dict[str, float]:
    """The least that every node took of which a profile of ONNX Runtime tells, by the name that the runtime gave it.

    >>> nodes_ms([{"cat": "Node", "name": "a_kernel_time", "dur": us} for us in (5, 30, 10, 20)], 1)
    {'a': 0.01}
    """
    spent: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent.setdefault(event["name"][: -len("_kernel_time")], []).append(event["dur"] / 1000)
    return {name: min(times[warm_up:]) for name, times in spent.items() if times[warm_up:]}


def litert(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """LiteRT or its predecessor, with the default kernels (XNNPACK)."""
    import numpy

    try:
        from ai_edge_litert import interpreter as module

        package, name = "ai-edge-litert", "LiteRT"
    except ImportError:
        from tflite_runtime import interpreter as module

        package, name = "tflite-runtime", "tflite-runtime"
    yield {"name": name, "version": version_of(package)}
    inputs = numpy.load(job["inputs"])
    outputs: dict[str, Any] = {}
    for threads in job["threads"]:
        interpreter = module.Interpreter(model_path=job["artifact"], num_threads=threads)
        interpreter.allocate_tensors()
        fed, given = interpreter.get_input_details(), interpreter.get_output_details()

        def feed(sample: int) -> None:
            for k, port in enumerate(fed):  # noqa: B023
                interpreter.set_tensor(port["index"], inputs[f"{sample}.{k}"])  # noqa: B023

        feed(0)
        if job["runs"]:
            yield measure(interpreter.invoke, threads, job["warm_up"], job["runs"])
        if not outputs:
            for sample in range(job["samples"]):
                feed(sample)
                interpreter.invoke()
                outputs.update({f"{sample}.{k}": interpreter.get_tensor(port["index"]) for k, port in enumerate(given)})
    numpy.savez(job["outputs"], **outputs)


def program(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """An executable that is called with the job's arguments and prints nanoseconds: the first run, then the others."""
    yield {"name": "generated C", "version": job.get("compiler", "")}
    done = subprocess.run(["./" + job["artifact"], *job["arguments"]], stdout=subprocess.PIPE, check=True)
    if job["runs"]:
        yield timing_of_program(done.stdout.decode(), job["warm_up"], job["layers"])


def command(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Another program that measures by itself: only the board's state is told."""
    yield {}
    subprocess.run(job["command"], stdout=subprocess.DEVNULL, check=True)


KINDS = {"onnxruntime": onnxruntime, "litert": litert, "program": program, "command": command}


def version_of(package: str) -> str:
    """The version of an installed package, or nothing."""
    try:
        from importlib import metadata

        return metadata.version(package)
    except Exception:  # importlib.metadata came with Python 3.8
        return ""


def bench(job: dict[str, Any]) -> dict[str, Any]:
    """Do the job; returns the result."""
    before = state() if job["runs"] else {}
    steps = KINDS[job["kind"]](job)
    runtime = next(steps)
    with Power() as power:
        timings = list(steps)
    return {
        "schema": SCHEMA,
        "runtime": runtime,
        "python": platform.python_version(),
        "timings": timings,
        "warm_up": job["warm_up"],
        "samples": job["samples"],
        "peak_rss_bytes": peak_rss_bytes(),
        "cores": os.cpu_count(),
        "before": before,
        "after": state() if job["runs"] else {},
        "power_w": power.mean_w() if job["runs"] else {},
    }


def main(arguments: Sequence[str]) -> int:
    """Read the job, write the result whole; the exit status is 7 if the runtime is not installed."""
    job_file, result_file = arguments
    job = json.loads(Path(job_file).read_text())
    try:
        result = bench(job)
    except subprocess.CalledProcessError as error:
        print(f"{error.cmd[-1]} ended with {error.returncode}", file=sys.stderr)
        return 1
    except ImportError as error:
        print(f"{error.name} is not installed", file=sys.stderr)
        return NO_RUNTIME
    partial = Path(result_file + ".partial")
    partial.write_text(json.dumps(result))
    partial.replace(result_file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
