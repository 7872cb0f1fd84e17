"""Checks of how an ONNX, TFLite or CoreML file is quantized, whoever wrote it, against the rules of the runtime that will execute it.

Every rule has a name, a severity and a reason (`RULES`, `TFLITE_RULES`, `COREML_RULES`). An error means that the runtime refuses the file or computes
something else than it says; a warning costs speed or accuracy; a note is worth knowing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from edgeq.errors import UnsupportedError, UsageError
from edgeq.frontend.tflite_file import TfliteFile, read_tflite
from edgeq.lint.coreml_rules import COREML_RULES
from edgeq.lint.finding import SEVERITIES, Finding, Rule, Runtime, Subject
from edgeq.lint.net import Net
from edgeq.lint.rules import RULES
from edgeq.lint.tflite_net import TfliteNet
from edgeq.lint.tflite_rules import TFLITE_RULES
from edgeq.readback.stored import Stored

__all__ = [
    "COREML_RULES", "RULES", "TFLITE_RULES", "Finding", "Rule", "Runtime", "lint", "lint_file", "lint_tflite", "print_findings",
    "usual_runtime",
]  # fmt: skip


RUNTIMES: dict[str, tuple[Runtime, ...]] = {
    ".onnx": ("tensorrt", "onnxruntime"),
    ".tflite": ("litert", "tflm"),
    ".mlpackage": ("coreml",),
}
"""The runtimes that read each kind of file, the usual one first."""


def lint(model: ModelProto, runtime: Runtime) -> list[Finding]:
    """Every violation of the rules of `runtime` in `model`, errors first, then in the order of rules and nodes."""
    return _found(RULES, Net(model), runtime)


def lint_tflite(file: TfliteFile, runtime: Runtime) -> list[Finding]:
    """Every violation of the rules of `runtime` in `file`, errors first, then in the order of rules and operators."""
    return _found(TFLITE_RULES, TfliteNet(file), runtime)


def _found(rules: Sequence[Rule[Subject]], net: Subject, runtime: Runtime) -> list[Finding]:
    found = [
        Finding(rule.id, rule.severity, place, message, rule.fix)
        for rule in rules
        if runtime in rule.runtimes
        for place, message in rule.check(net)
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def usual_runtime(path: Path) -> Runtime:
    """The runtime whose rules a file is judged by unless another is named; raises UsageError for other files."""
    if path.suffix not in RUNTIMES:
        raise UsageError("this kind of file cannot be linted", value=path, allowed=", ".join(RUNTIMES))
    return RUNTIMES[path.suffix][0]


def lint_file(path: Path, runtime: Runtime | None = None) -> list[Finding]:
    """Findings on the file at `path`, the worst first, by the rules of `runtime` or the usual one for its kind.

    Raises UsageError if it is not there, or not of a kind that the runtime reads.
    """
    if not path.exists() or path.is_dir() != (path.suffix == ".mlpackage"):
        raise UsageError("there is no such file", value=path)
    if path.suffix == ".mlpackage":
        return _found(COREML_RULES, _read_package(path), _fitting(path, runtime))
    if path.suffix == ".tflite":
        return lint_tflite(_read_tflite(path), _fitting(path, runtime))
    try:
        model = ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise UsageError("this is not an ONNX file", value=path) from error
    if not model.graph.node:
        raise UsageError("this is not an ONNX file with operators", value=path)
    return lint(model, "tensorrt" if runtime is None else runtime)


def _fitting(path: Path, runtime: Runtime | None) -> Runtime:
    chosen = usual_runtime(path) if runtime is None else runtime
    if chosen not in RUNTIMES[path.suffix]:
        raise UsageError(
            f"{chosen} does not read this kind of file", value=path, allowed=", ".join(RUNTIMES[path.suffix])
        )
    return chosen


def _read_package(path: Path) -> Stored:
    from edgeq.readback import read_stored

    try:
        return read_stored(path)
    except UnsupportedError as error:
        raise UsageError("this is not a CoreML package", value=path, next_step=str(error)) from error


def _read_tflite(path: Path) -> TfliteFile:
    try:
        return read_tflite(path)
    except UnsupportedError as error:
        raise UsageError("this is not a TFLite file", value=path, next_step=str(error)) from error


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
