"""What makes a model's sources a project: the self-test and what it expects, build files, the README (c_templates/)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeq.emit.c_bank import wrapped
from edgeq.emit.c_files import Source

TEMPLATES = Path(__file__).parent / "c_templates"


def golden_header(s: Source) -> str:
    """<prefix>_golden.h: what the self-test expects."""
    return _filled("golden.h", s)


def self_test(s: Source) -> str:
    """selftest.c: a program that checks the constants, every layer and the outputs."""
    return _filled("selftest.c", s)


def makefile(s: Source) -> str:
    """Makefile: the library, the self-test and its size."""
    return _filled("Makefile", s)


def cmake_lists(s: Source) -> str:
    """CMakeLists.txt."""
    return _filled("CMakeLists.txt", s)


def readme(s: Source) -> str:
    """README.md: how to build, test and call the model, and what it needs."""
    return _filled("README.md", s)


def _filled(name: str, s: Source) -> str:
    """A template; nothing in C or Markdown is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template(f"{name}.j2").render(s=s, wrapped=_numbers, thousands="{:,}".format)


def _numbers(numbers: Sequence[int], form: str) -> str:
    return wrapped([form % number for number in numbers])
