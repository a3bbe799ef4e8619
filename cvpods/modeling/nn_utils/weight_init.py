"""Initialisations of convolutions in backbones, pyramids and heads."""

from __future__ import annotations

from torch import nn


def c2_msra_fill(module: nn.Conv2d) -> None:
    """Fill a backbone's convolution: He normal by fan-out (arXiv:1502.01852), bias 0."""
    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def c2_xavier_fill(module: nn.Conv2d) -> None:
    """Fill a pyramid's convolution: uniform with variance 1 / fan-in, bias 0."""
    nn.init.kaiming_uniform_(module.weight, a=1)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def normal_fill(module: nn.Conv2d, std: float = 0.01) -> None:
    """Fill a head's convolution: normal with mean 0, bias 0."""
    nn.init.normal_(module.weight, std=std)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
