"""Construction of data sets and loaders from a config."""

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
from cvpods.data.transforms.transform import TransformCall, output_size
from cvpods.structures.samples import Sample
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


def trivial_batch_collator(batch: list[Sample]) -> list[Sample]:
    """Return the samples of a batch as a list, unchanged."""
    return batch


def build_dataset(
    cfg: Any,
    dataset_names: Sequence[str],
    transforms: Sequence[TransformCall] = (),
    is_train: bool = True,
) -> Any:
    """Build the named data sets, combined into one by cfg.DATASETS.CUSTOM_TYPE.

    Raises:
        ConfigError: the names or CUSTOM_TYPE are malformed.
        DataError: a data set is unknown or cannot be read.
    """
    key = "DATASETS.TRAIN" if is_train else "DATASETS.TEST"
    if isinstance(dataset_names, str):
        raise ConfigError(
            f"{key} must be a list of names; got {dataset_names!r}. Write ({dataset_names!r},)."
        )
    if not dataset_names:
        raise ConfigError(f"{key} must name at least one data set; got {dataset_names!r}.")
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
            f"DATASETS.CUSTOM_TYPE must be a pair (name, arguments); got "
            f"{cfg.DATASETS.CUSTOM_TYPE!r}: {error}"
        ) from error


def build_train_loader(
    cfg: Any, plan: BatchPlan | None = None, start_iter: int = 0, block: int | None = None
) -> DataLoader:
    """Return an endless loader of the samples of this process, one forward pass per item.

    Args:
        plan: division of a batch; by default computed from the config and the number of processes.
        start_iter: optimiser step of the first item.
        block: number of consecutive images of one group, see TrainingStream; by default
            SOLVER.IMS_PER_DEVICE, even if limited memory leads to smaller passes.
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
        generator=torch.Generator(),  # so that the loader does not advance dropout's generator
    )


def largest_training_image(cfg: Any) -> tuple[int, int] | None:
    """Return (height, width) of the largest training image, in landscape orientation.

    Return None if INPUT.AUG.TRAIN_PIPELINES does not determine it.
    """
    steps = [step for step in cfg.INPUT.AUG.TRAIN_PIPELINES if step[0] != "RandomFlip"]
    if len(steps) != 1 or steps[0][0] != "ResizeShortestEdge":
        return None
    edges, longest = steps[0][1].get("short_edge_length"), steps[0][1].get("max_size")
    edges = edges if isinstance(edges, (list, tuple)) else [edges]
    if not isinstance(longest, int) or not all(isinstance(edge, int) for edge in edges):
        return None
    return max(edges), max(longest, *edges)


def test_transforms(cfg: Any) -> list[TransformCall]:
    """Build INPUT.AUG.TEST_PIPELINES; return [] if TEST.AUG starts from the original image."""
    original = cfg.TEST.AUG.ENABLED and cfg.TEST.AUG.FROM_ORIGINAL
    return build_transform_gens([] if original else cfg.INPUT.AUG.TEST_PIPELINES, cfg.INPUT.FORMAT)


def build_test_loader(cfg: Any, dataset_name: str) -> DataLoader:
    """Return a loader of this process's share of one test data set.

    An item contains at most TEST.IMS_PER_DEVICE images, all of one size.

    Raises:
        ConfigError: TEST.IMS_PER_DEVICE is below 1.
    """
    if cfg.TEST.IMS_PER_DEVICE < 1:
        raise ConfigError(f"TEST.IMS_PER_DEVICE must be at least 1; got {cfg.TEST.IMS_PER_DEVICE}.")
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


def _sizes_after(transforms: Sequence[TransformCall], dataset: Any) -> list[tuple[int, int] | None]:
    """Return the size of each image after the transforms, or None if it is unknown.

    The sizes are computed from the annotations; reading an image verifies its size.
    """
    parts = getattr(dataset, "datasets", [dataset])
    records = [record for part in parts for record in getattr(part, "dataset_dicts", [])]
    if len(records) != len(dataset):
        return [None] * len(dataset)
    return [
        output_size(transforms, r["height"], r["width"])
        if r.get("height") and r.get("width")
        else None
        for r in records
    ]
