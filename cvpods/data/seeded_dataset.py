"""Training samples that are equal in every process and after resuming, despite damaged images."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from cvpods.data.samplers import SampleKey
from cvpods.structures.samples import Sample
from cvpods.utils.errors import DataError
from cvpods.utils.handles import is_out_of_handles

# Number of other images that are tried in place of an unusable one.
ATTEMPTS = 10


class TrainingSample(Sample, total=False):
    """A sample of a SeededDataset.

    key: (index, seed of the augmentation).
    unusable: {file: reason} of the images that could not be used in its place.
    """

    key: tuple[int, int]
    unusable: dict[str, str]


class SeededDataset(Dataset):
    """A data set that draws the augmentation of a sample from the seed of its key alone.

    A sample is therefore equal in any worker, in any process, and after resuming. An unusable image
    is replaced by one drawn from the same seed; the sample then lists the unusable files, and the
    training process counts them.

    Args:
        dataset: any data set with a length and random access.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: SampleKey) -> TrainingSample:
        # Without workers this runs in the training process, whose own generators must not change.
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            with torch.random.fork_rng(devices=[]):
                return self._usable_sample(key)
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)

    def _usable_sample(self, key: SampleKey) -> TrainingSample:
        """Return the sample of a key, or of a substitute image.

        Raises:
            DataError: the image and all substitutes are unusable.
        """
        substitutes = np.random.default_rng(key.seed)
        unusable: dict[str, str] = {}
        index = key.index
        for _ in range(ATTEMPTS + 1):
            _seed_generators(key.seed)
            try:
                sample = self.dataset[index]
            except DataError as error:
                if is_out_of_handles(error):  # the image is not the cause
                    raise
                unusable[_file_of(self.dataset, index)] = str(error)
                index = int(substitutes.integers(len(self)))
                continue
            if isinstance(sample, dict):
                sample["key"] = (index, key.seed)
                if unusable:
                    sample["unusable"] = unusable
            return sample
        raise DataError(
            f"{len(unusable)} images in a row cannot be used: {' '.join(unusable.values())} "
            "Examine all images with pods_check."
        )


def _seed_generators(seed: int) -> None:
    np.random.seed(seed)
    random.seed(seed)
    torch.default_generator.manual_seed(seed)


def _file_of(dataset: Any, index: int) -> str:
    """Return the image file of a sample, or its index if the data set does not provide one."""
    name = getattr(dataset, "file_name", None)
    return str(name(index)) if callable(name) else f"image {index}"
