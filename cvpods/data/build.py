"""From a config to data sets and loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from loguru import logger
from torch.utils.data import DataLoader

from cvpods.data.datasets.base_dataset import BaseDataset
from cvpods.data.datasets.paths import dataset_class
from cvpods.data.loader import Loader, worker_init_reset_seed
from cvpods.data.registry import DATASETS, SAMPLERS
from cvpods.data.samplers import (
    BatchPlan,
    InferenceSampler,
    SizeBatchSampler,
    TrainingBatchSampler,
)
from cvpods.data.seeded_dataset import SeededDataset
from cvpods.data.transforms import build_transform_gens
from cvpods.data.transforms.transform import output_size
from cvpods.utils import comm
from cvpods.utils.errors import ConfigError, PodsError
from cvpods.utils.handles import raise_handle_limit

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
    try:
        name, kwargs = cfg.DATASETS.CUSTOM_TYPE
        return DATASETS.get(name)(datasets, **kwargs)
    except (TypeError, ValueError) as error:
        if isinstance(error, PodsError):
            raise
        raise ConfigError(
            f"DATASETS.CUSTOM_TYPE must be a pair (name, arguments), got "
            f"{cfg.DATASETS.CUSTOM_TYPE!r}: {error}"
        ) from error


def build_train_loader(
    cfg: Any, plan: BatchPlan | None = None, start_iter: int = 0, block: int | None = None
) -> DataLoader:
    """An endless loader; each item is the list of samples of one forward pass of this process.

    Args:
        plan: how a batch is divided; by default as the config says for this many processes.
        start_iter: optimiser step that the first item belongs to.
        block: images of one group that follow each other, see TrainingStream; by default
            SOLVER.IMS_PER_DEVICE, also where memory lets fewer be handled at once.
    """
    plus_one = cfg.MODEL.get("PLUS_ONE", False)
    transforms = build_transform_gens(cfg.INPUT.AUG.TRAIN_PIPELINES, cfg.INPUT.FORMAT, plus_one)
    dataset = build_dataset(cfg, cfg.DATASETS.TRAIN, transforms, is_train=True)
    block = block or cfg.SOLVER.IMS_PER_DEVICE
    per_pass = max(cfg.SOLVER.IMS_PER_DEVICE // cfg.SOLVER.BATCH_SUBDIVISIONS, 1)
    plan = plan or BatchPlan.make(cfg.SOLVER.IMS_PER_BATCH, per_pass, comm.get_world_size())
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if not cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        name = "TrainingSampler"
    stream = SAMPLERS.get(name)(dataset.aspect_ratios, block, max(cfg.SEED, 0))
    workers = cfg.DATALOADER.NUM_WORKERS
    raise_handle_limit(workers, block)
    return Loader(
        SeededDataset(dataset),
        batch_sampler=TrainingBatchSampler(stream, plan, comm.get_rank(), start_iter),
        num_workers=workers,
        collate_fn=trivial_batch_collator,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # a loader must not move the generator of dropout
    )


def largest_training_image(cfg: Any) -> tuple[int, int] | None:
    """(height, width) of the largest image of training, lying; None where the steps do not say."""
    steps = [step for step in cfg.INPUT.AUG.TRAIN_PIPELINES if step[0] != "RandomFlip"]
    if len(steps) != 1 or steps[0][0] != "ResizeShortestEdge":
        return None
    edges, longest = steps[0][1].get("short_edge_length"), steps[0][1].get("max_size")
    edges = edges if isinstance(edges, (list, tuple)) else [edges]
    if not isinstance(longest, int) or not all(isinstance(edge, int) for edge in edges):
        return None
    return max(edges), max(longest, *edges)


def test_transforms(cfg: Any) -> list:
    """What test images go through: INPUT.AUG.TEST_PIPELINES, or nothing where TEST.AUG starts from
    the original image.
    """
    as_they_are = cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FROM_ORIGINAL
    return build_transform_gens(
        [] if as_they_are else cfg.INPUT.AUG.TEST_PIPELINES, cfg.INPUT.FORMAT
    )


def build_test_loader(cfg: Any, dataset_name: str) -> DataLoader:
    """Return a loader of this process's share of one test data set.

    TEST.IMS_PER_DEVICE images of one size, at most, come at once.
    """
    if cfg.TEST.IMS_PER_DEVICE < 1:
        raise ConfigError(f"TEST.IMS_PER_DEVICE must be at least 1: {cfg.TEST.IMS_PER_DEVICE}.")
    transforms = test_transforms(cfg)
    dataset = build_dataset(cfg, [dataset_name], transforms, is_train=False)
    raise_handle_limit(cfg.DATALOADER.NUM_WORKERS, cfg.TEST.IMS_PER_DEVICE)
    shard = InferenceSampler(len(dataset), comm.get_rank(), comm.get_world_size())
    sizes = _sizes_after(transforms, dataset)
    return Loader(
        dataset,
        batch_sampler=SizeBatchSampler(shard, sizes, cfg.TEST.IMS_PER_DEVICE),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        pin_memory=cfg.MODEL.DEVICE.startswith("cuda"),
        generator=torch.Generator(),
    )


def _sizes_after(transforms: list, dataset: Any) -> list[tuple[int, int] | None]:
    """Return the size that each image has after the transforms; None where that is not known.

    A size comes from the annotations; reading the image checks it.
    """
    parts = getattr(dataset, "datasets", [dataset])
    records = [record for part in parts for record in getattr(part, "dataset_dicts", [])]
    if len(records) != len(dataset):
        return [None] * len(dataset)
    return [_size_after(transforms, r.get("height"), r.get("width")) for r in records]


def _size_after(transforms: list, height: Any, width: Any) -> tuple[int, int] | None:
    return output_size(transforms, height, width) if height and width else None
