"""ImageList, a padded batch of images of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class ImageList:
    """Batch of images, padded to one size to the right and at the bottom.

    tensor: (N, C, H, W).
    image_sizes: (height, width) of each image; in an exported graph an input, (N, 2) int64.
    """

    def __init__(self, tensor: Tensor, image_sizes: Sequence[tuple[int, int]] | Tensor) -> None:
        self.tensor = tensor
        self.image_sizes: Any = image_sizes if isinstance(image_sizes, Tensor) else [*image_sizes]

    def __len__(self) -> int:
        return len(self.image_sizes)

    def __getitem__(self, index: int) -> Tensor:
        """Return an image (C, height, width) without its padding."""
        height, width = self.image_sizes[index]
        return self.tensor[index, ..., :height, :width]

    def to(self, *args: Any, **kwargs: Any) -> ImageList:
        """Return the batch, moved or cast as Tensor.to does."""
        return ImageList(self.tensor.to(*args, **kwargs), self.image_sizes)

    @property
    def device(self) -> torch.device:
        return self.tensor.device

    @staticmethod
    def from_tensors(
        tensors: Sequence[Tensor],
        size_divisibility: int = 0,
        pad_ref_long: bool = False,
        pad_value: float = 0.0,
    ) -> ImageList:
        """Return images (C, H_n, W_n), padded to a common size.

        Args:
            size_divisibility: the common height and width are rounded up to a multiple of it.
            pad_ref_long: pad to a square of the longest side.
            pad_value: value of the padding.
        """
        sizes = [(image.shape[-2], image.shape[-1]) for image in tensors]
        height, width = (max(size[axis] for size in sizes) for axis in (0, 1))
        if pad_ref_long:
            height = width = max(height, width)
        if size_divisibility > 1:
            height, width = (
                -(-s // size_divisibility) * size_divisibility for s in (height, width)
            )
        if len(tensors) == 1 and sizes[0] == (height, width):
            return ImageList(tensors[0][None], sizes)
        batch = tensors[0].new_full(
            (len(tensors), *tensors[0].shape[:-2], height, width), pad_value
        )
        for index, image in enumerate(tensors):
            batch[index, ..., : image.shape[-2], : image.shape[-1]].copy_(image)
        return ImageList(batch, sizes)
