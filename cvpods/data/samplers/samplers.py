"""Orders of images: an endless, resumable order for training, and shards for evaluation.

The training order is a function of (seed, position in the stream) alone. It does not depend on the
number of processes or workers, and resuming at iteration i needs no other state than i.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from cvpods.data.registry import SAMPLERS
from cvpods.data.samplers.batch_plan import BatchPlan

Groups: TypeAlias = Sequence[int] | NDArray[np.integer]


@dataclass(frozen=True)
class SampleKey:
    """Index of an image in the data set, and the seed of its augmentation."""

    index: int
    seed: int


class TrainingStream:
    """The endless order of images over all processes.

    Each epoch is a permutation cut into blocks of `block` images of one group; a group whose size
    is not a multiple of `block` repeats some of its images.

    Args:
        groups: (number of images,) group of each image; a block contains one group only.
        block: images that one process handles at once.
    """

    def __init__(self, groups: Groups, block: int, seed: int) -> None:
        self.groups = np.asarray(groups)
        self.block = block
        self.seed = seed
        self._epoch: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))
        self.epoch_length = len(self._order(0))

    def _order(self, epoch: int) -> np.ndarray:
        """Return the image indices of one epoch, (epoch_length,)."""
        if self._epoch[0] == epoch:
            return self._epoch[1]
        random = np.random.default_rng([self.seed, epoch])
        blocks = []
        for group in np.unique(self.groups):
            members = random.permutation(np.flatnonzero(self.groups == group))
            padded = np.resize(members, -(-len(members) // self.block) * self.block)
            blocks.append(padded.reshape(-1, self.block))
        order = random.permutation(np.concatenate(blocks)).reshape(-1)
        self._epoch = (epoch, order)
        return order

    def __getitem__(self, position: int) -> SampleKey:
        epoch, offset = divmod(position, self.epoch_length)
        seed = np.random.SeedSequence([self.seed, position]).generate_state(1)[0]
        return SampleKey(int(self._order(epoch)[offset]), int(seed))


class TrainingBatchSampler(Sampler[list[SampleKey]]):
    """Endless batches of one process: one list of SampleKey per accumulation step.

    Attributes:
        start_iter: optimiser step to start from.
        offset: number of images by which all steps are shifted in the stream; used when a run
            resumes with another number of images per step.
    """

    def __init__(
        self, stream: TrainingStream, plan: BatchPlan, rank: int = 0, start_iter: int = 0
    ) -> None:
        self.stream, self.plan, self.rank = stream, plan, rank
        self.start_iter = start_iter
        self.offset = 0

    def position(self, iteration: int) -> int:
        """Return the position in the stream at which a step begins, over all processes."""
        return iteration * self.plan.total + self.offset

    def __iter__(self) -> Iterator[list[SampleKey]]:
        iteration = self.start_iter
        while True:
            first = self.position(iteration)
            for positions in self.plan.ranges(self.rank):
                yield [self.stream[first + p] for p in positions]
            iteration += 1


@SAMPLERS.register(name="DistributedGroupSampler")
def grouped_stream(aspect_ratios: Groups, block: int, seed: int) -> TrainingStream:
    """Return a stream whose blocks contain either wide images only or other images only."""
    return TrainingStream(aspect_ratios, block, seed)


@SAMPLERS.register(name="TrainingSampler")
def shuffled_stream(aspect_ratios: Groups, block: int, seed: int) -> TrainingStream:
    """Return a stream with plain shuffling: every image once per epoch."""
    return TrainingStream(np.zeros(len(aspect_ratios), dtype=np.int64), 1, seed)


@SAMPLERS.register()
class InferenceSampler(Sampler[int]):
    """Every image once, in contiguous shards over the processes."""

    def __init__(self, size: int, rank: int = 0, world_size: int = 1) -> None:
        bounds = np.linspace(0, size, world_size + 1).round().astype(int)
        self._indices = range(int(bounds[rank]), int(bounds[rank + 1]))

    def __iter__(self) -> Iterator[int]:
        yield from self._indices

    def __len__(self) -> int:
        return len(self._indices)


class SizeBatchSampler(Sampler[list[int]]):
    """Batches of a sampler's images, each batch with images of one size.

    Padding an image to the size of another one would change its detections.

    Args:
        sampler: image indices, each once.
        sizes: (height, width) of all images of the data set as the model gets them; an image of
            size None stays alone.
        batch_size: largest number of images in a batch.

    Attributes:
        one_size: True if the model itself resizes all images to one size, so that any images may
            share a batch.
    """

    def __init__(
        self, sampler: Sampler[int], sizes: Sequence[tuple[int, int] | None], batch_size: int
    ) -> None:
        self.sampler, self.sizes, self.batch_size = sampler, list(sizes), batch_size
        self.one_size = False

    def __iter__(self) -> Iterator[list[int]]:
        waiting: dict[tuple[int, int], list[int]] = {}
        for index in self.sampler:
            size = (0, 0) if self.one_size else self.sizes[index]
            batch = [index] if size is None else [*waiting.pop(size, []), index]
            if size is None or len(batch) == self.batch_size:
                yield batch
            else:
                waiting[size] = batch
        yield from waiting.values()

    def __len__(self) -> int:
        return sum(1 for _ in self)
