"""Feeding mutated files to the readers in a process of its own, and watching what it does.

A finding is anything but a result or a typed error: another exception, an internal fault, the death of the process,
more than `HANG_S` seconds or `LARGEST_BYTES` of memory for one input, and any attempt to write or to run something.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HANG_S = 10.0
LARGEST_BYTES = 2 << 30
BATCH = 500
_ADDRESS_SPACE = 24 << 30
_ACTIONS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.system", "os.exec",
            "subprocess.Popen", "socket.connect", "shutil.rmtree", "os.chmod", "os.truncate")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What one input did; `number` makes it again."""

    number: int
    kind: str
    detail: str
    content: bytes = field(repr=False)


@dataclass
class Tally:
    """How many inputs were read, how many refused and by which error, and the findings."""

    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    slowest_s: float = 0.0
    peak_bytes: int = 0

    @property
    def inputs(self) -> int:
        """Inputs tried."""
        return self.read + self.refused.total() + len(self.findings)


def read(format_: str, content: bytes) -> None:
    """What a person's commands do with a file: import and simplify it, list its numbers, judge them.

    Raises the first typed error, after all of it has been tried.
    """
    from edgeq.errors import EdgeqError

    refused: EdgeqError | None = None
    for step in (_imported, _listed, _judged):
        try:
            step(format_, content)
        except EdgeqError as error:
            if error.exit_code == 1:
                raise
            refused = refused or error
    if refused is not None:
        raise refused


def _imported(format_: str, content: bytes) -> None:
    from edgeq.frontend.onnx import import_onnx
    from edgeq.frontend.tflite import import_tflite
    from edgeq.ir.verify import verify
    from edgeq.passes.simplify import simplify

    graph = import_onnx(content) if format_ == "onnx" else import_tflite(content)
    verify(graph)
    verify(simplify(graph))


def _listed(format_: str, content: bytes) -> None:
    from edgeq.readback import onnx, tflite

    stored = onnx.read_stored(content) if format_ == "onnx" else tflite.read_stored(content)
    for tensor in stored.tensors:
        _ = tensor.reals


def _judged(format_: str, content: bytes) -> None:
    from onnx import ModelProto

    from edgeq.errors import UsageError
    from edgeq.frontend.tflite_file import read_tflite
    from edgeq.lint import lint, lint_tflite

    if format_ == "tflite":
        file = read_tflite(content)
        lint_tflite(file, "litert"), lint_tflite(file, "tflm")
        return
    try:
        model = ModelProto.FromString(content)
    except Exception as error:  # what `lint_file` refuses as no ONNX file
        raise UsageError("not an ONNX file") from error
    lint(model, "tensorrt"), lint(model, "onnxruntime")


def fuzz(format_: str, count: int, seed: int, *, note: Callable[[Tally], None] = lambda tally: None) -> Tally:
    """Try `count` mutated files; a worker that dies or hangs is replaced and its input is a finding."""
    tally, numbers = Tally(), iter(range(0, count, BATCH))
    for start in numbers:
        position, stop = start, min(start + BATCH, count)
        while position < stop:
            position = _batch(format_, seed, position, stop, tally)
        note(tally)
    return tally


def _batch(format_: str, seed: int, start: int, stop: int, tally: Tally) -> int:
    """Inputs start … stop in the worker; the first that is still to be tried afterwards."""
    worker = _worker(format_, seed)
    worker.begin(start, stop)
    position = start
    while position < stop:
        answer = worker.answer()
        if isinstance(answer, str):
            tally.findings.append(Finding(position, answer, "", worker.content(position)))
            worker.end()
            return position + 1
        _count(answer, tally, position, worker)
        position += 1
    return stop


def _count(answer: dict[str, Any], tally: Tally, number: int, worker: Worker) -> None:
    tally.slowest_s = max(tally.slowest_s, answer["seconds"])
    tally.peak_bytes = max(tally.peak_bytes, answer["peak"])
    if answer["kind"] == "read":
        tally.read += 1
    elif answer["kind"] == "refused":
        tally.refused[answer["detail"]] += 1
    else:
        tally.findings.append(Finding(number, answer["kind"], answer["detail"], worker.content(number)))


@dataclass
class Worker:
    """A process that reads files, and the link to it."""

    format_: str
    seed: int
    link: Connection = field(init=False)
    process: Any = field(init=False)

    def __post_init__(self) -> None:
        context = mp.get_context("spawn")
        self.link, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, self.format_, self.seed), daemon=True)
        self.process.start()
        other.close()
        self.link.recv()  # it is ready

    def begin(self, start: int, stop: int) -> None:
        """Let it try inputs start … stop; one that is dead already answers so."""
        with contextlib.suppress(ConnectionError):
            self.link.send((start, stop))

    def answer(self) -> dict[str, Any] | str:
        """What became of the next input; `hang` or `crash` if nothing came."""
        try:
            if not self.link.poll(HANG_S):
                return "hang"
            found: dict[str, Any] = self.link.recv()
            return found
        except (EOFError, ConnectionError):
            self.process.join()
            return f"crash ({self.process.exitcode})"

    def content(self, number: int) -> bytes:
        """The bytes of an input."""
        from fuzz_mutate import mutation
        from fuzz_seeds import SEEDS

        return mutation(SEEDS[self.format_](), self.format_, self.seed, number)

    def end(self) -> None:
        """Stop the process; the next input starts another."""
        self.process.kill()
        self.process.join()
        _WORKERS.pop((self.format_, self.seed), None)


_WORKERS: dict[tuple[str, int], Worker] = {}


def _worker(format_: str, seed: int) -> Worker:
    key = (format_, seed)
    if key not in _WORKERS:
        _WORKERS[key] = Worker(format_, seed)
    return _WORKERS[key]


def stop_workers() -> None:
    """End all processes."""
    for worker in list(_WORKERS.values()):
        worker.end()


def _work(link: Connection, format_: str, seed: int) -> None:
    """The worker: reads batches of inputs, in an empty folder, until its parent ends."""
    from fuzz_mutate import mutation
    from fuzz_seeds import SEEDS

    seeds = SEEDS[format_]()
    for content in seeds:  # loads every module, so that only the inputs themselves are measured
        _outcome(format_, content, [])
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    events: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _silence()
        sys.addaudithook(lambda name, arguments: _watch(name, arguments, events))
        link.send("ready")
        while True:
            try:
                start, stop = link.recv()
            except EOFError:
                return
            for number in range(start, stop):
                link.send(_outcome(format_, mutation(seeds, format_, seed, number), events))
                if os.listdir(folder):
                    return


def _silence() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _watch(name: str, arguments: tuple[Any, ...], events: list[str]) -> None:
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
    if name in _ACTIONS or (name == "open" and isinstance(arguments[2], int) and arguments[2] & writing):
        events.append(f"{name} {arguments[0]!r}"[:200])


def _outcome(format_: str, content: bytes, events: list[str]) -> dict[str, Any]:
    from edgeq.errors import EdgeqError

    events.clear()
    before, started = _peak_bytes(), time.monotonic()
    kind, detail = "read", ""
    try:
        read(format_, content)
    except EdgeqError as error:
        kind, detail = "refused", type(error).__name__
        if error.exit_code == 1 or "\n" in str(error):
            kind, detail = "internal fault", str(error)[:500]
    except BaseException:
        kind, detail = "exception", traceback.format_exc()[-3000:]
    seconds, peak = time.monotonic() - started, _peak_bytes()
    if peak - before > LARGEST_BYTES:
        kind, detail = "memory", f"{(peak - before) >> 20} MiB"
    elif seconds > HANG_S:
        kind, detail = "hang", f"{seconds:.1f} s"
    elif events:
        kind, detail = "action", "; ".join(events[:5])
    return {"kind": kind, "detail": detail, "seconds": seconds, "peak": peak - before}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_findings(tally: Tally, format_: str, folder: Path) -> Iterator[Path]:
    """The inputs of the findings as files, with what they did beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for finding in tally.findings:
        path = folder / f"{format_}-{finding.number}.{format_}"
        path.write_bytes(finding.content)
        path.with_suffix(".txt").write_text(f"{finding.kind}\n{finding.detail}\n", "utf-8")
        yield path
