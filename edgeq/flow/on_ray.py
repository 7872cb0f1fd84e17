"""Exports on a Ray cluster: the same function on other machines, into a folder that all of them see."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

from edgeq.errors import EdgeqError, MissingDependencyError, UsageError
from edgeq.flow.export import export_model
from edgeq.flow.request import ExportRequest

Make = Callable[[ExportRequest], Awaitable[None]]
"""Makes the folder of one export. Raises EdgeqError."""
RETRIES = 3
"""How often Ray begins an export again whose worker or node died."""


def on_ray(address: str) -> Make:
    """Exports on the cluster at `address`, spread over its nodes, each on one processor.

    Raises MissingDependencyError without Ray and UsageError if there is no cluster.
    """
    ray = _ray()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", ignore_reinit_error=True)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError("there is no Ray cluster", where=address, value=error,
                         next_step="Start one with: ray start --head") from error  # fmt: skip
    remote = ray.remote(num_cpus=1, max_retries=RETRIES, scheduling_strategy="SPREAD")(_export)

    async def make(request: ExportRequest) -> None:
        complaint = await remote.remote(request)
        if complaint is not None:
            raise UsageError(f"an export failed: {complaint}")

    return make


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("ray", "sweep", needed_for="--address") from error
    return ray


def _export(request: ExportRequest) -> str | None:
    """What went wrong, as text: an error of ours need not be the same class on another machine."""
    try:
        export_model(request)
    except EdgeqError as error:
        return str(error)
    return None
