"""Deformable convolution (arXiv:1703.06211) and its modulated form (DCNv2, arXiv:1811.11168)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import ops


class DeformConv(ops.DeformConv2d):
    """Deformable convolution y(p) = sum_k w_k * x(p + p_k + offset_k(p)), with norm and activation.

    p_k: positions of the kernel; x between cells is bilinear, outside the map 0. The weight starts
    from U(-1, 1) / sqrt(fan-in), the bias from 0. The layer computes in float32 at least, whatever
    autocast demands: positions need it, and the operator does not support bfloat16.

    Args:
        deformable_groups: G, groups of channels with offsets of their own.
        bias: None adds a bias only to modulated layers, as in cvpods.
        norm, activation: applied to y; the norm is the sub-module `norm`.

    Raises:
        ValueError: deformable_groups does not divide in_channels.
    """

    modulated = False
    # Whether torchvision's operator computes the layer; None: only on GPUs, where it is faster.
    by_operator: bool | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        deformable_groups: int = 1,
        bias: bool | None = None,
        norm: nn.Module | None = None,
        activation: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        bias = self.modulated if bias is None else bias
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias
        )
        if deformable_groups < 1 or self.in_channels % deformable_groups:
            raise ValueError(
                f"deformable_groups must divide in_channels {self.in_channels}; got "
                f"{deformable_groups}."
            )
        self.deformable_groups = deformable_groups
        self.norm = norm
        self.activation = activation
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return y (N, C', H', W'), given x (N, C, H, W).

        Args:
            offset: (N, 2 * k * k * G, H', W'), pairs (dy, dx) in cells of x.
            mask: (N, k * k * G, H', W') factors of the samples; None is 1.

        Raises:
            ValueError: the number of channels of offset or mask does not fit G.
        """
        samples = self.kernel_size[0] * self.kernel_size[1] * self.deformable_groups
        for name, given, channels in (("offset", offset, 2 * samples), ("mask", mask, samples)):
            if given is not None and given.shape[1] != channels:
                raise ValueError(
                    f"{name} must have {channels} channels for deformable_groups "
                    f"{self.deformable_groups}; got {given.shape[1]}."
                )
        dtype = torch.promote_types(x.dtype, torch.float32)
        x_, offset, weight = x.to(dtype), offset.to(dtype), self.weight.to(dtype)
        mask, bias = (None if t is None else t.to(dtype) for t in (mask, self.bias))
        with torch.autocast(x.device.type, enabled=False):
            geometry = self.stride, self.padding, self.dilation
            # torchvision's backward pass is several times slower on a CPU.
            by_operator = x.device.type != "cpu" if self.by_operator is None else self.by_operator
            convolve = ops.deform_conv2d if by_operator else _sampled_conv2d
            y = convolve(x_, offset, weight, bias, *geometry, mask).to(x.dtype)
        if self.norm is not None:
            y = self.norm(y)
        return y if self.activation is None else self.activation(y)


class ModulatedDeformConv(DeformConv):
    """DCNv2, Eq. (1): a deformable convolution that also multiplies every sample by its mask."""

    modulated = True

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        """Return what DeformConv.forward returns; the mask is required."""
        return super().forward(x, offset, mask)


class OffsetConv(nn.Conv2d):
    """Convolution that predicts where the deformable convolution `conv` samples the same input.

    Its channels are 2 * k * k * G offsets and, for a ModulatedDeformConv, k * k * G logits of the
    mask. Its weight starts from a uniform distribution of variance 1 / fan-in, its bias from 0; so
    offsets are not 0 at first, and the mask is about 0.5. It computes in float32 at least, because
    offsets are positions.
    """

    bias: nn.Parameter

    def __init__(self, conv: DeformConv) -> None:
        samples = conv.kernel_size[0] * conv.kernel_size[1] * conv.deformable_groups
        super().__init__(
            conv.in_channels,
            samples * (3 if conv.modulated else 2),
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
        )
        self.num_offsets = 2 * samples
        nn.init.kaiming_uniform_(self.weight, a=1)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """Return the offset (N, 2kkG, H', W') and, if modulated, the mask (N, kkG, H', W')."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            raw = self._conv_forward(x.to(dtype), self.weight.to(dtype), self.bias.to(dtype))
        offset, logits = raw[:, : self.num_offsets], raw[:, self.num_offsets :]
        return (offset, logits.sigmoid()) if logits.shape[1] else (offset,)


class DFConv2d(nn.Module):
    """Modulated deformable convolution `conv` with the one that predicts its `offset`.

    It takes the arguments of ModulatedDeformConv.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        self.conv = ModulatedDeformConv(*args, **kwargs)
        self.offset = OffsetConv(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Return y (N, C', H', W'), given x (N, C, H, W)."""
        return self.conv(x, *self.offset(x))


def _sampled_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    mask: Tensor | None,
) -> Tensor:
    """Compute torchvision.ops.deform_conv2d by grid_sample and a 1x1 convolution of the samples."""
    (n, channels, height, width), (out_channels, _, *kernel) = x.shape, weight.shape
    samples = kernel[0] * kernel[1]
    groups = offset.shape[1] // (2 * samples)
    offset = offset.unflatten(1, (groups, samples, 2))  # (N, G, k * k, 2, H', W')
    out_height, out_width = offset.shape[4:]
    positions = []
    for axis, size, out_size in ((0, height, out_height), (1, width, out_width)):
        cells = torch.arange(out_size, device=x.device) * stride[axis] - padding[axis]
        taps = torch.arange(kernel[axis], device=x.device) * dilation[axis]
        taps = (taps[:, None] if axis == 0 else taps[None]).expand(*kernel).reshape(samples, 1, 1)
        at = offset[:, :, :, axis] + taps + (cells[:, None] if axis == 0 else cells)
        positions.append((2 * at + 1) / size - 1)
    grid = torch.stack(positions[::-1], dim=-1)
    grid = grid.reshape(n * groups, samples * out_height, out_width, 2)
    maps = x.reshape(n * groups, channels // groups, height, width)
    sampled = F.grid_sample(maps, grid, align_corners=False)
    sampled = sampled.reshape(n, groups, channels // groups, samples, out_height, out_width)
    if mask is not None:
        sampled = sampled * mask.unflatten(1, (groups, 1, samples))
    flat = sampled.reshape(n, channels * samples, out_height, out_width)
    flat_weight = weight.reshape(out_channels, -1, 1, 1)
    return F.conv2d(flat, flat_weight, bias, groups=channels // weight.shape[1])
