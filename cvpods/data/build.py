"""From a config to data sets and loaders."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from loguru import logger
from torch.utils.data import DataLoader, Dataset

from cvpods.data.datasets.base_dataset import BaseDataset
from cvpods.data.datasets.paths import dataset_class
from cvpods.data.registry import DATASETS, SAMPLERS
from cvpods.data.samplers import BatchPlan, InferenceSampler, SampleKey, TrainingBatchSampler
from cvpods.data.transforms import build_transform_gens
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError

__all__ = [
    "DATASETS",
    "SAMPLERS",
    "build_dataset",
    "build_test_loader",
    "build_train_loader",
    "build_transform_gens",
    "comm",
    "logger",
    "trivial_batch_collator",
    "worker_init_reset_seed",
]


def trivial_batch_collator(batch: list) -> list:
    """Leave the samples of a batch as a list."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Seed a loader's worker; training samples are seeded one by one, see SeededDataset."""
    seed = torch.initial_seed() % 2**32
    random.seed(seed)
    np.random.seed(seed)


class SeededDataset(Dataset):
    """Draws the augmentation of a sample from the seed of its key alone.

    So a sample is the same in any worker, in any process, and after resuming.
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
                np.random.seed(key.seed)
                random.seed(key.seed)
                torch.default_generator.manual_seed(key.seed)
                return self.dataset[key.index]
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def build_dataset(
    cfg: Any,
    dataset_names: Sequence[str],
    transforms: Sequence = (),
    is_train: bool = True,
) -> Any:
    """Build the named data sets as one, in the way cfg.DATASETS.CUSTOM_TYPE says."""
    if isinstance(dataset_names, str):
        raise ConfigError(f"DATASETS takes a list of names; write ({dataset_names!r},).")
    if not dataset_names:
        raise ConfigError(f"DATASETS.{'TRAIN' if is_train else 'TEST'} names no data set.")
    datasets: list[BaseDataset] = [
        dataset_class(name)(cfg, name, transforms=transforms, is_train=is_train)
        for name in dataset_names
    ]
    name, kwargs = cfg.DATASETS.CUSTOM_TYPE
    return DATASETS.get(name)(datasets, **kwargs)


def build_train_loader(cfg: Any, plan: BatchPlan | None = None, start_iter: int = 0) -> DataLoader:
    """An endless loader; each item is the list of samples of one forward pass of this process.

    Args:
        plan: how a batch is divided; by default as the config says for this many processes.
        start_iter: optimiser step that the first item belongs to.
    """
    plus_one = cfg.MODEL.get("PLUS_ONE", False)
    transforms = build_transform_gens(cfg.INPUT.AUG.TRAIN_PIPELINES, cfg.INPUT.FORMAT, plus_one)
    dataset = build_dataset(cfg, cfg.DATASETS.TRAIN, transforms, is_train=True)
    block = max(cfg.SOLVER.IMS_PER_DEVICE // cfg.SOLVER.BATCH_SUBDIVISIONS, 1)
    plan = plan or BatchPlan.make(cfg.SOLVER.IMS_PER_BATCH, block, comm.get_world_size())
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if not cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        name = "TrainingSampler"
    stream = SAMPLERS.get(name)(dataset.aspect_ratios, block, max(cfg.SEED, 0))
    workers = cfg.DATALOADER.NUM_WORKERS
    return DataLoader(
        SeededDataset(dataset),
        batch_sampler=TrainingBatchSampler(stream, plan, comm.get_rank(), start_iter),
        num_workers=workers,
        collate_fn=trivial_batch_collator,
        worker_init_fn=worker_init_reset_seed,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
        persistent_workers=workers > 0,
    )


def test_transforms(cfg: Any) -> list:
    """What test images go through: INPUT.AUG.TEST_PIPELINES, or nothing where TEST.AUG starts from
    the original image.
    """
    as_they_are = cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FROM_ORIGINAL
    return build_transform_gens(
        [] if as_they_are else cfg.INPUT.AUG.TEST_PIPELINES, cfg.INPUT.FORMAT
    )


def build_test_loader(cfg: Any, dataset_name: str) -> DataLoader:
    """A loader of this process's share of one test data set, TEST.IMS_PER_DEVICE images at once."""
    if cfg.TEST.IMS_PER_DEVICE < 1:
        raise ConfigError(f"TEST.IMS_PER_DEVICE must be at least 1: {cfg.TEST.IMS_PER_DEVICE}.")
    transforms = test_transforms(cfg)
    dataset = build_dataset(cfg, [dataset_name], transforms, is_train=False)
    return DataLoader(
        dataset,
        batch_size=cfg.TEST.IMS_PER_DEVICE,
        sampler=InferenceSampler(len(dataset), comm.get_rank(), comm.get_world_size()),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
    )
