"""The part of `edgeq validate` that boards do: images go there some at a time, outputs come back and are measured here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeq.boards.board import Board
from edgeq.boards.device import Ran, Settings
from edgeq.datasets.dataset import Dataset, Metric
from edgeq.datasets.evaluate import Evaluation, Prepared, prepare
from edgeq.datasets.preprocess import Preprocess
from edgeq.errors import EdgeqError
from edgeq.flow.board_report import note_state, report_agreement, timing_rows
from edgeq.flow.cells import Condition
from edgeq.flow.check import OUTPUT_IMAGES, Run, metric_row
from edgeq.flow.device_inputs import trial_of
from edgeq.flow.fleet import settled
from edgeq.flow.inputs import InputRule
from edgeq.flow.on_board import run_on
from edgeq.frontend.model import ports_of
from edgeq.ir.graph import Array
from edgeq.progress import Progress
from edgeq.report import Report
from edgeq.runtimes.runtime import Runtime

BYTES_AT_A_TIME = 64 << 20
TIMED_RUNS, WARM_UP_RUNS = 20, 5


def measure_on_boards(
    report: Report,
    artifact: Path,
    runtime: Runtime,
    boards: Sequence[Board],
    data: Dataset,
    rule: InputRule,
    metadata: Mapping[str, str],
    runs: Mapping[str, Run],
    progress: Progress,
) -> None:
    """Every metric at every place, here (`runs`) and on the boards, and how far the boards are from the reference.

    Raises BoardError if a board fails: accuracy over a part of the images would be that of another data set.
    """
    evaluation = Evaluation(data, rule.preprocess, [*runs, *(board.name for board in boards)], metadata)
    (port,) = runtime.inputs

    async def measure() -> None:
        done = 0
        async with AsyncExitStack() as stack:
            for board in boards:
                await stack.enter_async_context(board)
            for some in _pieces(prepare(data, rule.preprocess)):
                samples = [{port: prepared.tensor} for prepared in some]
                settings = Settings(runs=0 if done else TIMED_RUNS, warm_up=WARM_UP_RUNS)
                ran = await _on_all(boards, artifact, samples, settings)
                if not done:
                    trial = trial_of(artifact, runtime, samples[:OUTPUT_IMAGES])
                    for name, found in ran.items():
                        report.rows += timing_rows(found, name)
                        note_state(report, found, name)
                        report_agreement(report, trial, found.outputs[:OUTPUT_IMAGES], name)
                for k, prepared in enumerate(some):
                    here = {place: run(prepared.tensor) for place, run in runs.items()}
                    there: dict[str, Any] = {
                        name: [np.asarray(a) for a in item.outputs[k].values()] for name, item in ran.items()
                    }
                    evaluation.add(prepared, {**here, **there})
                done += len(some)
                progress("measuring accuracy", done, len(data.samples))

    asyncio.run(measure())
    report.rows += [
        metric_row(metric, where, data.name) for where, found in evaluation.metrics().items() for metric in found
    ]


async def accuracy_on(
    board: Board,
    artifact: Path,
    runtime: Runtime,
    data: Dataset,
    preprocess: Preprocess,
    condition: Condition,
    seed: int,
) -> list[Metric]:
    """Accuracy of outputs that one board, which was entered, makes of images under a condition. Raises BoardError.

    `runtime` is this machine's for the artifact, and says how its outputs are read.
    """
    ports = ports_of(artifact.stem, runtime.input_shapes, runtime.output_shapes, runtime.metadata)
    evaluation = Evaluation(data, preprocess, [board.name], ports.metadata)
    names = [sample.path.name for sample in data.samples]
    parts = condition.assign(names)

    def changed(image: npt.NDArray[np.uint8], index: int) -> npt.NDArray[np.uint8]:
        part = parts[index]
        return image if part is None else part.apply(image, names[index], seed)

    (port,) = runtime.inputs
    pieces = _pieces(prepare(data, preprocess, changed))
    while some := await asyncio.to_thread(next, pieces, None):
        ran = await run_on(board, artifact, [{port: prepared.tensor} for prepared in some], Settings(runs=0))
        for prepared, given in zip(some, ran.outputs, strict=True):
            outputs: Any = [np.asarray(array) for array in given.values()]
            await asyncio.to_thread(evaluation.add, prepared, {board.name: outputs})
    return evaluation.metrics()[board.name]


async def _on_all(
    boards: Sequence[Board], artifact: Path, samples: Sequence[Mapping[str, Array]], settings: Settings
) -> dict[str, Ran]:
    """What every board makes of `samples`. Raises the first board's error."""
    found: dict[str, Ran] = {}
    outcomes = await settled(run_on(board, artifact, samples, settings) for board in boards)
    for board, outcome in zip(boards, outcomes, strict=True):
        if isinstance(outcome, EdgeqError):
            raise outcome
        found[board.name] = outcome
    return found


def _pieces(prepared: Iterator[Prepared]) -> Iterator[list[Prepared]]:
    """As many samples at a time as fit into BYTES_AT_A_TIME."""
    first = next(prepared, None)
    while first is not None:
        count = max(BYTES_AT_A_TIME // first.tensor.nbytes, 1)
        yield [first, *islice(prepared, count - 1)]
        first = next(prepared, None)
