"""`edgeq train`: it learns, goes on where it was killed, keeps the better of start and end, and says what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgeq.datasets.dataset import Dataset
from edgeq.datasets.open import open_dataset
from edgeq.datasets.preprocess import Preprocess
from edgeq.datasets.scenes import write_dataset
from edgeq.errors import DataError, UsageError
from edgeq.flow import ExportRequest, export_model
from edgeq.flow.train import Trained, Training, TrainingRun, train
from edgeq.formats import INT4_NARROW, Int
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.lower import lower
from edgeq.quantize.asked import Asked
from edgeq.quantize.plan import Plan
from edgeq.targets import find_target
from tests.quantized import Net, inputs_of, planned

SIDE, IMAGES = 24, 24
PREPROCESS = Preprocess((SIDE, SIDE))
FEW = replace(find_target("reference"), name="few", weight=INT4_NARROW, narrow=Int(4))
TRAINING = Training(epochs=3, batch=8, rate=2e-3, workers=1, device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("scenes") / "classify"
    write_dataset(folder, IMAGES, 5, 64, "classify")
    return open_dataset(folder, "classify")


def network() -> tuple[Graph, Plan]:
    """A small classifier of five classes and its plan in few bits."""
    from edgeq.ir import ops as o

    net = Net(1, 3, SIDE, SIDE)
    a = net.apply(net.conv("x", 8, "a", stride=2), "relu", "a1")
    b = net.apply(net.conv(a, 16, "b", stride=2), "relu", "b1")
    flat = net.add(o.Reshape(net.add(o.Mean(b, "m", (2, 3))), "flat", (1, 16)))
    graph = net.graph(net.linear(flat, 8, "y"))
    graph, _, plan = planned(graph, FEW, {"x": np.abs(inputs_of(graph)["x"])})
    return graph, plan


def trained(data: Dataset, state: Path | None, training: Training = TRAINING, stop_after: int | None = None) -> Trained:
    graph, plan = network()

    def progress(stage: str, done: int, total: int) -> None:
        if stop_after is not None and done > stop_after:
            raise KeyboardInterrupt

    return train(graph, plan, data, None, TrainingRun(training, PREPROCESS, state), progress)


def test_training_lowers_the_held_out_loss_and_gives_a_legal_graph(data: Dataset) -> None:
    found = trained(data, None, replace(TRAINING, epochs=8))
    assert found.history[-1]["loss"] < found.history[0]["loss"]
    assert "falls from" in found.notes[0]
    verify(lower(found.graph, found.plan))
    assert found.log().decode().splitlines()[0] == "epoch,loss,held_out,seconds"


def curve(found: Trained) -> list[tuple[float, float]]:
    return [(row["loss"], row["held_out"]) for row in found.history]


def test_a_killed_run_goes_on_with_the_same_curve(data: Dataset, tmp_path: Path) -> None:
    whole = trained(data, None)
    state = tmp_path / "state" / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(data, state, stop_after=5)  # two steps in an epoch: in the third
    assert [path.name for path in state.parent.iterdir()] == ["run.pt"]
    resumed = trained(data, state)
    assert curve(resumed) == curve(whole)
    assert len(set(curve(whole))) == TRAINING.epochs
    assert np.array_equal(
        np.concatenate([array.ravel() for array in resumed.graph.constants.values()]),
        np.concatenate([array.ravel() for array in whole.graph.constants.values()]),
    )
    assert curve(trained(data, state)) == curve(whole)  # and a finished one is not run again


def test_what_only_gets_worse_is_not_taken(data: Dataset) -> None:
    found = trained(data, None, replace(TRAINING, epochs=1, rate=5.0))
    graph, _ = network()
    assert "stays from" in found.notes[0]
    assert all(np.array_equal(found.graph.constants[name], array) for name, array in graph.constants.items())


def test_a_loss_that_is_not_a_number_ends_it_with_one_line(data: Dataset, tmp_path: Path) -> None:
    graph, plan = network()
    weight = next(name for name, array in graph.constants.items() if array.ndim == 4)
    graph.constants[weight][:] = np.float32(1e38)  # type: ignore[index]
    with pytest.raises(UsageError, match=r"the training loss is not a number; at epoch 1\. Lower --rate"):
        train(graph, plan, data, None, TrainingRun(TRAINING, PREPROCESS, tmp_path / "run.pt"), lambda *_: None)


def test_wrong_devices_and_too_few_images_are_named(data: Dataset) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="this device cannot be used; got cuda"):
            trained(data, None, replace(TRAINING, device="cuda"))
    with pytest.raises(UsageError, match="this device cannot be used; got toaster"):
        trained(data, None, replace(TRAINING, device="toaster"))
    few = replace(data, samples=data.samples[:3])  # type: ignore[type-var]
    with pytest.raises(DataError, match="too few images to train on"):
        trained(few, None)


def test_the_command_trains_between_ranges_and_lowering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    request = ExportRequest(
        "zoo:classifier", "reference", calib="scenes:8", data="scenes", data_images=8, out=tmp_path / "out",
        formats=Asked("int4", "int8"), train_data="scenes:16", training=replace(TRAINING, epochs=1),
    )  # fmt: skip
    report = export_model(request)
    places = {row.where for row in report.rows if row.metric == "top1"}
    assert places == {"fp32", "before training", "reference"}
    assert any(note.startswith("training: the loss on 1 held-out images") for note in report.notes)
    assert (tmp_path / "out" / "training.csv").read_text().startswith("epoch,loss")
    assert len(list((tmp_path / "cache" / "edgeq" / "training").iterdir())) == 1
    with pytest.raises(UsageError, match="training needs images"):
        export_model(replace(request, train_data=None, out=tmp_path / "other"))
