"""What every runtime offers the flow: a loaded file that runs, tells its ports, and can be timed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgeq.runtimes.latency import Latency

Array = NDArray[np.generic]


class Runtime(Protocol):
    """A loaded artifact; arrays go in and come out as the model's own graph has them (NCHW), whatever the file does.

    Codes come out as integers, reals as float32.
    """

    @property
    def name(self) -> str:
        """The runtime, for people."""
        ...

    @property
    def is_timed(self) -> bool:
        """Whether latency here says anything of the runtime: that of an interpreter in its place does not."""
        ...

    @property
    def threads(self) -> int:
        """CPU threads that runs use."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        ...

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each input; 1 where the file leaves a size open."""
        ...

    @property
    def output_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each output."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the file says of itself."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name."""
        ...

    def watching(self, tensors: Iterable[str]) -> Runtime:
        """The same file, which also puts out `tensors` of its inside."""
        ...

    def latency(self, inputs: Mapping[str, Array], *, runs: int = ..., warm_up: int = ...) -> Latency:
        """Wall-clock latency of one run."""
        ...

    def call(self, inputs: Mapping[str, Array]) -> Callable[[], object]:
        """One run on `inputs` as a function to be timed."""
        ...
