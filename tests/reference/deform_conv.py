"""Deformable convolution in plain Python numbers (arXiv:1703.06211, 1811.11168)."""

from __future__ import annotations

import math

from torch import Tensor


def sample(rows: list[list[float]], y: float, x: float) -> float:
    """Bilinear value of a map at (y, x): sum of max(0, 1 - |y - i|) max(0, 1 - |x - j|) rows[i][j].

    There are no cells outside the map, so nothing is added for them.
    """
    total = 0.0
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < len(rows) and 0 <= j < len(rows[0]):
                total += max(0.0, 1 - abs(y - i)) * max(0.0, 1 - abs(x - j)) * rows[i][j]
    return total


def deform_conv_loop(
    image: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: list[float],
    *,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deformable_groups: int,
) -> list[list[list[float]]]:
    """y(p) = bias + sum_k w_k * x(p + p_k + offset_k(p)) * mask_k(p) of one image.

    Args:
        image: (C, H, W).
        offset: (2 * kh * kw * G, H', W'): for each deformable group, then each position of the
            kernel row by row, dy and dx.
        mask: (kh * kw * G, H', W') in the same order, or None for 1.
        weight: (C', C / groups, kh, kw); output channels of group g see the input channels of
            group g.
        bias: of C' channels.

    Returns:
        (C', H', W') as nested lists.
    """
    maps, offsets, weights = image.tolist(), offset.tolist(), weight.tolist()
    masks = None if mask is None else mask.tolist()
    kernel_h, kernel_w = weight.shape[2:]
    positions = kernel_h * kernel_w
    inputs = len(maps) // groups  # of a group of the convolution
    outputs = len(weights) // groups
    sharing = len(maps) // deformable_groups  # channels that share their offsets
    result = []
    for o in range(len(weights)):
        rows = []
        for py in range(offset.shape[1]):
            row = []
            for px in range(offset.shape[2]):
                total = bias[o]
                for c in range(inputs):
                    channel = o // outputs * inputs + c
                    for ky in range(kernel_h):
                        for kx in range(kernel_w):
                            k = channel // sharing * positions + ky * kernel_w + kx
                            y = py * stride[0] - padding[0] + ky * dilation[0]
                            x = px * stride[1] - padding[1] + kx * dilation[1]
                            y += offsets[2 * k][py][px]
                            x += offsets[2 * k + 1][py][px]
                            factor = 1.0 if masks is None else masks[k][py][px]
                            total += weights[o][c][ky][kx] * factor * sample(maps[channel], y, x)
                row.append(total)
            rows.append(row)
        result.append(rows)
    return result
