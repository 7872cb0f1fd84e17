"""Rules, findings, and the one loop that applies the rules to a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgeq.lint.net import Net

if TYPE_CHECKING:
    from onnx import ModelProto

Runtime = Literal["tensorrt", "onnxruntime"]
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
BOTH: tuple[Runtime, ...] = ("tensorrt", "onnxruntime")

Place = tuple[str, str]
"""Name of a node or tensor, and what is the matter with it."""


@dataclass(frozen=True)
class Rule:
    """What must hold (`text`), why (`why`, with its source), how to mend it, and the check that finds violations."""

    id: str
    severity: Severity
    runtimes: tuple[Runtime, ...]
    text: str
    why: str
    fix: str
    check: Callable[[Net], Iterator[Place]]


@dataclass(frozen=True)
class Finding:
    """One violation: the rule's id and severity, the node, what is wrong there, and what to do."""

    rule: str
    severity: Severity
    node: str
    message: str
    fix: str


def lint(model: ModelProto, runtime: Runtime) -> list[Finding]:
    """Every violation of the rules of `runtime` in `model`, errors first, then in the order of rules and nodes."""
    from edgeq.lint.rules import RULES

    net = Net(model)
    found = [
        Finding(rule.id, rule.severity, node, message, rule.fix)
        for rule in RULES
        if runtime in rule.runtimes
        for node, message in rule.check(net)
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
