"""Checks of how an ONNX file is quantized, whoever wrote it, against the rules of the runtime that will execute it.

Every rule has a name, a severity and a reason (`RULES`). An error means that the runtime refuses the file or computes
something else than it says; a warning costs speed or accuracy; a note is worth knowing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from edgeq.errors import UsageError
from edgeq.lint.finding import SEVERITIES, Finding, Rule, Runtime
from edgeq.lint.net import Net
from edgeq.lint.rules import RULES

__all__ = ["RULES", "Finding", "Rule", "Runtime", "lint", "lint_file", "print_findings"]


def lint(model: ModelProto, runtime: Runtime) -> list[Finding]:
    """Every violation of the rules of `runtime` in `model`, errors first, then in the order of rules and nodes."""
    net = Net(model)
    found = [
        Finding(rule.id, rule.severity, node, message, rule.fix)
        for rule in RULES
        if runtime in rule.runtimes
        for node, message in rule.check(net)
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def lint_file(path: Path, runtime: Runtime) -> list[Finding]:
    """Findings on the file at `path`, the worst first. Raises UsageError if it is not an ONNX file."""
    if not path.is_file():
        raise UsageError("there is no such file", value=path)
    try:
        model = ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise UsageError("this is not an ONNX file", value=path) from error
    if not model.graph.node:
        raise UsageError("this is not an ONNX file with operators", value=path)
    return lint(model, runtime)


def print_findings(findings: Sequence[Finding]) -> None:
    """Write findings to standard output, grouped by rule, with the reason and the fix once per rule."""
    by_rule: dict[str, list[Finding]] = {}
    for finding in findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    for name, group in by_rule.items():
        print(f"{group[0].severity}: {name} ({len(group)})")
        for finding in group[:5]:
            print(f"  {finding.node}: {finding.message}")
        if len(group) > 5:
            print(f"  … and {len(group) - 5} more")
        print(f"  fix: {group[0].fix}")
    counts = [f"{sum(f.severity == severity for f in findings)} {severity}s" for severity in SEVERITIES]
    print(", ".join(counts))
