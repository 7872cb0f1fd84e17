"""One step of training under rounding: gradients, the optimizer, and codes that stay. On a GPU it is one recorded graph.

To start the thousands of small operations of a step takes longer than a GPU computes on them (QAT.md), so that the step is
recorded once what it needs is loaded, and then started as a whole. Several processes, which exchange gradients within a
step, and the search for the worst point nearby, which decides by what it finds, go operation by operation.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from edgeq.flow.processes import Processes
from edgeq.flow.training import Training
from edgeq.flow.training_rates import groups_of, share_of_peak
from edgeq.quantize.freeze import Oscillation, Settled, Sharpness
from edgeq.quantize.qat import QatModule
from edgeq.quantize.recorded import Recording

UNRECORDED = 3
"""Steps before the one that is recorded: kernels are chosen and the optimizer's state is made by them."""
LARGEST_GRADIENT = 1.0

LossOf = Callable[..., Tensor]
"""From images [N, C, H, W], and their labels if there are any, to the loss."""


class Step:
    """Steps of the optimizer on `module` down the slope of `loss`, at a peak rate of `rate`.

    Call it with a batch and the share of the training that is done; it gives the loss before the step.
    """

    def __init__(
        self, module: QatModule, loss: LossOf, options: Training, rate: float, team: Processes, device: torch.device
    ) -> None:
        self._module, self._loss, self._options, self._rate, self._team = module, loss, options, rate, team
        self._on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups_of(module, options), lr=rate)
        self._prepare_optimizer(device)
        self.oscillation = None if options.freeze is None else Oscillation(module, options.freeze)
        self._sharpness = None if options.sharpness is None else Sharpness(module, options.sharpness)
        self.settled: Settled | None = None
        self._records = self._on_gpu and team.world < 2 and self._sharpness is None
        self._recording: Recording | None = None
        self._unrecorded = 0
        module.unrounded = torch.zeros((), device=device) if options.drop else None

    def __call__(self, images: Tensor, labels: Tensor | None, share: float) -> Tensor:
        """The loss of this batch, behind `share` of the training, after which the module is a step further."""
        self._begin(share)
        batch = (images,) if labels is None else (images, labels)
        if self._recording is None and self._records and self._unrecorded == UNRECORDED:
            torch.cuda.empty_cache()  # a recording has memory of its own
            self._recording = Recording.of(self._descend, batch)
        if self._recording is not None:
            return self._recording(*batch)[0].clone()
        self._unrecorded += 1
        if self._records and self._unrecorded == UNRECORDED:
            return self._checked(batch)
        return self._descend(*batch)[0]

    def _checked(self, batch: tuple[Tensor, ...]) -> Tensor:
        """A step that shows whether it can be recorded: what waits for the device cannot, and a failed recording leaves
        the device unusable."""
        mode = torch.cuda.get_sync_debug_mode()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the mode does not see all there is
            torch.cuda.set_sync_debug_mode("error")
        try:
            return self._descend(*batch)[0]
        except RuntimeError:
            self._records = False
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        return self._descend(*batch)[0]

    def _begin(self, share: float) -> None:
        settle = self._options.settle
        if self.settled is None and share >= 1 - settle < 1:
            self.settled, self._recording, self._unrecorded = Settled(self._module), None, 0
        if self.settled is not None:
            self._module.unrounded = None
        elif self._module.unrounded is not None:
            self._module.unrounded.fill_(self._options.drop * (1 - share / (1 - settle)))  # where a recording reads it
        for group in self.optimizer.param_groups:
            rate = self._rate * group["share"] * share_of_peak(share, settle)
            if self._on_gpu:
                group["lr"].fill_(rate)  # where a recording reads it
            else:
                group["lr"] = rate
        if self.oscillation is not None:
            self.oscillation.begin(share)

    def _descend(self, *batch: Tensor) -> tuple[Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        loss = partial(self._loss, *batch)
        if self._sharpness is not None:
            found = self._sharpness.backward(loss)
        else:
            found = loss()
            found.backward()  # type: ignore[no-untyped-call]
        self._team.average(p.grad for p in self._module.parameters() if p.grad is not None)
        if self.settled is not None:
            self.settled.before_step()
        torch.nn.utils.clip_grad_norm_(self._module.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        if self.settled is not None:
            self.settled.after_step()
        elif self.oscillation is not None:
            self.oscillation.after_step()
        return (found.detach(),)

    # --- state ------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a run goes on from, besides the module."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "settled": self.settled is not None,
            "oscillation": None if self.oscillation is None else self.oscillation.state_dict(),
        }

    def load_state_dict(self, found: dict[str, Any], device: torch.device) -> None:
        """Take up a state, behind that of the module."""
        self.optimizer.load_state_dict(found["optimizer"])
        self._prepare_optimizer(device)
        self.settled = Settled(self._module) if found["settled"] else None
        if self.oscillation is not None:
            self.oscillation.load_state_dict(found["oscillation"])

    def _prepare_optimizer(self, device: torch.device) -> None:
        """A recording is the same at every rate, which it therefore reads from the device."""
        for group in self.optimizer.param_groups:
            group["fused"] = group["capturable"] = self._on_gpu
            group["lr"] = torch.tensor(float(group["lr"]), device=device) if self._on_gpu else float(group["lr"])
