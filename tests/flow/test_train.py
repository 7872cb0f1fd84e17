"""`edgeq train`: it learns, goes on where it was killed, keeps the better of start and end, and says what is wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from edgeq.calibrate.importance import DetectionWeights
from edgeq.datasets.coco import BoxLabels, DetectionSet
from edgeq.datasets.dataset import Dataset, Sample, UnlabelledSet
from edgeq.datasets.detection import DetectionHead
from edgeq.datasets.detection_distance import detection_distance, label_distance
from edgeq.datasets.open import open_dataset
from edgeq.datasets.preprocess import Preprocess
from edgeq.datasets.scenes import write_dataset
from edgeq.errors import DataError, UsageError
from edgeq.flow import ExportRequest, export_model
from edgeq.flow.check import Run, interpreter_run, measure
from edgeq.flow.inputs import InputRule
from edgeq.flow.processes import Processes
from edgeq.flow.train import train
from edgeq.flow.training import Trained, Training, TrainingRun, usual_rate
from edgeq.flow.training_data import labelled
from edgeq.flow.training_loop import Loop
from edgeq.formats import INT4_NARROW, Int
from edgeq.ir.graph import Graph
from edgeq.ir.verify import verify
from edgeq.passes.heads import split_head
from edgeq.passes.lower import lower
from edgeq.passes.together import Together
from edgeq.quantize.asked import Asked
from edgeq.quantize.distance import squared_error
from edgeq.quantize.distill import Teacher, block_exits
from edgeq.quantize.grids import Strategy
from edgeq.quantize.plan import Plan
from edgeq.quantize.qat import QatModule
from edgeq.quantize.sensitivity import Objective
from edgeq.targets import find_target
from tests.quantized import Net, inputs_of, planned

SIDE, IMAGES = 24, 24
PREPROCESS = Preprocess((SIDE, SIDE))
FEW = replace(find_target("reference"), name="few", weight=INT4_NARROW, narrow=Int(4))
TRAINING = Training(epochs=3, batch=8, rate=2e-3, workers=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("scenes") / "classify"
    write_dataset(folder, IMAGES, 5, 64, "classify")
    return open_dataset(folder, "classify")


def network(more: int = 0) -> tuple[Graph, Plan]:
    """A small classifier of five classes, so many layers deeper, and its plan in few bits."""
    from edgeq.ir import ops as o

    net = Net(1, 3, SIDE, SIDE)
    a = net.apply(net.conv("x", 8, "a", stride=2), "relu", "a1")
    b = net.apply(net.conv(a, 16, "b", stride=2), "relu", "b1")
    for k in range(more):
        b = net.apply(net.conv(b, 16, f"more{k}"), "relu", f"more{k}r")
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
    found = trained(data, None, replace(TRAINING, epochs=8, rate=1e-2))
    assert found.history[-1]["loss"] < found.history[0]["loss"]
    assert "falls from" in found.notes[0]
    verify(lower(found.graph, found.plan))
    assert found.log().decode().splitlines()[0] == "epoch,loss,held_out,seconds"


def test_codes_of_weights_stay_over_the_last_share(data: Dataset) -> None:
    graph, plan = network()
    run = TrainingRun(replace(TRAINING, rate=1e-2, settle=0.4), PREPROCESS, None)
    loop = Loop(graph, plan, labelled(graph, data, None, run), None, run)
    codes = list[torch.Tensor]()
    while not loop.is_finished:
        loop.one_epoch(lambda *_: None)
        parts = [part for _, part in loop.module.weights_and_grids()]
        codes.append(torch.cat([torch.round(grid(p * unit) / grid.spread()).flatten() for p, unit, grid in parts]))
    assert loop.step.settled is not None
    assert not torch.equal(codes[0], codes[1]) and torch.equal(codes[1], codes[2])
    assert loop.history[2]["held_out"] != loop.history[1]["held_out"]


def test_once_codes_stay_states_of_before_count_no_more(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([9.0, 3.0, 4.0, 2.0, 8.0, 7.0, 7.5, 1.0])
    monkeypatch.setattr(Loop, "_held_out_loss", lambda self: next(losses))
    graph, plan = network()
    run = TrainingRun(replace(TRAINING, epochs=6, settle=0.5), PREPROCESS, None)
    loop, best = Loop(graph, plan, labelled(graph, data, None, run), None, run), list[float]()
    while not loop.is_finished:
        loop.one_epoch(lambda *_: None)
        best.append(loop.best[0])
    assert loop.step.settled is not None and best == [3.0, 3.0, 2.0, 8.0, 7.0, 7.0]
    assert loop.best_epoch == 5


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


def test_a_state_of_another_network_is_named_and_kept(data: Dataset, tmp_path: Path) -> None:
    state = tmp_path / "run.pt"
    trained(data, state, replace(TRAINING, epochs=1))
    known = torch.load(state, weights_only=True)
    known["module"].pop(next(name for name in known["module"] if name.startswith("trained.")))
    torch.save(known, state)
    for content in (state.read_bytes(), state.read_bytes()[:1000], b""):
        state.write_bytes(content)
        with pytest.raises(
            UsageError, match=r"the saved state does not fit this training; at .*run\.pt; got .*--no-cache"
        ):
            trained(data, state)
        assert state.read_bytes() == content and [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_loss_that_is_not_a_number_keeps_the_state_before_it(data: Dataset, tmp_path: Path) -> None:
    state = tmp_path / "run.pt"
    trained(data, state, replace(TRAINING, epochs=1))
    before = state.read_bytes()
    known = torch.load(state, weights_only=True)
    name = next(name for name, tensor in known["module"].items() if name.startswith("trained.") and tensor.dim() == 4)
    known["module"][name].fill_(float("nan"))
    torch.save(known, state)
    broken = state.read_bytes()
    with pytest.raises(
        UsageError, match=r"the training loss is not a number; at epoch 2\. Lower --rate; the best state"
    ):
        trained(data, state)
    assert state.read_bytes() == broken != before


def test_labels_of_more_classes_than_the_network_has_are_refused(data: Dataset) -> None:
    sample = replace(data.samples[0], label=8)  # type: ignore[type-var]
    with pytest.raises(DataError, match=r"the labels name more classes than the network has; at .*; got 9; allowed: 8"):
        trained(replace(data, samples=(sample, *data.samples[1:])), None)  # type: ignore[type-var]


WEIGHTS = DetectionWeights(DetectionHead("yolov8", 3, (8,), outputs=(0, 1)), 32)


def detector() -> Graph:
    """Three classes at 16 places; before training every box covers the middle."""
    from edgeq.ir import ops as o

    net = Net(1, 3, 32, 32)
    a = net.apply(net.conv("x", 8, "a", stride=2), "relu", "a1")
    b = net.apply(net.conv(a, 16, "b", stride=2), "relu", "b1")
    boxes = net.add(o.Reshape(net.conv(b, 4, "c", stride=2), "boxes", (1, 4, 16)))
    scores = net.apply(net.add(o.Reshape(net.conv(b, 3, "d", stride=2), "logits", (1, 3, 16))), "sigmoid", "scores")
    graph = net.graph(boxes, scores)
    last = next(op for op in graph.ops if isinstance(op, o.Conv) and op.out == "c")
    graph.constants[str(last.bias)][:] = [16, 16, 22, 22]  # type: ignore[index]
    return graph


def planned_in_few_bits(graph: Graph) -> tuple[Graph, Plan]:
    graph, _, plan = planned(graph, FEW, {"x": np.abs(inputs_of(graph)["x"])})
    return graph, plan


def bright_boxes(folder: Path, classes: int = 3) -> DetectionSet:
    """Images with one box whose colour is its class."""
    rng, samples = np.random.default_rng(0), []
    for index in range(IMAGES):
        pixels, kind = np.full((32, 32, 3), 60, np.uint8), index % classes
        (x, y), (width, height) = rng.integers(2, 8, 2), rng.integers(14, 22, 2)
        pixels[y : y + height, x : x + width, kind % 3] = 255
        assert cv2.imwrite(str(folder / f"{index}.png"), pixels[..., ::-1])
        boxes = np.array([[x, y, x + width, y + height]], np.float64)
        samples.append(Sample(folder / f"{index}.png", BoxLabels(boxes, np.array([kind]))))
    return DetectionSet("boxes", "detect", tuple(samples))


@pytest.mark.parametrize("raw", [False, True])
def test_a_detector_learns_from_its_teacher_and_from_labels(raw: bool, tmp_path: Path) -> None:
    head = split_head(detector())
    graph, plan = planned_in_few_bits(head.trunk if raw else detector())
    decode = head.decode if raw else None
    labelled, weigh = bright_boxes(tmp_path), WEIGHTS
    alone = UnlabelledSet("boxes", "detect", tuple(Sample(sample.path, None) for sample in labelled.samples))
    run = TrainingRun(replace(STILL, epochs=25, rate=1e-2), Preprocess((32, 32)), None, decode=decode)
    found = {data.task if data is labelled else None: train(graph, plan, data, weigh, run, lambda *_: None)
             for data in (labelled, alone)}  # fmt: skip
    both, teacher = found["detect"].history, found[None].history
    assert both[0]["held_out"] > teacher[0]["held_out"] + 0.1  # from which labels are further than the teacher
    assert both[-1]["loss"] < 0.95 * both[0]["loss"]
    with pytest.raises(DataError, match=r"more classes than the network has; at boxes; got 4; allowed: 3"):
        train(graph, plan, bright_boxes(tmp_path, 4), weigh, run, lambda *_: None)


def test_a_raw_head_is_decoded_before_it_is_judged(tmp_path: Path) -> None:
    whole, head = detector(), split_head(detector())
    graph, plan = planned_in_few_bits(head.trunk)
    assert len(head.decode.ops) >= 3 and graph.outputs != whole.outputs
    run = TrainingRun(STILL, Preprocess((32, 32)), None, decode=head.decode)
    loop = Loop(graph, plan, labelled(graph, bright_boxes(tmp_path), WEIGHTS, run), WEIGHTS, run)
    images, labels = next(loop.training.epoch(0))
    assert len(images) > 1 and labels is not None
    raw = loop.teacher({"x": images}), loop._values(images)
    wanted, rows = (loop._decoded(part[: len(graph.outputs)]) for part in raw)
    known = Teacher(whole, Objective(whole.outputs), torch.device("cpu"))({"x": images})
    for one, other in zip(wanted, known, strict=True):
        torch.testing.assert_close(one, other)
    distance = detection_distance(WEIGHTS.head, wanted, rows) + label_distance(
        WEIGHTS.head, wanted, rows, labels, (32, 32)
    )
    torch.testing.assert_close(loop._loss(images, labels), distance / 2)
    assert float(distance.detach()) > 0.1


def test_features_lead_to_blocks_that_give_what_they_gave(data: Dataset) -> None:
    graph, plan = network(more=3)
    hints = block_exits(graph, plan)
    assert hints and not set(hints) & set(graph.outputs)
    images, _ = next(labelled(graph, data, None, TrainingRun(TRAINING, PREPROCESS, None)).training.epoch(0))

    def error(found: Trained) -> float:
        module = QatModule(found.graph, found.plan)
        goal, now = module_of_floats.exact({"x": images}, hints), module.rounded({"x": images}, hints)
        return float(squared_error(now, goal, [None] * len(hints)).detach())

    module_of_floats, options = QatModule(graph, plan), replace(TRAINING, epochs=8, rate=1e-2)
    runs = (TrainingRun(replace(options, features=weight), PREPROCESS, None) for weight in (0.0, 20.0))
    alone, led = (train(graph, plan, data, None, run, lambda *_: None) for run in runs)
    assert led.history[0]["loss"] > alone.history[0]["loss"]  # it has more parts
    assert error(led) < 0.9 * error(alone)


def test_a_compiler_that_loses_gradients_is_found_out(data: Dataset) -> None:
    graph, plan = network()
    run = TrainingRun(replace(TRAINING, compiled=True), PREPROCESS, None)
    loop = Loop(graph, plan, labelled(graph, data, None, run), None, run)
    step = loop._values
    loop.compiled = torch.compile(step, backend="aot_eager")
    loop.one_epoch(lambda *_: None)
    loop.is_compiled, loop.compiled = False, lambda images: tuple(y.detach().requires_grad_() for y in step(images))
    before = [p.detach().clone() for p in loop.module.parameters()]
    with pytest.raises(UsageError, match=r"torch\.compile gives other gradients .* cosine 0\.000; .*without --compile"):
        loop.one_epoch(lambda *_: None)
    assert all(torch.equal(p, known) for p, known in zip(loop.module.parameters(), before, strict=True))


def test_short_trainings_take_smaller_steps() -> None:
    rates = [usual_rate(steps) for steps in (8, 32, 100, 400, 3280)]
    assert rates[0] < 0.2 * rates[-1]
    assert sorted(rates) == rates and rates[-2:] == [1e-2, 2e-2] and usual_rate(100_000) == 2e-2


def test_patience_and_minutes_end_it(data: Dataset) -> None:
    found = trained(data, None, replace(TRAINING, epochs=50, rate=5.0, patience=2))
    assert len(found.history) < 10
    timed = trained(data, None, replace(TRAINING, epochs=100_000, minutes=0.02))
    assert 1 <= len(timed.history) < 1000
    assert sum(row["seconds"] for row in timed.history) < 30


@pytest.mark.parametrize(
    "options",
    [
        {"learn": Strategy(offsets=True), "freeze": 0.02},
        {"settle": 0.7},
        {"sharpness": 0.05},
        {"half": True},
        {"features": 2.0},
    ],
    ids=",".join,
)
def test_strategies_train_and_go_on_where_they_were_killed(
    options: dict[str, Any], data: Dataset, tmp_path: Path
) -> None:
    training = replace(TRAINING, rate=5e-3, **options)
    whole = trained(data, None, training)
    assert whole.history[-1]["held_out"] != whole.history[0]["held_out"]
    state = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(data, state, training, stop_after=3)
    assert curve(trained(data, state, training)) == curve(whole)
    verify(lower(whole.graph, whole.plan))


def _half_of_a_run(rank: int, folder: str, training: Training) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = trained(open_dataset(Path(folder) / "classify", "classify"), Path(folder) / "run.pt", training)
    assert not dist.is_initialized()
    torch.save((curve(found), dict(found.graph.constants)), f"{folder}/{rank}.out")


STILL = replace(TRAINING, flip=False, shift=False)


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """torchrun's processes share each batch; only rounding of sums differs."""
    write_dataset(tmp_path / "classify", IMAGES, 5, 64, "classify")
    mp.spawn(_half_of_a_run, (str(tmp_path), STILL), nprocs=2)  # type: ignore[no-untyped-call]
    alone = trained(open_dataset(tmp_path / "classify", "classify"), None, STILL)
    halves = [torch.load(tmp_path / f"{rank}.out", weights_only=False) for rank in range(2)]
    assert (tmp_path / "run.pt").is_file()
    for found, constants in halves:
        assert np.allclose(found, curve(alone), rtol=1e-3)
        for name, array in alone.graph.constants.items():
            assert np.allclose(constants[name], array, rtol=1e-2, atol=2e-4), name


def test_two_processes_whose_time_is_up_end_together(tmp_path: Path) -> None:
    """Each has a clock of its own, and would wait for ever for a step that the other does not take."""
    write_dataset(tmp_path / "classify", IMAGES, 5, 64, "classify")
    timed = replace(STILL, epochs=100_000, minutes=0.02)
    mp.spawn(_half_of_a_run, (str(tmp_path), timed), nprocs=2)  # type: ignore[no-untyped-call]
    (first, _), (second, _) = (torch.load(tmp_path / f"{rank}.out", weights_only=False) for rank in range(2))
    assert len(first) == len(second) >= 1
    assert np.allclose(first, second, rtol=1e-6)


def test_a_batch_that_processes_cannot_share_is_refused(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeq.flow.training_data.processes", lambda device: Processes(0, 3))
    with pytest.raises(
        UsageError, match="the batch cannot be shared evenly; got 8; allowed: a multiple of 3 processes"
    ):
        trained(data, None)


def test_too_few_images_are_named(data: Dataset) -> None:
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


def test_images_are_measured_together_where_that_is_quicker(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    lowered, rule = lower(*network()), InputRule(PREPROCESS, "asked")

    def rows() -> list[tuple[str, str, float]]:
        runs: dict[str, Run] = {"one": single.__call__, "reference": interpreter_run(lowered)}
        return [(row.metric, row.where, row.value) for row in measure(data, rule, {}, runs, lambda *_: None)]

    single, counts = interpreter_run(lowered), list[int]()
    apart = rows()
    monkeypatch.setattr("edgeq.flow.check.images_at_once", lambda graph, device: 7)  # 24 images: the last pass has 3
    of = Together.of
    monkeypatch.setattr(Together, "of", lambda self, count: counts.append(count) or of(self, count))
    assert rows() == apart and len({value for _, where, value in apart if where == "one"}) > 1
    assert sorted(counts) == [*[1] * IMAGES, 3, 7, 7, 7]
