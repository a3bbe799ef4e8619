"""Out of memory: what the batch was, what to try, and halving what is handled at once."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from loguru import logger

from cvpods.checkpoint.atomic import write_atomically
from cvpods.utils.errors import PodsError

# What --auto-batch found, in OUTPUT_DIR, for a run that goes on.
FOUND = "auto_batch.json"


class OutOfMemory(PodsError):  # noqa: N818 - as torch.OutOfMemoryError would read, but a user's matter
    """A step needs more memory than there is."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's or the machine's memory is spent."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error)
    signs = ("DefaultCPUAllocator: can't allocate", "CUDA error: out of memory")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_dead_worker(error: BaseException) -> bool:
    """Whether an error says that a loader's worker was killed, as systems do that lack memory."""
    text = str(error)
    return isinstance(error, RuntimeError) and "DataLoader worker" in text and "pid" in text


def describe_batch(batch: Sequence[dict[str, Any]], divisibility: int = 32) -> str:
    """One line on the images of one forward pass: how many, how large, how many boxes."""
    sizes = [tuple(sample["image"].shape[-2:]) for sample in batch]
    boxes = [len(sample["instances"]) for sample in batch if "instances" in sample]
    padded = [
        math.ceil(max(side) / divisibility) * divisibility for side in zip(*sizes, strict=True)
    ]
    each = ", ".join(f"{h} x {w}" for h, w in sizes[:8]) + (", ..." if len(sizes) > 8 else "")
    counted = f", {sum(boxes)} boxes ({max(boxes)} in one image)" if boxes else ""
    return f"{len(batch)} images at once ({each}), padded to {padded[0]} x {padded[1]}{counted}"


def step_advice(per_pass: int) -> str:
    """Three things to try where a step is out of memory."""
    fewer = f"SOLVER.IMS_PER_DEVICE {per_pass // 2}" if per_pass > 1 else "more GPUs (--num-gpus N)"
    return (
        f"Try: (1) --auto-batch, or {fewer}: the images of a step stay as many; (2) "
        "TRAINER.AMP.ENABLED True; (3) smaller images: short_edge_length and max_size in "
        "INPUT.AUG.TRAIN_PIPELINES."
    )


def describe_death(error: BaseException) -> str:
    """What to try where a loader's worker has died: see is_dead_worker()."""
    return (
        f"A loader's worker ran out of memory or died: {first_line(error)} The system may have "
        "killed it for want of memory. Try: (1) fewer workers: DATALOADER.NUM_WORKERS 1, or 0 to "
        "load in the main process; (2) more shared memory: docker run --shm-size 8g; (3) smaller "
        "images: max_size in INPUT.AUG."
    )


def found_images(output: str | Path) -> int | None:
    """Images at once that --auto-batch found in this OUTPUT_DIR; None where it found nothing."""
    try:
        value = json.loads((Path(output) / FOUND).read_text(encoding="utf-8"))["images_at_once"]
        return value if isinstance(value, int) and value >= 1 else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def halve_images(output: str | Path, per_pass: int) -> int:
    """Half of `per_pass` images at once, written to OUTPUT_DIR for a run that goes on."""
    images = max(per_pass // 2, 1)
    content = json.dumps({"images_at_once": images}).encode()
    write_atomically(Path(output) / FOUND, lambda file: file.write(content))
    logger.warning(
        f"Out of memory with {per_pass} images at once: going on with {images} (--auto-batch)."
    )
    return images
