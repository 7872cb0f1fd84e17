"""The compilers of this machine, which build what was generated in order to run it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from edgeq.errors import UnsupportedError, UsageError

Language = Literal["C", "C++"]
COMPILERS: dict[Language, tuple[str, ...]] = {"C": ("cc", "gcc", "clang"), "C++": ("c++", "g++", "clang++")}
_VARIABLES: dict[Language, str] = {"C": "CC", "C++": "CXX"}


def host_compiler(language: Language) -> str:
    """The compiler of this machine: $CC or $CXX, or the first one found. Raises UsageError."""
    for name in (os.environ.get(_VARIABLES[language], ""), *COMPILERS[language]):
        if name and shutil.which(name):
            return name
    known = ", ".join(COMPILERS[language])
    raise UsageError(f"no {language} compiler was found", allowed=known, next_step="Install gcc, g++ or clang.")


def compile_here(command: Sequence[str], folder: Path) -> None:
    """Run a compiler in `folder`. Raises UnsupportedError with its first complaint."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or ["?"]
        raise UnsupportedError("the compiler refused the generated C", where=command[0], value=lines[0])
