"""Losses that are infinite or NaN: nothing is learned from them, and the batch is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger
from torch import Tensor, nn

from cvpods.checkpoint.atomic import write_atomically
from cvpods.structures import Boxes, Instances
from cvpods.utils import comm
from cvpods.utils.errors import PodsError
from cvpods.utils.torch_private import norm_class


class NonFiniteLoss(FloatingPointError):
    """The losses of a step are not all finite; no weight has changed."""

    def __init__(self, iteration: int, losses: Mapping[str, float]) -> None:
        self.iteration, self.losses = iteration, dict(losses)
        what = "loss" if not all_finite(losses) else "gradient"
        super().__init__(
            f"The {what} became infinite or NaN at iteration {iteration}: {self.losses}. A lower "
            "SOLVER.OPTIMIZER.BASE_LR, a longer warm-up or SOLVER.CLIP_GRADIENTS may help."
        )


class TooManySkippedSteps(PodsError):  # noqa: N818 - as TooManyCorruptImages
    """More steps were left out than TRAINER.NONFINITE.MAX_SKIPPED_SHARE allows."""


# Steps of a run before the share of skipped ones means anything.
_ENOUGH_STEPS = 20


class NonFinitePolicy:
    """TRAINER.NONFINITE: what happens to a step whose losses or gradients are not finite.

    Args:
        policy: "stop" ends the run; "skip" leaves the step out, at most `max_skipped` in a row.
        output: folder of the dumps, nonfinite_<iteration>.pt.
        max_share: more than this share of the steps so far (and more than one) ends the run.
    """

    def __init__(
        self, policy: str, max_skipped: int, output: str | Path, max_share: float = 1.0
    ) -> None:
        self.policy, self.max_skipped, self.max_share = policy, max_skipped, max_share
        self.output = Path(output)
        self.in_a_row = 0
        self.skipped = 0
        self.steps = 0

    def finite(self) -> None:
        """Count a finite step."""
        self.in_a_row = 0
        self.steps += 1

    def state_dict(self) -> dict[str, int]:
        return {"in_a_row": self.in_a_row, "skipped": self.skipped, "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        vars(self).update(state)

    def check_share(self, is_last: bool) -> None:
        """Raise TooManySkippedSteps where too many of the run's steps were left out.

        Args:
            is_last: whether the run ends here, so that few steps count too.
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
        """Keep the batch and skip the step, or stop.

        Args:
            dump: what goes into the file, see replay(); of a row of steps, the first is kept.
            own: whether this rank's losses are the ones.

        Raises:
            NonFiniteLoss: the policy is to stop, or too many steps in a row were not finite.
        """
        in_a_row = self.in_a_row + 1
        said = f"{error} {_CAUSES[dump['cause']]}"
        if own and in_a_row == 1:
            rank = f".rank{comm.get_rank()}" if comm.get_rank() else ""
            path = self.output / f"nonfinite_{error.iteration:07d}{rank}.pt"
            try:
                write_atomically(path, lambda file: torch.save(dict(dump), file))
                said += f" The batch is in {path}; look at it with: pods_debug replay {path}"
            except OSError as problem:
                said += f" The batch could not be written to {path}: {problem}."
        if self.policy == "stop" or in_a_row > self.max_skipped:
            row = f" {in_a_row} steps in a row." if self.policy == "skip" else ""
            error.args = (said + row,)
            raise error
        self.in_a_row = in_a_row
        self.skipped += 1
        self.steps += 1
        logger.warning(f"{said} Step skipped ({self.in_a_row} in a row, {self.skipped} in all).")


_CAUSES = {
    "divergence": "",
    "overflow": (
        "In float32 the same batch has finite losses: this is an overflow of fp16, not divergence. "
        "TRAINER.AMP.DTYPE bf16 has the range of float32."
    ),
    "gradients": "The losses are finite, their gradients are not.",
}


def weights_norm(model: nn.Module) -> float:
    """Euclidean norm of all parameters."""
    squares = [p.detach().double().pow(2).sum() for p in model.parameters()]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def gradients_are_finite(model: nn.Module) -> bool:
    """Whether every gradient is; usually by one reduction over all of them."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients or bool(torch.nn.utils.get_total_norm(gradients).isfinite()):
        return True
    return all(bool(g.isfinite().all()) for g in gradients)  # the norm may overflow on its own


def all_finite(losses: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for name, value in losses.items() if "loss" in name)


def norm_statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """(buffer, copy) of the running statistics that a forward pass in training mode changes."""
    kind = norm_class()
    norms = (m for m in model.modules() if isinstance(m, kind) and m.training)
    return [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]


def restore_statistics(statistics: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Put back what norm_statistics() copied."""
    for buffer, copy in statistics:
        buffer.copy_(copy)


def pack_batch(batch: Sequence[Any]) -> list[Any]:
    """Samples as plain tensors, texts and numbers, loadable with `weights_only`."""
    packed = []
    for sample in batch:
        if not isinstance(sample, dict):  # of a user's own loader
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


def unpack_batch(packed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a model takes, out of what pack_batch() made."""
    batch = []
    for entry in packed:
        sample = {k: v for k, v in entry.items() if k not in ("boxes", "classes")}
        if "boxes" in entry:
            size = tuple(entry["image"].shape[-2:])
            boxes = Boxes(entry["boxes"])
            sample["instances"] = Instances(size, gt_boxes=boxes, gt_classes=entry["classes"])
        batch.append(sample)
    return batch
