"""Predictor: the same detections for images of every kind; weights, class names, clear errors."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cvpods.checkpoint import Checkpointer, newest_checkpoint
from cvpods.data.datasets import paths
from cvpods.engine import DefaultRunner
from cvpods.modeling.test_time_augmentation import TestTimeAugmentation
from cvpods.structures import Boxes, Instances
from cvpods.tools.experiment import open_experiment
from cvpods.tools.predictor import Predictor, as_array, coco_class_names
from cvpods.utils.errors import CheckpointError, ConfigError, DataError, PodsError

SHARED = Path(os.environ.get("CVPODS_SHARED", Path(__file__).parents[4] / "shared"))
COCO_VAL = SHARED / "data" / "coco" / "annotations" / "instances_val2017.json"


def fresh_model(folder, opts=(), seed=0):
    """An untrained model of the experiment whose scores spread around 0.5."""
    cfg, build_model = open_experiment(folder, opts)
    torch.manual_seed(seed)
    model = build_model(cfg)
    nn.init.zeros_(model.head.cls_score.bias)
    nn.init.normal_(model.head.cls_score.weight, std=0.1)
    return model


def save(folder, name="model_final", opts=(), seed=0, **extra):
    path = folder / "output" / f"{name}.pth"
    path.parent.mkdir(exist_ok=True)
    torch.save({"model": fresh_model(folder, opts, seed).state_dict(), **extra}, path)
    return path


@pytest.fixture
def trained(experiment, monkeypatch, tmp_path):
    """The experiment with weights; no data is found anywhere."""
    monkeypatch.setattr(paths, "data_roots", list)
    monkeypatch.chdir(tmp_path)
    save(experiment)
    return experiment


def noise(height=64, width=96, seed=0):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height)))


def assert_same(found, expected):
    assert len(found) == len(expected)
    assert found.image_size == expected.image_size
    assert torch.equal(found.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.pred_classes, expected.pred_classes)


def differs(found, other):
    return len(found) != len(other) or not torch.equal(found.scores, other.scores)


# -- kinds of images -------------------------------------------------------------------------------


def test_five_lines(trained, tmp_path):
    """As README says it: boxes in pixels of the image, on the CPU, best first."""
    Image.fromarray(noise(200, 300)).save(tmp_path / "street.png")
    predictor = Predictor.from_experiment(trained, weights=trained / "output/model_final.pth")
    found = predictor("street.png")
    sure = found[found.scores > found.scores.mean()]
    assert 0 < len(sure) < len(found)
    assert found.image_size == (200, 300)
    boxes = found.pred_boxes.tensor
    assert boxes.device.type == found.scores.device.type == "cpu"
    assert not boxes.requires_grad
    assert (boxes >= 0).all() and 96 < boxes[:, 2].max() <= 300 and 64 < boxes[:, 3].max() <= 200
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert found.pred_classes.min() >= 0 and found.pred_classes.max() < 6


@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_the_kind_of_image_does_not_matter(trained, tmp_path, image_format):
    predictor = Predictor.from_experiment(trained, opts=["INPUT.FORMAT", image_format])
    array = noise(80, 100)
    path = tmp_path / "picture.png"
    Image.fromarray(array).save(path)
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [str(path), path, Image.fromarray(array), array, tensor, tensor.contiguous()]
    expected = predictor(kinds[0])
    assert len(expected) > 10
    for image in kinds[1:]:
        assert_same(predictor(image), expected)
    for found in predictor(kinds):
        assert len(found) == len(expected)
        torch.testing.assert_close(found.scores, expected.scores)
    assert differs(predictor(np.ascontiguousarray(array[..., ::-1])), expected)
    assert differs(predictor(np.ascontiguousarray(array[:, ::-1])), expected)


def test_an_image_does_not_depend_on_its_company(trained):
    """Sizes differ before and after the test's resizing (short edge 64, long edge 96 at most)."""
    predictor = Predictor.from_experiment(trained)
    sizes = [(64, 96), (96, 64), (128, 192), (80, 80), (64, 96), (32, 200)]
    images = [noise(*size, seed=i) for i, size in enumerate(sizes)]
    alone = [predictor(image) for image in images]
    together = predictor(tuple(images))
    assert [found.image_size for found in together] == sizes
    for found, expected in zip(together, alone, strict=True):
        assert len(found) == len(expected)
        torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            found.pred_boxes.tensor[:5], expected.pred_boxes.tensor[:5], atol=0.01, rtol=0
        )
    assert differs(alone[0], alone[4])


def test_turned_files_are_seen_upright(trained, tmp_path):
    """EXIF 6: turn by 90 degrees clockwise; stored 100 wide, 80 high, seen 80 wide."""
    array = noise(100, 80)
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(np.rot90(array))).save(path, exif=exif)
    predictor = Predictor.from_experiment(trained)
    expected = predictor(array)
    assert expected.image_size == (100, 80)
    assert_same(predictor(path), expected)
    with Image.open(path) as opened:
        assert_same(predictor(opened), expected)


# -- as_array --------------------------------------------------------------------------------------

GREY = np.array([[0, 100, 255], [7, 8, 9]], dtype=np.uint8)


@pytest.mark.parametrize(
    "image",
    [
        GREY,
        GREY[..., None],
        torch.from_numpy(GREY),
        torch.from_numpy(GREY)[None],
        Image.fromarray(GREY),
        np.dstack([GREY] * 3),
    ],
)
@pytest.mark.parametrize("image_format", ["BGR", "RGB"])
def test_grey_becomes_three_channels(image, image_format):
    array = as_array(image, image_format)
    assert array.shape == (2, 3, 3) and array.dtype == np.uint8
    assert all((array[..., channel] == GREY).all() for channel in range(3))


@pytest.mark.parametrize("image_format, expected", [("RGB", [1, 2, 3]), ("BGR", [3, 2, 1])])
def test_channels(image_format, expected):
    pixel = np.array([[[1, 2, 3]]], dtype=np.uint8)
    for image in (pixel, torch.from_numpy(pixel).permute(2, 0, 1), Image.fromarray(pixel)):
        array = as_array(image, image_format)
        assert array[0, 0].tolist() == expected and array.flags.c_contiguous


def test_tensors_that_want_gradients_or_are_views():
    tensor = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 4, 3).permute(2, 0, 1)
    assert (as_array(tensor, "RGB") == np.arange(24).reshape(2, 4, 3)).all()
    assert as_array(np.zeros((4, 6, 3), np.uint8)[::-2, 1:], "BGR").shape == (2, 5, 3)


def test_result_is_writable():
    """torch.from_numpy warns of arrays that are not; the caller's array stays apart."""
    image = np.zeros((4, 6, 3), np.uint8)
    array = as_array(image, "RGB")
    assert array.flags.writeable and not np.shares_memory(array, image)


@pytest.mark.parametrize(
    "image, message",
    [
        (np.zeros((4, 5, 3), np.float32), "uint8 in 0 ... 255; got float32"),
        (torch.zeros(3, 4, 5), "got float32"),
        (np.zeros((4, 5), np.uint16), "got uint16"),
        (np.zeros((4, 5), bool), "got bool"),
        (np.zeros((3, 4, 5), np.uint8), r"shape \(H, W, 1 or 3\); got \(3, 4, 5\)"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"shape \(1 or 3, H, W\); got \(4, 5, 3\)"),
        (torch.zeros(4, 5, 6, dtype=torch.uint8), r"got \(4, 5, 6\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"got \(2, 4, 5, 3\)"),
        (torch.zeros(2, 3, 4, 5, dtype=torch.uint8), r"got \(2, 3, 4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"got \(4, 5, 4\)"),
        (np.zeros(5, np.uint8), r"got \(5,\)"),
        (np.zeros((0, 5, 3), np.uint8), r"got \(0, 5, 3\)"),
        (None, "got NoneType"),
        (b"street.jpg", "got bytes"),
        ({"image": 1}, "got dict"),
        ("nowhere.jpg", "nowhere.jpg does not exist"),
    ],
)
def test_what_is_no_image(image, message):
    with pytest.raises(DataError, match=message):
        as_array(image, "BGR")


def test_pil_image_of_a_cut_file(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(noise()).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    with Image.open(path) as opened, pytest.raises(DataError):
        as_array(opened, "RGB")


def test_input_is_not_changed(trained):
    array = noise()
    before = array.copy()
    predictor = Predictor.from_experiment(trained)
    predictor([array, torch.from_numpy(array).permute(2, 0, 1)])
    assert (array == before).all()


# -- batches ---------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Reads off an image what it finds: three boxes with scores .2, .9, .9 and the first pixel."""

    def __init__(self):
        super().__init__()
        self.batches, self.formats = [], []

    def forward(self, inputs):
        assert not self.training and torch.is_inference_mode_enabled()
        self.batches.append([tuple(i["image"].shape) for i in inputs])
        return [{"instances": self.one(i)} for i in inputs]

    def one(self, inputs):
        return Instances(
            (inputs["height"], inputs["width"]),
            pred_boxes=Boxes(torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]])),
            scores=torch.tensor([0.2, 0.9, 0.9]),
            pred_classes=inputs["image"][:, 0, 0].long(),
        )


def reading(transforms=(), batch_size=8, image_format="RGB"):
    return Predictor(Reader(), ["a"], transforms, image_format, nullcontext, batch_size)


def flat(height, width, *values):
    return np.broadcast_to(np.array(values, dtype=np.uint8), (height, width, 3)).copy()


def test_batches_by_hand():
    """Five images of 4 x 6 and two of 6 x 4, at most two at once: 2 + 2 + 1 and 2."""
    predictor = reading(batch_size=2)
    large, high = (3, 4, 6), (3, 6, 4)
    sizes = [large, high, large, large, high, large, large]
    images = [flat(*size[1:], i, 50, 60) for i, size in enumerate(sizes)]
    found = predictor(images)
    assert predictor.model.batches == [[large] * 2, [large] * 2, [large], [high] * 2]
    # Class of the first of the tied best, 50, and of the last, the number of the image.
    assert [f.pred_classes.tolist() for f in found] == [[50, 60, i] for i in range(7)]
    assert [f.image_size for f in found] == [size[1:] for size in sizes]


def test_best_first():
    """.2, .9, .9 -> the second, the third (equal scores keep their order), the first."""
    found = reading()(flat(4, 6, 1, 2, 3))
    assert found.scores.tolist() == pytest.approx([0.9, 0.9, 0.2])
    assert found.pred_boxes.tensor[:, 2].tolist() == [2, 3, 1]
    assert found.pred_classes.tolist() == [2, 3, 1]


def test_an_array_of_images_is_a_list():
    """(N, H, W, 3) arrays and (N, 3, H, W) tensors."""
    images = np.stack([flat(4, 6, i, 2, 3) for i in range(3)])
    for batch in (images, torch.from_numpy(images).permute(0, 3, 1, 2)):
        found = reading()(batch)
        assert [f.pred_classes.tolist() for f in found] == [[2, 3, i] for i in range(3)]


def test_no_images():
    predictor = reading()
    assert predictor([]) == [] and predictor.model.batches == []


def test_a_list_of_one_is_a_list():
    (found,) = reading()([flat(4, 6, 1, 2, 3)])
    assert len(found) == 3


def test_transforms_and_the_size_before_them():
    """Boxes are to be in pixels of the image that came in, not of the resized one."""
    predictor = reading([lambda image, _: (image[::2, ::2], None)])
    assert predictor(flat(8, 12, 1, 2, 3)).image_size == (8, 12)
    assert predictor.model.batches == [[(3, 4, 6)]]


def test_model_is_in_evaluation_mode_for_good():
    predictor = reading()
    assert not predictor.model.training
    predictor(flat(4, 6, 1, 2, 3))
    assert not predictor.model.training and not torch.is_inference_mode_enabled()


def test_calls_from_eight_threads(trained, tmp_path):
    """Each of 64 calls finds what it finds alone, whatever kind and size its images have; the
    states that threads share do not change.
    """
    predictor = Predictor.from_experiment(trained, device="cpu")
    for i in range(4):
        Image.fromarray(noise(64, 96, i)).save(tmp_path / f"{i}.png")
    given = [noise(64, 96), [noise(96, 64, 1), noise(64, 64, 2)], noise(64, 64, 3)]
    given = [*given, *[tmp_path / f"{i}.png" for i in range(4)], [noise(64, 96, 5)] * 3]
    expected = [predictor(images) for images in given]
    states = [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(predictor, given * 8))
    assert states == [torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()]
    assert not any(module.training for module in predictor.model.modules())
    for one, other in zip(found, expected * 8, strict=True):
        pairs = zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]
        for a, b in pairs:
            assert len(a) == len(b) > 0
            assert torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
            assert torch.equal(a.scores, b.scores) and torch.equal(a.pred_classes, b.pred_classes)


def test_forward_pass_runs_inside_the_context():
    entered = []

    class Context(nullcontext):
        def __enter__(self):
            entered.append(len(predictor.model.batches))

    predictor = Predictor(Reader(), ["a"], [], "RGB", Context, batch_size=1)
    predictor([flat(4, 6, 1, 2, 3)] * 2)
    assert entered == [0, 1]


# -- weights ---------------------------------------------------------------------------------------


def test_weights_named_or_the_newest(trained, monkeypatch):
    """Argument, else MODEL.WEIGHTS of the overrides, else model_final; never the config's own."""
    config = trained / "config.py"
    text = "config.override({'MODEL.WEIGHTS': 'imagenet.pkl'})"
    config.write_text(f"{config.read_text()}\n{text}\n")
    other = save(trained, "model_iter_0000900", seed=1)
    image = noise()
    newest = Predictor.from_experiment(trained)(image)
    named = Predictor.from_experiment(trained, weights=str(other))(image)
    assert differs(named, newest)
    overridden = Predictor.from_experiment(trained, opts=["MODEL.WEIGHTS", str(other)])(image)
    assert_same(overridden, named)
    both = Predictor.from_experiment(
        trained, other, opts=["MODEL.WEIGHTS", str(trained / "output/model_final.pth")]
    )
    assert_same(both(image), named)
    monkeypatch.chdir(trained.parent)
    assert_same(Predictor.from_experiment(trained.name, opts=["MODEL.WEIGHTS", ""])(image), newest)


def test_averaged_weights_come_first(trained):
    average = fresh_model(trained, seed=5).state_dict()
    save(trained, "averaged", seed=1, ema=average)
    save(trained, "plain", seed=5)
    image = noise()
    averaged = Predictor.from_experiment(trained, trained / "output/averaged.pth")(image)
    assert_same(averaged, Predictor.from_experiment(trained, trained / "output/plain.pth")(image))


def test_no_checkpoint(experiment):
    with pytest.raises(CheckpointError, match="output has no checkpoint.*MODEL.WEIGHTS x.pth"):
        Predictor.from_experiment(experiment)


@pytest.mark.parametrize(
    "files, newest",
    [
        # An interrupted extension of a run of 100 iterations.
        ({"model_final": 99, "model_iter_0000120": 119}, "model_iter_0000120"),
        ({"model_iter_0000100": 99, "model_final": 99}, "model_final"),
        ({"model_iter_0000020": 19, "model_iter_0000100": 99, "best": 200}, "model_iter_0000100"),
        # Renamed, or numbered by epochs: what is inside counts.
        ({"model_iter_0000500": 9, "model_epoch_0002": 49}, "model_epoch_0002"),
        # Weights alone come first only where there is nothing else.
        ({"model_final": None, "model_iter_0000100": 99}, "model_iter_0000100"),
        ({"model_final": None, "model_iter_0000100": None}, "model_final"),
    ],
)
def test_newest_checkpoint(files, newest, tmp_path):
    """By the iteration inside, as --resume chooses."""
    net = torch.nn.Linear(1, 1)
    for name, iteration in files.items():
        extra = {} if iteration is None else {"iteration": iteration}
        torch.save({"model": net.state_dict(), **extra}, tmp_path / f"{name}.pth")
    assert newest_checkpoint(tmp_path).name == f"{newest}.pth"
    content = Checkpointer(net, tmp_path).resume()
    assert (content or {}).get("iteration") == files[newest]


def test_newest_checkpoint_passes_over_damaged_ones(tmp_path):
    for done in (2, 4):
        content = {"model": {"w": torch.zeros(1)}, "iteration": done - 1}
        torch.save(content, tmp_path / f"model_iter_{done:07d}.pth")
    newest = tmp_path / "model_iter_0000004.pth"
    newest.write_bytes(newest.read_bytes()[:300])
    assert newest_checkpoint(tmp_path).name == "model_iter_0000002.pth"
    (tmp_path / "model_iter_0000002.pth").write_bytes(b"")
    assert newest_checkpoint(tmp_path) == newest  # reading it says what is wrong


def test_unusable_weights(trained, tmp_path):
    def message(weights):
        with pytest.raises(CheckpointError) as caught:
            Predictor.from_experiment(trained, weights=weights)
        return str(caught.value)

    assert "nowhere.pth does not exist" in message("nowhere.pth")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    assert "junk.pth" in message(tmp_path / "junk.pth")
    other = message(save(trained, "seven", opts=["MODEL.ATSS.NUM_CLASSES", "7"]))
    assert "seven.pth" in other and "head.cls_score.bias ((7,) in the file, (6,) in" in other
    weights = fresh_model(trained).state_dict()
    weights.pop("head.bbox_pred.weight")
    torch.save({"model": weights}, tmp_path / "part.pth")
    assert "head.bbox_pred.weight" in message(tmp_path / "part.pth")


@pytest.mark.parametrize(
    "folder, options, message",
    [
        ("", {}, "is not an experiment: it has no config.py"),
        ("atss.tiny", {"opts": ["MODEL.WEIGTHS", "x.pth"]}, "Did you mean MODEL.WEIGHTS?"),
        ("atss.tiny", {"device": "gpu"}, "MODEL.DEVICE 'gpu' cannot be used"),
        ("atss.tiny", {"opts": ["SEED"]}, "KEY VALUE"),
        ("atss.tiny", {"opts": ["TEST.ON_FILES", "True"]}, "Not supported: TEST.ON_FILES"),
    ],
)
def test_bad_arguments(trained, folder, options, message):
    with pytest.raises(PodsError, match=message):
        Predictor.from_experiment(trained.parent / folder, **options)


def test_experiment_opened_with_its_overrides(experiment, tmp_path):
    """OUTPUT_DIR is meant inside the experiment's folder; an absolute one stays."""
    cfg, _ = open_experiment(experiment, ["SEED", "7"], device="cpu")
    assert (cfg.SEED, cfg.MODEL.DEVICE) == (7, "cpu")
    assert Path(cfg.OUTPUT_DIR) == experiment / "output"
    cfg, _ = open_experiment(experiment, ["OUTPUT_DIR", str(tmp_path)])
    assert Path(cfg.OUTPUT_DIR) == tmp_path and cfg.SEED == 3


# -- class names -----------------------------------------------------------------------------------


def names(folder, opts=(), **extra):
    weights = save(folder, "named", opts, **extra)
    return Predictor.from_experiment(folder, weights, opts=opts).class_names


SHAPES = ["disc", "square", "triangle", "star", "ring", "cross"]


def test_class_names_of_the_checkpoint(trained, shapes_root, monkeypatch):
    """They come before those of the data set."""
    monkeypatch.setattr(paths, "data_roots", lambda: [shapes_root])
    assert names(trained, thing_classes=list("abcdef")) == list("abcdef")
    assert names(trained, thing_classes=[]) == SHAPES


def test_training_writes_class_names(trained, shapes_root, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(paths, "data_roots", lambda: [shapes_root])
        cfg, build_model = open_experiment(trained, device="cpu")
        DefaultRunner(cfg, build_model).save("written")
    path = trained / "output/written.pth"
    assert torch.load(path, weights_only=True)["thing_classes"] == SHAPES
    assert Predictor.from_experiment(trained, path).class_names == SHAPES


def test_numbers_where_no_name_is_known(trained):
    """shapes_val is not found, and there is none of these names or of this number."""
    expected = [f"class {i}" for i in range(6)]
    weights = trained / "output/model_final.pth"
    for tests in ("('shapes_val',)", "()", "('nowhere_val',)", "('coco_2017_val',)"):
        opts = ["DATASETS.TEST", tests]
        assert Predictor.from_experiment(trained, weights, opts=opts).class_names == expected


def test_coco_without_its_data(trained):
    """80 classes of another data set are not COCO's."""
    opts = ["MODEL.ATSS.NUM_CLASSES", "80", "DATASETS.TEST"]
    assert names(trained, [*opts, "('coco_2017_val',)"]) == coco_class_names()
    assert names(trained, [*opts, "('shapes_val',)"]) == [f"class {i}" for i in range(80)]


def test_coco_names_in_the_order_of_their_ids():
    """Ids 12, 26, 29, ... do not exist; stop sign has 13 and is the twelfth."""
    listed = coco_class_names()
    assert len(listed) == len(set(listed)) == 80
    assert listed[:3] == ["person", "bicycle", "car"]
    assert (listed[11], listed[24], listed[79]) == ("stop sign", "backpack", "toothbrush")


@pytest.mark.coco
def test_coco_names_are_those_of_its_files():
    categories = json.loads(COCO_VAL.read_text())["categories"]
    listed = [c["name"] for c in sorted(categories, key=lambda c: c["id"])]
    assert coco_class_names() == listed


def test_names_of_another_number_are_not_taken(trained):
    assert len(names(trained, thing_classes=["a", "b"])) == 6


# -- test-time augmentation, several experiments ---------------------------------------------------

AUGMENTED = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 96)"]


@pytest.mark.parametrize("from_original", ["True", "False"])
def test_augmentation_is_used(trained, from_original):
    """Inputs hold the original image, or that of an ordinary test (64 x 96)."""
    image = noise(128, 192)
    plain = Predictor.from_experiment(trained)(image)
    opts = [*AUGMENTED, "TEST.AUG.FROM_ORIGINAL", from_original]
    predictor = Predictor.from_experiment(trained, opts=opts)
    assert isinstance(predictor.model, TestTimeAugmentation)
    assert [scale.short_edge for scale in predictor.model.scales] == [64, 96]
    seen = []
    predictor.model.register_forward_pre_hook(
        lambda module, arguments: seen.extend(i["image"].shape for i in arguments[0])
    )
    found = predictor([image, noise(96, 96)])
    assert seen[0] == ((3, 128, 192) if from_original == "True" else (3, 64, 96))
    assert found[0].image_size == (128, 192) and differs(found[0], plain)
    assert found[0].pred_boxes.tensor[:, 2].max() > 96


def test_two_experiments_one_after_the_other(trained, tmp_path):
    """The second has other classes; the first goes on as before, also when opened again."""
    image = noise()
    first = Predictor.from_experiment(trained)
    expected = first(image)
    second_folder = tmp_path / "other"
    second_folder.mkdir()
    (second_folder / "net.py").write_text((trained / "net.py").read_text())
    text = "config.override({'MODEL.ATSS.NUM_CLASSES': 3, 'OUTPUT_DIR': 'output'})"
    (second_folder / "config.py").write_text(f"{(trained / 'config.py').read_text()}\n{text}\n")
    save(second_folder, thing_classes=["a", "b", "c"])
    second = Predictor.from_experiment(second_folder)
    assert second.class_names == ["a", "b", "c"]
    found = second(image)
    assert found.pred_classes.max() < 3 and differs(found, expected)
    assert_same(first(image), expected)
    assert_same(Predictor.from_experiment(trained)(image), expected)


def test_overrides_do_not_stay(trained):
    """The config of an experiment starts again with every predictor."""
    augmented = Predictor.from_experiment(trained, opts=[*AUGMENTED, "INPUT.FORMAT", "RGB"])
    again = Predictor.from_experiment(trained)
    assert augmented.image_format == "RGB" and again.image_format == "BGR"
    assert not isinstance(again.model, TestTimeAugmentation)


def test_device(trained):
    predictor = Predictor.from_experiment(trained, device="cpu")
    assert next(predictor.model.parameters()).device.type == "cpu"


@pytest.mark.gpu
def test_detections_of_a_gpu_come_to_the_cpu(trained):
    image = torch.from_numpy(noise()).permute(2, 0, 1)
    found = Predictor.from_experiment(trained, device="cuda")(image.cuda())
    assert found.scores.device.type == found.pred_boxes.tensor.device.type == "cpu"
    expected = Predictor.from_experiment(trained, device="cpu")(image)
    torch.testing.assert_close(found.scores[:5], expected.scores[:5], atol=0.02, rtol=0)


def test_errors_have_one_base():
    """`except PodsError` catches whatever a user can put right."""
    assert all(issubclass(e, PodsError) for e in (ConfigError, DataError, CheckpointError))
