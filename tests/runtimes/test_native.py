"""Generated C on this machine: ports, reals in and out, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.emit.host_compiler import compile_here
from edgeq.errors import UnsupportedError, UsageError
from edgeq.ir.graph import Graph
from edgeq.reference.interpret import run
from edgeq.runtimes import native
from edgeq.runtimes.folder import code_of
from edgeq.runtimes.native import NativeRuntime
from tests.c_nets import folder_of, small_network, target
from tests.quantized import inputs_of


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, NativeRuntime, Path]:
    folder = tmp_path_factory.mktemp("native") / "out"
    graph, artifact = folder_of(small_network(), target("c-int8"), folder)
    return graph, NativeRuntime(artifact.primary), folder


def test_ports_are_the_model_s_own(made: tuple[Graph, NativeRuntime, Path]) -> None:
    graph, runtime, _ = made
    assert runtime.inputs == graph.inputs and runtime.outputs == graph.outputs
    assert runtime.input_shapes == {"x": (1, 3, 17, 14)}
    assert runtime.output_shapes == {v: graph.types[v].shape for v in graph.outputs}
    assert runtime.threads == 1


def test_reals_go_in_and_come_out_as_the_reference_has_them(made: tuple[Graph, NativeRuntime, Path]) -> None:
    graph, runtime, _ = made
    inputs = inputs_of(small_network(), 3)
    found = runtime.run(inputs)
    for value, wanted in run(graph, inputs).items():
        assert found[value].dtype == np.float32 and len(np.unique(found[value])) > 3
        np.testing.assert_array_equal(found[value], wanted.numpy())


def test_watched_values_follow_the_outputs(made: tuple[Graph, NativeRuntime, Path]) -> None:
    _, runtime, _ = made
    watching = runtime.watching(["a", "residual"])
    assert watching.outputs == (*runtime.outputs, "a", "residual")
    assert watching.run(inputs_of(small_network()))["a"].shape == watching.output_shapes["a"] == (1, 10, 9, 7)
    with pytest.raises(UsageError, match="does not store"):
        runtime.watching(["b.acc"])


def test_one_content_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others watch does not disturb a run, and what is written anew is built anew."""
    built = list[str]()
    monkeypatch.setattr(native, "compile_here", lambda *command: (built.append(""), compile_here(*command)))
    _, artifact = folder_of(small_network(), target("c-int8"), tmp_path / "out")
    runtime, inputs = NativeRuntime(artifact.primary), inputs_of(small_network(), 3)
    before = runtime.run(inputs)
    seen = runtime.watching(["a"]).run(inputs)
    assert runtime.latency(inputs, runs=3, warm_up=1).runs == 3
    again = NativeRuntime(artifact.primary).run(inputs)
    for name in runtime.outputs:
        assert np.array_equal(before[name], seen[name]) and np.array_equal(before[name], again[name])
    assert len(np.unique(seen["a"])) > 3
    assert len(built) == 1
    weights = next((tmp_path / "out").glob("*_weights.c"))
    weights.write_text(weights.read_text() + "/* another */\n")
    NativeRuntime(artifact.primary)
    assert len(built) == 2


def test_a_run_can_be_timed(made: tuple[Graph, NativeRuntime, Path]) -> None:
    _, runtime, _ = made
    assert runtime.latency(inputs_of(small_network()), runs=3, warm_up=1).runs == 3


@pytest.mark.parametrize(("ties", "wanted"), [("even", [0, 2, 2, -2, -128, 127]), ("away", [1, 2, 3, -3, -128, 127])])
def test_ties_of_quantization(ties: str, wanted: list[int]) -> None:
    port = {"real": True, "bits": 8, "scale": 1.0, "zero_point": 0, "ties": ties}
    assert code_of(np.array([0.5, 1.5, 2.5, -2.5, -1e9, 1e9]), port).tolist() == wanted


def test_wrong_inputs_are_refused(made: tuple[Graph, NativeRuntime, Path]) -> None:
    _, runtime, _ = made
    with pytest.raises(UsageError, match="wrong inputs"):
        runtime.run({})
    with pytest.raises(UsageError, match="wrong input shape"):
        runtime.run({"x": np.zeros((1, 3, 4, 4), np.float32)})


def test_folders_that_hold_no_c_or_broken_c(
    made: tuple[Graph, NativeRuntime, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="no folder of generated C"):
        NativeRuntime(tmp_path / "net_model.c")
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in made[2].iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / "net_model.c").write_text("int broken = ;")
    with pytest.raises(UnsupportedError, match="refused the generated C"):
        NativeRuntime(broken / "net_model.c")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="no C compiler"):
        NativeRuntime(made[2] / "net_model.c")
