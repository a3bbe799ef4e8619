"""Training samples: the same in every process and after resuming, also beside damaged images."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from cvpods.data.samplers import SampleKey
from cvpods.utils.errors import DataError
from cvpods.utils.handles import is_out_of_handles

# How many other images are tried in the place of one that cannot be used.
ATTEMPTS = 10


class SeededDataset(Dataset):
    """Draws the augmentation of a sample from the seed of its key alone.

    So a sample is the same in any worker, in any process, and after resuming. An image that cannot
    be used is replaced by one drawn from the same seed; sample["unusable"] is then {file: reason}
    for the training process to count. sample["key"] is (index, seed).
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        # Without workers this runs in the training process, whose own generators must not move.
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            with torch.random.fork_rng(devices=[]):
                return self._usable(key)
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)

    def _usable(self, key: SampleKey) -> dict[str, Any]:
        others = np.random.default_rng(key.seed)
        unusable: dict[str, str] = {}
        index = key.index
        for _ in range(ATTEMPTS + 1):
            _seed(key.seed)
            try:
                sample = self.dataset[index]
            except DataError as error:
                if is_out_of_handles(error):  # not the image's fault
                    raise
                unusable[_file_of(self.dataset, index)] = str(error)
                index = int(others.integers(len(self)))
                continue
            if isinstance(sample, dict):
                sample["key"] = (index, key.seed)
                if unusable:
                    sample["unusable"] = unusable
            return sample
        raise DataError(
            f"{len(unusable)} images in a row cannot be used: {' '.join(unusable.values())} "
            "pods_check examines all images."
        )


def _seed(seed: int) -> None:
    np.random.seed(seed)
    random.seed(seed)
    torch.default_generator.manual_seed(seed)


def _file_of(dataset: Any, index: int) -> str:
    """The image file of a sample; its index where the data set does not say."""
    name = getattr(dataset, "file_name", None)
    return name(index) if callable(name) else f"image {index}"
