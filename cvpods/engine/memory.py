"""Messages for a run that is out of memory: the batch at fault, and remedies."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cvpods.engine.error_kinds import first_line
from cvpods.structures.samples import Sample
from cvpods.utils.errors import PodsError

# Images whose sizes a message lists.
_SHOWN = 8


class OutOfMemory(PodsError):  # noqa: N818 - named after torch.OutOfMemoryError
    """The memory does not suffice for the model, a step or the workers of a loader."""


def describe_batch(batch: Sequence[Sample], divisibility: int = 32) -> str:
    """Return one line on the images of a forward pass: their number, sizes and boxes."""
    sizes = [tuple(sample["image"].shape[-2:]) for sample in batch]
    boxes = [len(sample["instances"]) for sample in batch if "instances" in sample]
    padded = [
        math.ceil(max(side) / divisibility) * divisibility for side in zip(*sizes, strict=True)
    ]
    listed = ", ".join(f"{h} x {w}" for h, w in sizes[:_SHOWN])
    listed += ", ..." if len(sizes) > _SHOWN else ""
    counted = f", {sum(boxes)} boxes ({max(boxes)} in one image)" if boxes else ""
    return f"{len(batch)} images at once ({listed}), padded to {padded[0]} x {padded[1]}{counted}"


def step_advice(images: int) -> str:
    """Return three remedies for a step that is out of memory with `images` images at once."""
    fewer = f"SOLVER.IMS_PER_DEVICE {images // 2}" if images > 1 else "more GPUs (--num-gpus N)"
    return (
        f"Try: (1) --auto-batch, or {fewer}: the batch of a step keeps its size; (2) "
        "TRAINER.AMP.ENABLED True; (3) smaller images: short_edge_length and max_size in "
        "INPUT.AUG.TRAIN_PIPELINES."
    )


def dead_worker_advice(error: BaseException) -> str:
    """Return remedies for the death of a loader's worker, see is_dead_worker()."""
    return (
        f"A loader's worker ran out of memory or died: {first_line(error)} The system may have "
        "killed it because memory was short. Try: (1) fewer workers: DATALOADER.NUM_WORKERS 1, or "
        "0 to load in the main process; (2) more shared memory: docker run --shm-size 8g; (3) "
        "smaller images: max_size in INPUT.AUG."
    )
