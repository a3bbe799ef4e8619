"""Steps whose losses or gradients are infinite or NaN: skip them or stop, and keep the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from loguru import logger
from torch import Tensor, nn

from cvpods.checkpoint.atomic import write_atomically
from cvpods.structures import Boxes, Instances
from cvpods.structures.samples import Sample
from cvpods.utils import comm
from cvpods.utils.errors import PodsError
from cvpods.utils.torch_private import norm_class


class NonFiniteLoss(FloatingPointError):
    """The losses or gradients of a step are not all finite; no weight has changed."""

    def __init__(self, iteration: int, losses: Mapping[str, float]) -> None:
        self.iteration, self.losses = iteration, dict(losses)
        what = "loss" if not losses_are_finite(losses) else "gradient"
        super().__init__(
            f"The {what} became infinite or NaN at iteration {iteration}: {self.losses}. A lower "
            "SOLVER.OPTIMIZER.BASE_LR, a longer warm-up or SOLVER.CLIP_GRADIENTS may help."
        )


class TooManySkippedSteps(PodsError):  # noqa: N818 - as TooManyCorruptImages
    """The share of skipped steps exceeds TRAINER.NONFINITE.MAX_SKIPPED_SHARE."""


# Steps of a run before the share of skipped ones is checked.
_ENOUGH_STEPS = 20


class NonFinitePolicy:
    """TRAINER.NONFINITE: the handling of steps whose losses or gradients are not finite.

    Args:
        policy: "stop" ends the run; "skip" skips the step, at most `max_skipped` in a row.
        output: folder of the dumps, nonfinite_<iteration>.pt.
        max_share: the run ends if more than this share of its steps so far, and more than one, was
            skipped.
    """

    def __init__(
        self, policy: str, max_skipped: int, output: str | Path, max_share: float = 1.0
    ) -> None:
        self.policy, self.max_skipped, self.max_share = policy, max_skipped, max_share
        self.output = Path(output)
        self.in_a_row = 0
        self.skipped = 0
        self.steps = 0

    def record_finite_step(self) -> None:
        """Record a finite step: reset the count of consecutive skipped steps."""
        self.in_a_row = 0
        self.steps += 1

    def state_dict(self) -> dict[str, int]:
        return {"in_a_row": self.in_a_row, "skipped": self.skipped, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        vars(self).update(state)

    def check_share(self, is_last: bool) -> None:
        """Check that not too many of the run's steps were skipped.

        Args:
            is_last: whether the run ends here; the share of a few steps then counts too.

        Raises:
            TooManySkippedSteps: the share of skipped steps exceeds `max_share`.
        """
        few = self.steps < _ENOUGH_STEPS and not is_last
        if few or self.skipped <= max(1, self.max_share * self.steps):
            return
        raise TooManySkippedSteps(
            f"{self.skipped} of {self.steps} steps were skipped because their losses or gradients "
            "were not finite, more than TRAINER.NONFINITE.MAX_SKIPPED_SHARE "
            f"{self.max_share:g} allows. Lower SOLVER.OPTIMIZER.BASE_LR or lengthen the warm-up, "
            "or look at a skipped batch: pods_debug replay "
            f"{self.output / 'nonfinite_<iteration>.pt'}"
        )

    def handle(self, error: NonFiniteLoss, dump: Mapping[str, Any], own: bool) -> None:
        """Keep the batch; then skip the step or stop.

        Args:
            dump: content of the file for pods_debug replay. Only the first of consecutive skipped
                steps is kept.
            own: whether the losses of this rank are not finite.

        Raises:
            NonFiniteLoss: the policy is to stop, or too many consecutive steps were not finite.
        """
        in_a_row = self.in_a_row + 1
        message = f"{error} {_CAUSES[dump['cause']]}"
        if own and in_a_row == 1:
            message += self._write(dump, error.iteration)
        if self.policy == "stop" or in_a_row > self.max_skipped:
            row = f" {in_a_row} steps in a row." if self.policy == "skip" else ""
            error.args = (message + row,)
            raise error
        self.in_a_row = in_a_row
        self.skipped += 1
        self.steps += 1
        logger.warning(f"{message} Step skipped ({self.in_a_row} in a row, {self.skipped} in all).")

    def _write(self, dump: Mapping[str, Any], iteration: int) -> str:
        """Write a dump to the output folder; return a sentence that says where it is."""
        rank = f".rank{comm.get_rank()}" if comm.get_rank() else ""
        path = self.output / f"nonfinite_{iteration:07d}{rank}.pt"
        try:
            write_atomically(path, lambda file: torch.save(dict(dump), file))
        except OSError as problem:
            return f" The batch could not be written to {path}: {problem}."
        return f" The batch is in {path}; look at it with: pods_debug replay {path}"


_CAUSES = {
    "divergence": "",
    "overflow": (
        "In float32 the same batch has finite losses: this is an overflow of fp16, not divergence. "
        "TRAINER.AMP.DTYPE bf16 has the range of float32."
    ),
    "gradients": "The losses are finite, their gradients are not.",
}


# -- checks ----------------------------------------------------------------------------------------


def weights_norm(model: nn.Module) -> float:
    """Return the Euclidean norm of all parameters."""
    squares = [p.detach().double().pow(2).sum() for p in model.parameters()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def gradients_are_finite(model: nn.Module) -> bool:
    """Return whether every gradient is finite; one reduction over all of them usually suffices."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients or bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
        return True
    return all(bool(g.isfinite().all()) for g in gradients)  # the norm may overflow on its own


def losses_are_finite(losses: Mapping[str, float]) -> bool:
    """Return whether every value whose name contains "loss" is finite."""
    return all(math.isfinite(value) for name, value in losses.items() if "loss" in name)


# -- running statistics ----------------------------------------------------------------------------

RunningStatistics = list[tuple[Tensor, Tensor]]


def copy_running_statistics(model: nn.Module) -> RunningStatistics:
    """Return (buffer, copy) of the statistics that a forward pass in training mode changes."""
    kind = norm_class()
    norms = (m for m in model.modules() if isinstance(m, kind) and m.training)
    return [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]


def restore_running_statistics(statistics: RunningStatistics) -> None:
    """Restore what copy_running_statistics() returned."""
    for buffer, copy in statistics:
        buffer.copy_(copy)


# -- batches in a dump -----------------------------------------------------------------------------


def pack_batch(batch: Sequence[object]) -> list[object]:
    """Return the samples as plain tensors, texts and numbers, which load with `weights_only`.

    Samples that are not dicts, of a loader of the user's own, stay as they are.
    """
    packed: list[object] = []
    for sample in batch:
        if not isinstance(sample, dict):
            packed.append(sample)
            continue
        entry = {k: v for k, v in sample.items() if isinstance(v, (str, int, float, Tensor))}
        if "key" in sample:
            entry["index"], entry["seed"] = sample["key"]
        if "instances" in sample:
            instances = sample["instances"]
            entry["boxes"] = instances.gt_boxes.tensor
            entry["classes"] = instances.gt_classes
        packed.append(entry)
    return packed


def unpack_batch(packed: Sequence[dict[str, Any]]) -> list[Sample]:
    """Return the samples that pack_batch() packed, as a model takes them."""
    batch = []
    for entry in packed:
        sample = {k: v for k, v in entry.items() if k not in ("boxes", "classes")}
        if "boxes" in entry:
            height, width = entry["image"].shape[-2:]
            boxes = Boxes(entry["boxes"])
            sample["instances"] = Instances(
                (height, width), gt_boxes=boxes, gt_classes=entry["classes"]
            )
        batch.append(cast(Sample, sample))
    return batch
