"""TFLite files run by tflite-runtime, the legacy runtime, in a Python of its own: it breaks with numpy 2.

Its interpreter is a second process that reads arrays from its standard input and writes arrays to its standard
output, one run after another. The Python is named by `python` or by the variable EDGEQ_TFLITE_PYTHON; the extra
tflite-legacy installs what it needs.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import MissingDependencyError, UnsupportedError, UsageError
from edgeq.runtimes.litert import LiteRtRuntime

Array = NDArray[np.generic]
PYTHON_VARIABLE = "EDGEQ_TFLITE_PYTHON"
_LENGTH = struct.Struct("<Q")

_SERVER = """
import io, struct, sys
import numpy as np
from tflite_runtime.interpreter import Interpreter

interpreter = Interpreter(model_path=sys.argv[1], num_threads=int(sys.argv[2]))
interpreter.allocate_tensors()
sys.stdout.buffer.write(b"ready")
sys.stdout.buffer.flush()
while True:
    head = sys.stdin.buffer.read(8)
    if len(head) < 8:
        break
    fed = np.load(io.BytesIO(sys.stdin.buffer.read(struct.unpack("<Q", head)[0])))
    for item, name in zip(interpreter.get_input_details(), fed.files):
        interpreter.set_tensor(item["index"], fed[name])
    interpreter.invoke()
    given = io.BytesIO()
    np.savez(given, *[interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()])
    sys.stdout.buffer.write(struct.pack("<Q", given.tell()) + given.getvalue())
    sys.stdout.buffer.flush()
"""


def legacy_python(python: str | None = None) -> str:
    """The Python that has tflite-runtime. Raises MissingDependencyError if none is named or it lacks the package."""
    named = python or os.environ.get(PYTHON_VARIABLE)
    if not named or not _has_runtime(named):
        raise MissingDependencyError(
            "tflite-runtime", "tflite-legacy", needed_for=f"a Python named by {PYTHON_VARIABLE}"
        )
    return named


def _has_runtime(python: str) -> bool:
    try:
        done = subprocess.run([python, "-c", "import tflite_runtime.interpreter"], capture_output=True, check=False)
    except OSError:
        return False
    return done.returncode == 0


class TfliteRuntime:
    """A file loaded in the other Python. Raises UnsupportedError if tflite-runtime cannot execute it.

    The ports are those of edgeq/runtimes/litert.py, which also turns arrays into the file's layout and codes.
    """

    name = "tflite-runtime"
    is_timed = True

    def __init__(self, path: str | Path, *, python: str | None = None, threads: int = 1) -> None:
        self._ports = LiteRtRuntime(path, threads=1)
        self.threads = threads
        self.inputs, self.outputs = self._ports.inputs, self._ports.outputs
        command = [legacy_python(python), "-c", _SERVER, str(path), str(threads)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )  # fmt: skip
        if self._out.read(5) != b"ready":
            raise UnsupportedError("tflite-runtime cannot load the model", where=path, value=self._last_words())

    @property
    def _out(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _last_words(self) -> str:
        _, error = self._process.communicate()
        return error.decode(errors="replace").strip().splitlines()[-1] if error else "no message"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Raises UsageError for wrong inputs, UnsupportedError if the run fails."""
        if set(inputs) != set(self.inputs):
            raise UsageError("wrong inputs", value=", ".join(inputs) or "none", allowed=", ".join(self.inputs))
        content = io.BytesIO()
        np.savez(content, *[self._ports.stored(name, inputs[name]) for name in self.inputs])
        assert self._process.stdin is not None
        self._process.stdin.write(_LENGTH.pack(content.tell()) + content.getvalue())
        self._process.stdin.flush()
        head = self._out.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            raise UnsupportedError("tflite-runtime failed on the model", value=self._last_words())
        given = np.load(io.BytesIO(self._out.read(_LENGTH.unpack(head)[0])))
        return {name: self._ports.given(name, given[key]) for name, key in zip(self.outputs, given.files, strict=True)}

    def close(self) -> None:
        """End the other process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> TfliteRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
