"""Measurements of FreeAnchor's loss, compared with its definition.

    python scripts/benchmark_free_anchor.py              # 800 x 1216, batch 2, 27 and 240 boxes
    python scripts/benchmark_free_anchor.py --crowd      # 1,000 boxes in one image of 800 x 1344

The definition (definition.py of the method) makes dense tables, one image at a time. Times are
medians of forward + backward; both sides run in turn. Memory is the growth of the process's peak
(on a GPU: of the allocator's). It includes the gradients and excludes the inputs.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmark import compare_sides, loss_benchmark, memory, random_targets, timed  # noqa: E402

from cvpods.modeling.anchor_generator import AnchorGrid  # noqa: E402
from cvpods_ext.methods.free_anchor import definition, free_anchor_loss  # noqa: E402

NUM_CLASSES = 80
STRIDES = (8, 16, 32, 64, 128)


def make_anchors(height: int, width: int) -> Tensor:
    """Return nine anchors for each location of P3-P7: (R, 4)."""
    sizes = [[4 * s * 2 ** (k / 3) for k in range(3)] for s in STRIDES]
    grid = AnchorGrid(sizes=sizes, aspect_ratios=[[0.5, 1.0, 2.0]], strides=STRIDES)
    maps = [torch.zeros(1, 1, -(-height // s), -(-width // s)) for s in STRIDES]
    return torch.cat(grid.grid(maps))


def make_inputs(images: int, anchors: Tensor, boxes: int, device: str) -> tuple:
    """Draw the outputs of a network at the start of training, and boxes of sizes as in COCO."""
    torch.manual_seed(0)
    logits = torch.randn(images, len(anchors), NUM_CLASSES) * 0.1 - 3.9
    deltas = torch.randn(images, len(anchors), 4) * 0.1
    targets = [target.to(device) for target in random_targets(boxes, images)]
    return (
        logits.to(device).requires_grad_(),
        deltas.to(device).requires_grad_(),
        anchors.to(device),
        [target.gt_boxes.tensor for target in targets],
        [target.gt_classes for target in targets],
    )


def step(loss: Callable, inputs: Sequence) -> Tensor:
    """Run forward and backward; return the loss."""
    total = torch.stack([*loss(*inputs).values()]).sum()
    torch.autograd.grad(total, inputs[:2])
    return total.detach()


def compare(boxes: int, repeats: int, device: str) -> None:
    """Compare the loss with its definition, at 800 x 1216 and batch 2."""
    inputs = make_inputs(2, make_anchors(800, 1216), boxes, device)
    sides = {
        "ours": lambda: step(free_anchor_loss, inputs),
        "definition": lambda: step(definition.free_anchor_loss, inputs),
    }
    compare_sides(f"{device}, {boxes} boxes an image", sides, repeats, device)


def crowd(repeats: int, device: str) -> None:
    """Measure the loss of 1,000 boxes in one image."""
    inputs = make_inputs(1, make_anchors(800, 1344), 1000, device)

    def work() -> Tensor:
        return step(free_anchor_loss, inputs)

    value, duration = work().item(), statistics.median(timed(work, device) for _ in range(repeats))
    print(
        f"{device}, 1,000 boxes in one image of 800 x 1344 ({len(inputs[2]):,} anchors): "
        f"loss {value:.4f}, {duration:.3f} s, peak {memory(work, device):.0f} MiB"
    )


if __name__ == "__main__":
    loss_benchmark("Measure FreeAnchor's loss.", compare, crowd)
