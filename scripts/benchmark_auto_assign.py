"""Measurements of AutoAssign's loss, compared with its definition, and of FeatureAlign's loss.

    python scripts/benchmark_auto_assign.py            # 800 x 1216, batch 2, 27 and 240 boxes each
    python scripts/benchmark_auto_assign.py --crowd    # 1,000 boxes in one image, small and huge

The definition (definition.py of the method) makes dense tables, one image at a time. Times are
medians of forward + backward; both sides run in turn. Memory is the growth of the process's peak
(on a GPU: of the allocator's). It includes the gradients and excludes the inputs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmark import compare_sides, loss_benchmark, memory, random_targets, seconds  # noqa: E402

from cvpods.modeling.anchor_generator import PointGrid  # noqa: E402
from cvpods_ext.methods.auto_assign import auto_assign_loss, definition  # noqa: E402
from cvpods_ext.methods.feature_align import feature_align_loss  # noqa: E402

NUM_CLASSES = 80
STRIDES = (8, 16, 32, 64, 128)
LEARNED = ("cls_logits", "obj_logits", "ltrb", "mu", "sigma")


def make_inputs(images: int, height: int, width: int, device: str) -> dict[str, Any]:
    """Draw the outputs of a network at the start of training; with_boxes() adds the boxes."""
    torch.manual_seed(0)
    maps = [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in STRIDES]
    levels = PointGrid(strides=STRIDES).grid(maps)
    points = torch.cat(levels)
    strides = torch.cat(
        [torch.full((len(p),), float(s)) for p, s in zip(levels, STRIDES, strict=True)]
    )
    shape = (images, len(points))
    inputs = {
        "cls_logits": torch.randn(*shape, NUM_CLASSES) * 0.1 - 3.9,
        "obj_logits": torch.randn(*shape, 1) * 0.1,
        "ltrb": (torch.randn(*shape, 4) * 0.1 + 4) * strides[:, None],
        "points": points,
        "strides": strides,
        "mu": torch.zeros(NUM_CLASSES, 2),
        "sigma": torch.ones(NUM_CLASSES, 2),
    }
    inputs = {name: value.to(device) for name, value in inputs.items()}
    for name in LEARNED:
        inputs[name].requires_grad_()
    return {**inputs, "level_sizes": [len(level) for level in levels]}


def with_boxes(inputs: dict[str, Any], gt_boxes: list[Tensor], gt_classes: list[Tensor]) -> dict:
    """Add the boxes and classes of each image to the inputs of a loss."""
    device = inputs["points"].device
    return {
        **inputs,
        "gt_boxes": [boxes.to(device) for boxes in gt_boxes],
        "gt_classes": [classes.to(device) for classes in gt_classes],
    }


def step(loss: Callable, inputs: dict[str, Any]) -> Tensor:
    """Run forward and backward; return the loss."""
    total = torch.stack([*loss(**inputs).values()]).sum()
    torch.autograd.grad(total, [inputs[name] for name in LEARNED])
    return total.detach()


def without_levels(inputs: dict[str, Any]) -> dict[str, Any]:
    """Remove the level sizes, which only FeatureAlign's loss takes."""
    return {name: value for name, value in inputs.items() if name != "level_sizes"}


def per_level(inputs: dict[str, Any]) -> dict[str, Any]:
    """Give each level a prior of its own, as FeatureAlign does."""
    repeated = {
        name: inputs[name].detach().expand(len(STRIDES), -1, -1).clone().requires_grad_()
        for name in ("mu", "sigma")
    }
    return {**inputs, **repeated}


def compare(boxes: int, repeats: int, device: str) -> None:
    """Compare AutoAssign's loss with its definition; then measure FeatureAlign's."""
    targets = random_targets(boxes)
    inputs = with_boxes(
        make_inputs(2, 800, 1216, device),
        [target.gt_boxes.tensor for target in targets],
        [target.gt_classes for target in targets],
    )
    plain = without_levels(inputs)
    sides = {
        "ours": partial(step, auto_assign_loss, plain),
        "definition": partial(step, definition.auto_assign_loss, plain),
    }
    title = f"{device}, {boxes} boxes an image"
    compare_sides(f"AutoAssign, {title}", sides, repeats, device)
    report(f"FeatureAlign, {title}", feature_align_loss, per_level(inputs), repeats, device)


def report(title: str, loss: Callable, inputs: dict, repeats: int, device: str) -> None:
    """Print value, median time and peak memory of a loss."""
    work = partial(step, loss, inputs)
    duration = seconds(lambda: work().item(), repeats)
    print(
        f"{title}: loss {work().item():.4f}, {duration:.3f} s, peak {memory(work, device):.0f} MiB"
    )


def crowd(repeats: int, device: str) -> None:
    """Measure 1,000 random boxes in one image, and 1,000 boxes that cover the whole image."""
    inputs = make_inputs(1, 800, 1344, device)
    (target,) = random_targets(1000, images=1)
    whole = torch.tensor([[-1.0, -1.0, 1344.0, 800.0]]).expand(1000, 4)
    for name, boxes in (("1,000 boxes", target.gt_boxes.tensor), ("1,000 whole images", whole)):
        given = without_levels(with_boxes(inputs, [boxes], [target.gt_classes]))
        report(
            f"AutoAssign, {device}, {name} in one image", auto_assign_loss, given, repeats, device
        )


if __name__ == "__main__":
    loss_benchmark("Measure AutoAssign's and FeatureAlign's loss.", compare, crowd)
