"""Bilinear resizing of images with antialiasing."""

from __future__ import annotations

import platform

import numpy as np
import torch
from torch.nn import functional as F


def resize_bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an image (H, W, C) as (height, width, C) of the same dtype.

    This computes what torchvision.transforms.v2.functional.resize does, bit for bit, without the
    second that the import of torchvision takes.
    """
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)
    direct = pixels.is_floating_point() or (pixels.dtype == torch.uint8 and _has_uint8_kernel())
    resized = F.interpolate(
        pixels if direct else pixels.float(),
        size=(height, width),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )
    if not direct:
        resized = resized.round_().to(pixels.dtype)
    return resized[0].permute(1, 2, 0).numpy()


def _has_uint8_kernel() -> bool:
    """Return whether torch resizes 8-bit images without a detour over floats here."""
    vectors = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return vectors or platform.machine() in ("aarch64", "arm64")
