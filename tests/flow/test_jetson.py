"""The path of an ONNX file to a TensorRT engine, over a real SSH server, with a stand-in for trtexec (no TensorRT here).

What this proves is that the right files and flags arrive, that what comes back is read, and that nothing else stays.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from edgeq.boards.entries import FILE_VARIABLE, add_entry
from tests.board_artifacts import pi
from tests.command_line import edgeq, write_noise_images, write_small_classifier
from tests.ssh_server import SshServer, running

ROOT = Path(__file__).resolve().parents[2]
VERSIONS = {"8.6.2": 8602, "10.3.0": 100300, "11.0.1": 110001}


def times() -> str:
    """Layer c is slower in INT8 than in FP16, and layer a quicker; quoted as sshd wants it."""
    told = {"a": {"int8": 0.01, "fp16": 0.02}, "c": {"int8": 0.05, "fp16": 0.03}}
    return '"' + json.dumps(told).replace('"', '\\"') + '"'


class Jetson:
    """A server whose path has the stand-in for one version of trtexec; its home is its own."""

    def __init__(self, root: Path, version: int) -> None:
        self.root, self.log, self.home = root, root / "calls", root / "home"
        (root / "bin").mkdir()
        self.home.mkdir()
        trtexec = root / "bin" / "trtexec"
        stand_in = ROOT / "tests" / "trtexec_stand_in.py"
        trtexec.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {stand_in} {version} {self.log} "$@"\n')
        trtexec.chmod(0o755)
        environment = {
            "PATH": f"{root}/bin:/usr/bin:/bin",
            "XDG_CACHE_HOME": str(self.home),
            "EDGEQ_STAND_IN_MS": times(),
        }
        self.server = SshServer(root / "sshd", environment=environment)

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def builds(self) -> list[list[str]]:
        return [call for call in self.calls() if any(word.startswith("--saveEngine=") for word in call)]

    def engines(self) -> list[str]:
        return sorted(path.name for path in (self.home / "edgeq" / "engines").glob("*"))


@pytest.fixture(params=VERSIONS.values(), ids=list(VERSIONS))
def jetson(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Jetson]:
    made = Jetson(tmp_path, request.param)
    with running(made.server):
        yield made
        assert made.server.is_clean_within(10), (made.server.left(), made.server.processes())


@pytest.fixture
def newest(tmp_path: Path) -> Iterator[Jetson]:
    made = Jetson(tmp_path, VERSIONS["10.3.0"])
    with running(made.server):
        yield made
        assert made.server.is_clean_within(10), (made.server.left(), made.server.processes())


@pytest.fixture(autouse=True)
def board_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FILE_VARIABLE, str(tmp_path / "boards.toml"))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("jetson")
    write_small_classifier(place / "net.onnx")
    write_noise_images(place / "images", 4)
    for target in ("jetson-int8", "jetson-fp16"):
        ran = edgeq(
            "export", place / "net.onnx", "-t", target, "--calib", place / "images", "--preprocess", "cifar", "--threads", 1,
            "--json", "--no-cache", "--estimator", "minmax", "--float-share", 0, "--out", place / target,
        )  # fmt: skip
        assert ran.exit == 0, ran.stderr
    return place


def test_an_engine_of_every_version(jetson: Jetson, artifacts: Path) -> None:
    add_entry(pi(jetson.server, "jetson"))
    model = artifacts / "jetson-int8" / "net_int8.onnx"
    ran = edgeq("bench", model, "--board", "jetson", "--json")
    assert ran.exit == 0, ran.stderr
    (version,) = [
        name for name, number in VERSIONS.items() if str(number) in (jetson.root / "bin" / "trtexec").read_text()
    ]
    (build,) = jetson.builds()
    assert ("--int8" in build and "--fp16" in build) == (not version.startswith("11"))
    assert "--skipInference" in build and "--profilingVerbosity=detailed" in build
    found = {row["metric"]: row for row in ran.document["rows"]}
    assert f"TensorRT {version} on " in found["latency_p50_ms"]["how"] and found["latency_p50_ms"]["n"] == 20
    assert found["latency_p50_ms"]["value"] > 0 and "first_ms" not in found
    (output,) = ran.document["agreement"]
    assert output["signal_to_noise_db"] > 60 and output["n"] == 20  # six digits of what ONNX Runtime computes
    layers = {layer["value"]: layer for layer in ran.document["layers"]}
    (c,) = [layer for name, layer in layers.items() if "Conv:c.acc" in name]
    assert c["kind"] == "Int8" and c["mean_ms"] == 0.05 and sum(layer["share"] for layer in layers.values()) > 0.99
    assert any("built on the board by TensorRT " + version in note for note in ran.document["notes"])
    assert "times by layer" in edgeq("bench", model, "--board", "jetson", "--layers").stdout
    assert "Times by layer" in (model.parent / "bench.html").read_text()


def test_an_engine_is_kept_by_content(newest: Jetson, artifacts: Path, tmp_path: Path) -> None:
    add_entry(pi(newest.server, "jetson"))
    model = artifacts / "jetson-int8" / "net_int8.onnx"
    for _ in range(2):
        ran = edgeq("bench", model, "--board", "jetson", "--json")
        assert ran.exit == 0, ran.stderr
    assert any("taken from the board's cache" in note for note in ran.document["notes"])
    assert len(newest.builds()) == 1 and len(newest.engines()) == 1
    changed = onnx.load(model)
    changed.producer_name = "another"
    shutil.copytree(artifacts / "jetson-int8", tmp_path / "changed")
    onnx.save(changed, tmp_path / "changed" / "net_int8.onnx")
    assert edgeq("bench", tmp_path / "changed" / "net_int8.onnx", "--board", "jetson").exit == 0
    assert len(newest.builds()) == 2 and len(newest.engines()) == 2
    assert all(len(name) == len(hashlib.sha256().hexdigest()) + len(".engine") for name in newest.engines())


def test_several_builds(newest: Jetson, artifacts: Path) -> None:
    add_entry(pi(newest.server, "jetson"))
    ran = edgeq("bench", artifacts / "jetson-int8" / "net_int8.onnx", "--board", "jetson", "--repeat", 2, "--json")
    assert ran.exit == 0, ran.stderr
    assert len(newest.builds()) == 2 and newest.engines() == []
    assert any(row["metric"] == "latency_p50_spread_ms" and row["n"] == 2 for row in ran.document["rows"])


def test_layers_that_int8_slows_down_are_named(newest: Jetson, artifacts: Path) -> None:
    add_entry(pi(newest.server, "jetson"))
    ran = edgeq(
        "bench", artifacts / "jetson-int8" / "net_int8.onnx", "--board", "jetson",
        "--against", artifacts / "jetson-fp16" / "net.onnx", "--json",
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    assert "jetson: slower in INT8 than in FP16: c (0.0500 ms, not 0.0300)" in ran.document["notes"]
    assert ran.document["next"] == ["edgeq export MODEL -t jetson-int8 --keep-real c"]
    assert {row["where"] for row in ran.document["rows"]} == {"jetson", "jetson, net.onnx"}
    assert len(newest.builds()) == 2


def test_layers_that_int8_slows_down_stay_in_float_on_request(newest: Jetson, artifacts: Path, tmp_path: Path) -> None:
    add_entry(pi(newest.server, "jetson"))
    ran = edgeq(
        "export", artifacts / "net.onnx", "-t", "jetson-int8", "--calib", artifacts / "images", "--preprocess", "cifar",
        "--threads", 1, "--json", "--estimator", "minmax", "--float-share", 0, "--out", tmp_path / "out",
        "--latency-gate", "jetson",
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    found = {row["metric"]: row["value"] for row in ran.document["rows"] if row["where"] == "jetson"}
    assert found["latency_p50_ms_gated"] < found["latency_p50_ms"] - 0.01
    assert "latency gate: kept in float, quicker on jetson: c (0.0500 ms, not 0.0300)" in ran.document["notes"]
    model = onnx.load(tmp_path / "out" / "net_int8.onnx")
    (conv,) = [node for node in model.graph.node if node.op_type == "Conv" and node.output[0].startswith("c")]
    assert not conv.input[1].endswith(".dq")
    refused = edgeq(
        "export", artifacts / "net.onnx", "-t", "onnx-int8", "--calib", "scenes", "--latency-gate", "jetson"
    )
    assert refused.exit == 2 and "--latency-gate is for INT8 engines" in refused.stderr


def test_operators_are_profiled(newest: Jetson, artifacts: Path, tmp_path: Path) -> None:
    add_entry(pi(newest.server, "jetson"))
    ran = edgeq(
        "profile-ops", artifacts / "net.onnx", "-t", "jetson-int8", "--choices", "w8a8", "--board", "jetson",
        "--preprocess", "cifar", "--threads", 1, "--json", "--out", tmp_path / "table.json", env={"XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.exit == 0, ran.stderr
    table = json.loads((tmp_path / "table.json").read_text())
    assert table["layers"]["c"] == {"w8a8": 0.05}
    found = {row["metric"]: row["value"] for row in ran.document["rows"]}
    assert found["sum_ms"] >= 0.05 + table["rest_ms"] and found["whole_ms"] > 0


def test_a_model_that_tensorrt_refuses(newest: Jetson, artifacts: Path, tmp_path: Path) -> None:
    add_entry(pi(newest.server, "jetson"))
    model = onnx.load(artifacts / "jetson-int8" / "net_int8.onnx")
    for tensor in model.graph.initializer:
        if tensor.name == "images.q.zero_point":
            tensor.CopyFrom(onnx.helper.make_tensor(tensor.name, tensor.data_type, tensor.dims, [3]))
    onnx.save(model, tmp_path / "asymmetric.onnx")
    ran = edgeq("bench", tmp_path / "asymmetric.onnx", "--board", "jetson", "--runtime", "tensorrt")
    assert ran.exit == 6 and ran.stderr.startswith(
        "error: trtexec could not build the engine; at jetson, TensorRT 10.3.0; got [11/26/2026-12:00:00] [E] ModelImporter.cpp: "
    )
    assert newest.engines() == []


def test_a_board_without_trtexec(artifacts: Path, tmp_path: Path) -> None:
    with running(SshServer(tmp_path / "sshd")) as server:
        add_entry(pi(server, "pi"))
        ran = edgeq("bench", artifacts / "jetson-int8" / "net_int8.onnx", "--board", "pi")
        assert (ran.exit, ran.stderr) == (
            6, "error: the board has no trtexec; at pi. JetPack brings it (apt install tensorrt); or run the file with:"
            " --runtime onnxruntime\n",
        )  # fmt: skip
        ran = edgeq(
            "bench",
            artifacts / "jetson-int8" / "net_int8.onnx",
            "--board",
            "pi",
            "--runtime",
            "onnxruntime",
            "--runs",
            2,
        )
        assert ran.exit == 0, ran.stderr
    ran = edgeq("bench", artifacts / "jetson-int8" / "net_int8.onnx", "--board", "local", "--runtime", "litert")
    assert ran.exit == 2 and "this runtime does not run the file" in ran.stderr
