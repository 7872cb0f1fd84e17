"""The integer graph itself as the artifact: any formats, for the reference to run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeq.emit.artifact import GRAPH_FILE, MANIFEST, Artifact, digests, to_json, write_files
from edgeq.ir.file import to_bytes
from edgeq.ir.graph import Graph
from edgeq.target import Target


def emit(
    graph: Graph,
    target: Target,
    folder: Path,
    stem: str,
    metadata: Mapping[str, object],
    manifest: Mapping[str, object],
    more_files: Mapping[str, bytes] | None = None,
) -> Artifact:
    """Write graph.edgeq and manifest.json, which also holds `metadata`. Raises OutputError; nothing is left then."""
    files = {**(more_files or {}), GRAPH_FILE: to_bytes(graph)}
    described = {key: str(value) for key, value in metadata.items()}
    files[MANIFEST] = to_json({**manifest, "model_metadata": described, "files": digests(files)})
    write_files(folder, files)
    return Artifact(target.name, folder, digests(files), folder / GRAPH_FILE)
