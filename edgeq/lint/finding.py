"""What a rule is, and what it finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

Runtime = Literal["tensorrt", "onnxruntime", "litert", "tflm", "coreml"]
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
BOTH: tuple[Runtime, ...] = ("tensorrt", "onnxruntime")

Place = tuple[str, str]
"""Name of a node or tensor, and what is the matter with it."""


Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Rule(Generic[Subject]):
    """What must hold (`text`), why (`why`, with its source), how to mend it, and the check that finds violations."""

    id: str
    severity: Severity
    runtimes: tuple[Runtime, ...]
    text: str
    why: str
    fix: str
    check: Callable[[Subject], Iterator[Place]]


@dataclass(frozen=True)
class Finding:
    """One violation: the rule's id and severity, the node, what is wrong there, and what to do."""

    rule: str
    severity: Severity
    node: str
    message: str
    fix: str
