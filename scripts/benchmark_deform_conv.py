"""Measurements of DCNv2 on a CPU: cvpods.layers (by grid_sample) and torchvision's operator.

    python scripts/benchmark_deform_conv.py

Times are medians of forward + backward; both sides run in turn. Memory is the growth of the process
at its peak.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from benchmark import compare_sides
from torch import Tensor
from torchvision import ops

from cvpods.layers import ModulatedDeformConv

# (N, C, H, W): a level of the shapes experiments, and P3 of an image of 512 x 512 pixels.
SIZES = [(8, 64, 20, 20), (2, 256, 64, 64)]


def sides_of(shape: tuple[int, int, int, int]) -> dict[str, Callable[[], Tensor]]:
    """Return a step (forward and backward) of each implementation on the same tensors."""
    torch.manual_seed(0)
    n, channels, height, width = shape
    conv = ModulatedDeformConv(channels, channels, 3, padding=1)
    x, offset, mask = (
        torch.randn(n, count, height, width, requires_grad=True) for count in (channels, 18, 9)
    )
    leaves = [x, offset, mask, conv.weight, conv.bias]

    def step(forward: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        total = forward(x, offset, mask.sigmoid()).square().mean()
        torch.autograd.grad(total, leaves)
        return total.detach()

    def torchvision(x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return ops.deform_conv2d(x, offset, conv.weight, conv.bias, padding=1, mask=mask)

    return {"ours": lambda: step(conv), "reference": lambda: step(torchvision)}


if __name__ == "__main__":
    for shape in SIZES:
        compare_sides(f"DCNv2, cpu, {shape}", sides_of(shape), repeats=5, device="cpu")
