"""Loaders: equal samples with any number of workers, before and after resuming."""

import itertools
import json
import random

import numpy as np
import pytest
import torch
from PIL import Image

from cvpods.configs import BaseDetectionConfig
from cvpods.data import (
    PATH_ROUTES,
    build_dataset,
    build_test_loader,
    build_train_loader,
    register_coco_instances,
)
from cvpods.data.build import SeededDataset, trivial_batch_collator
from cvpods.data.samplers import BatchPlan, SampleKey
from cvpods.utils.errors import ConfigError, DataError, PodsError

SIZE = 7


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Write seven images of noise, alternately wide and tall, with one box each."""
    folder = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    images, boxes = [], []
    for id_ in range(SIZE):
        width, height = (20, 16) if id_ % 2 else (16, 20)
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{id_}.png")
        shape = {"width": width, "height": height}
        images.append({"id": id_, "file_name": f"{id_}.png", **shape})
        boxes.append({"id": id_, "image_id": id_, "category_id": 1, "bbox": [2, 3, 8, 9]})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]}
    (folder / "noise.json").write_text(json.dumps(content))
    return folder / "noise.json", folder


@pytest.fixture
def cfg(files, monkeypatch):
    monkeypatch.setattr(PATH_ROUTES, "_objects", dict(PATH_ROUTES._objects))
    register_coco_instances("noise", *files)
    cfg = BaseDetectionConfig()
    cfg.MODEL.DEVICE = "cpu"
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("noise",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.IMS_PER_DEVICE = 4, 2
    cfg.SEED = 3
    sizes = {"short_edge_length": (12, 24), "sample_style": "range"}
    cfg.INPUT.AUG.TRAIN_PIPELINES = [
        ("ResizeShortestEdge", sizes),
        ("RandomFlip", {}),
        ("RandomBrightness", {"intensity_min": 0.5, "intensity_max": 1.5}),
    ]
    cfg.INPUT.AUG.TEST_PIPELINES = [("ResizeShortestEdge", {"short_edge_length": 12})]
    return cfg


def content(batch):
    """Return values that distinguish the samples of a batch."""
    return [
        (s["image_id"], s["image"].tolist(), s["instances"].gt_boxes.tensor.tolist()) for s in batch
    ]


def first(loader, count):
    return [content(batch) for batch in itertools.islice(loader, count)]


# -- training --------------------------------------------------------------------------------------


def test_batches(cfg):
    """4 images per step, 2 at once: two lists of 2 samples, as (3, H, W) bytes."""
    batches = list(itertools.islice(build_train_loader(cfg), 3))
    assert [len(batch) for batch in batches] == [2, 2, 2]
    sample = batches[0][0]
    assert sample["image"].dtype == torch.uint8 and sample["image"].shape[0] == 3
    assert sample["instances"].image_size == tuple(sample["image"].shape[1:])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_samples(cfg, workers):
    alone = first(build_train_loader(cfg), 8)
    cfg.DATALOADER.NUM_WORKERS = workers
    assert first(build_train_loader(cfg), 8) == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_does_not_change_the_samples(cfg, workers):
    """Step 3 begins with the seventh list of 2; 7 images in blocks of 2 are 8 an epoch."""
    whole = first(build_train_loader(cfg), 12)
    cfg.DATALOADER.NUM_WORKERS = workers
    assert first(build_train_loader(cfg, start_iter=3), 6) == whole[6:]


def test_going_through_twice_gives_the_same(cfg):
    loader = build_train_loader(cfg)
    assert first(loader, 5) == first(loader, 5)


def test_the_state_of_the_process_does_not_matter(cfg):
    results = []
    for seed in (0, 1):
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        results.append(first(build_train_loader(cfg), 3))
    assert results[0] == results[1]


def test_augmentation_differs_between_epochs(cfg):
    """Each image occurs several times in 24 batches of 2, usually with another augmentation."""
    samples = list(itertools.chain(*first(build_train_loader(cfg), 24)))
    assert {sample[0] for sample in samples} == set(range(SIZE))
    assert len({str(sample) for sample in samples}) > 40


def test_seed_of_the_run_decides(cfg):
    before = first(build_train_loader(cfg), 4)
    cfg.SEED = 4
    assert first(build_train_loader(cfg), 4) != before


def test_a_negative_seed_still_works(cfg):
    cfg.SEED = -1
    assert first(build_train_loader(cfg), 2) == first(build_train_loader(cfg), 2)


@pytest.mark.parametrize("grouping, orientations", [(True, {1}), (False, {1, 2})])
def test_grouping_can_be_switched_off(cfg, grouping, orientations):
    """Grouped, both images of a batch are wide or both are not."""
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    batches = itertools.islice(build_train_loader(cfg), 16)
    assert {len({s["width"] > s["height"] for s in batch}) for batch in batches} == orientations


def test_subdivisions_halve_the_images_of_a_pass(cfg):
    cfg.SOLVER.BATCH_SUBDIVISIONS = 2
    assert [len(batch) for batch in first(build_train_loader(cfg), 4)] == [1, 1, 1, 1]


def test_a_plan_wins_over_the_config(cfg):
    loader = build_train_loader(cfg, BatchPlan.make(5, 3, 1))
    assert [len(batch) for batch in first(loader, 4)] == [3, 2, 3, 2]


def test_images_without_boxes_are_not_trained_on(cfg, files, tmp_path):
    content = json.loads(files[0].read_text())
    content["annotations"] = content["annotations"][:3]
    (tmp_path / "less.json").write_text(json.dumps(content))
    register_coco_instances("noise", tmp_path / "less.json", files[1])
    assert len(build_train_loader(cfg).dataset) == 3
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    assert len(build_train_loader(cfg).dataset) == SIZE
    assert len(build_test_loader(cfg, "noise").dataset) == SIZE


# -- seeding of single samples ---------------------------------------------------------------------


class Draws(torch.utils.data.Dataset):
    """Data set whose items contain a random number from every generator."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 2:
            raise DataError("broken image")
        return index, random.random(), np.random.rand(), torch.rand(1).item()


def test_seeds_reach_every_generator():
    dataset = SeededDataset(Draws())
    first, again, other = (dataset[SampleKey(0, seed)] for seed in (5, 5, 6))
    assert first == again
    assert all(a != b for a, b in zip(first[1:], other[1:], strict=True))
    assert dataset[SampleKey(1, 5)] == (1, *first[1:])
    assert len(dataset) == 3


@pytest.mark.parametrize("index", [0, 2])
def test_the_states_of_the_process_stay(index):
    """They stay when reading fails, too."""
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    expected = Draws()[0]
    random.seed(1), np.random.seed(2), torch.manual_seed(3)
    try:
        SeededDataset(Draws())[SampleKey(index, 77)]
    except DataError:
        assert index == 2
    assert Draws()[0] == expected


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_extreme_seeds(seed):
    assert len(SeededDataset(Draws())[SampleKey(0, seed)]) == 4


def test_collator_keeps_the_list():
    batch = [{"image": torch.zeros(3, 1, 2)}, {"image": torch.zeros(3, 2, 1)}]
    assert trivial_batch_collator(batch) is batch


# -- testing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_every_test_image_occurs_once(cfg, workers):
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = build_test_loader(cfg, "noise")
    batches = list(loader)
    assert len(loader) == SIZE
    assert [[s["image_id"] for s in batch] for batch in batches] == [[i] for i in range(SIZE)]
    assert all(min(batch[0]["image"].shape[1:]) == 12 for batch in batches)


def test_only_images_of_one_size_share_a_batch(cfg):
    """Images 0, 2, 4, 6 are 20 x 16, the others 16 x 20; at most three at once."""
    cfg.TEST.IMS_PER_DEVICE = 3
    loader = build_test_loader(cfg, "noise")
    ids = [[s["image_id"] for s in batch] for batch in loader]
    assert ids == [[0, 2, 4], [1, 3, 5], [6]] and len(loader) == 3
    loader.batch_sampler.one_size = True
    assert [[s["image_id"] for s in batch] for batch in loader] == [[0, 1, 2], [3, 4, 5], [6]]


def test_images_of_unknown_size_stay_alone(cfg):
    cfg.TEST.IMS_PER_DEVICE = 3
    sizes = {"short_edge_length": (12, 24), "sample_style": "range"}
    cfg.INPUT.AUG.TEST_PIPELINES = [("ResizeShortestEdge", sizes)]
    assert [len(batch) for batch in build_test_loader(cfg, "noise")] == [1] * SIZE


@pytest.mark.parametrize("images", [1, 2, 5])
def test_processes_share_batches_of_one_size(cfg, monkeypatch, images):
    """Three processes together read every image once."""
    cfg.TEST.IMS_PER_DEVICE = images
    monkeypatch.setattr("cvpods.utils.comm.get_world_size", lambda: 3)
    seen = []
    for rank in range(3):
        monkeypatch.setattr("cvpods.utils.comm.get_rank", lambda rank=rank: rank)
        for batch in build_test_loader(cfg, "noise"):
            assert len({s["image"].shape for s in batch}) == 1
            seen += [s["image_id"] for s in batch]
    assert sorted(seen) == list(range(SIZE))


def test_processes_share_the_test_images(cfg, monkeypatch):
    monkeypatch.setattr("cvpods.utils.comm.get_world_size", lambda: 3)
    seen = []
    for rank in range(3):
        monkeypatch.setattr("cvpods.utils.comm.get_rank", lambda rank=rank: rank)
        seen += [s["image_id"] for batch in build_test_loader(cfg, "noise") for s in batch]
    assert seen == list(range(SIZE))


# -- errors ----------------------------------------------------------------------------------------


def test_a_string_instead_of_a_list_of_names(cfg):
    cfg.DATASETS.TRAIN = "noise"
    with pytest.raises(ConfigError, match=r"Write \('noise',\)"):
        build_train_loader(cfg)


@pytest.mark.parametrize("is_train, key", [(True, "DATASETS.TRAIN"), (False, "DATASETS.TEST")])
@pytest.mark.parametrize("names", [(), []])
def test_no_names(cfg, names, is_train, key):
    with pytest.raises(ConfigError, match=key):
        build_dataset(cfg, names, is_train=is_train)


def test_empty_train_list(cfg):
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN must name at least one data set"):
        build_train_loader(cfg)


def test_unknown_names(cfg):
    cfg.DATASETS.TRAIN = ("noise", "nois")
    with pytest.raises(DataError, match="'nois'.*Did you mean noise"):
        build_train_loader(cfg)


@pytest.mark.parametrize(
    "group, key, value, near",
    [
        ("DATALOADER", "SAMPLER_TRAIN", "TrainingSample", "TrainingSampler"),
        ("DATASETS", "CUSTOM_TYPE", ("ConcatDatase", {}), "ConcatDataset"),
    ],
)
def test_unknown_registered_names(cfg, group, key, value, near):
    cfg[group][key] = value
    with pytest.raises(PodsError, match=f"Did you mean {near}"):
        build_train_loader(cfg)


def test_a_broken_image_in_a_worker_is_named(cfg, files, tmp_path):
    content = json.loads(files[0].read_text())
    for record in content["images"]:
        record["file_name"] = "nowhere.png"
    (tmp_path / "lost.json").write_text(json.dumps(content))
    register_coco_instances("noise", tmp_path / "lost.json", files[1])
    cfg.DATALOADER.NUM_WORKERS = 1
    with pytest.raises(DataError, match=r"nowhere\.png"):
        first(build_train_loader(cfg), 1)
