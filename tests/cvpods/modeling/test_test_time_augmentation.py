"""TestTimeAugmentation: the sizes of its passes, boxes back to the original image, one NMS."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from cvpods.configs import BaseConfig, RetinaNetConfig
from cvpods.engine.defaults import default_setup, refuse_unsupported
from cvpods.modeling.meta_arch import RetinaNet
from cvpods.modeling.meta_arch.dense_detector import DenseDetector
from cvpods.modeling.test_time_augmentation import TestTimeAugmentation
from cvpods.structures import Boxes, Instances
from cvpods.tools.experiment import load_experiment
from cvpods.utils.errors import ConfigError
from cvpods_ext.configs import FreeAnchorConfig
from cvpods_ext.configs.fragments import FREE_ANCHOR_TTA

PLAYGROUND = Path(__file__).resolve().parents[3] / "playground"
# FreeAnchor's release of 10/2019.
SIX = [(480, 800), (640, 1067), (800, 1333), (960, 1600), (1120, 1867), (1280, 2133)]


class Padding(nn.Module):
    """What a detector asks of a backbone besides features."""

    size_divisibility = 32


class Oracle(DenseDetector):
    """Finds in every pass what `answer` says, in the frame of that pass.

    Images are those of `picture`: the detector reads off them which one it sees and whether it is
    mirrored. It notes the padded size, the true size and the rest of what it was asked.

    Args:
        answer: (number of the image, number of the pass of this image, (height, width) of the
            pass) -> boxes of the unmirrored image, scores, classes; of `picture`'s pass.
    """

    def __init__(self, answer, **arguments):
        super().__init__(
            backbone=Padding(),
            head=nn.Identity(),
            in_features=[],
            num_classes=3,
            pixel_mean=(0.0, 0.0, 0.0),
            pixel_std=(1.0, 1.0, 1.0),
            **{"nms_threshold": 0.5, **arguments},
        )
        self.answer = answer
        self.passes = []  # of all images: (number, (height, width), mirrored)
        self.padded = []
        self.suppressed = []

    def network(self, images):
        assert not torch.is_grad_enabled() and len(images) == 1
        self.padded.append(tuple(images.shape[2:]))
        return {"images": images}, ["priors"]

    def candidates(self, predictions, priors, image_sizes, per_level):
        assert priors == ["priors"] and per_level == self.topk_candidates
        (size,) = map(tuple, image_sizes)
        image = predictions["images"][0]
        assert (image[:, size[0] :] == 0).all() and (image[:, :, size[1] :] == 0).all()
        image = image[:, : size[0], : size[1]]
        number = round(image[1, 0, 0].item())
        mirrored = bool(image[0, 0, 0] > image[0, 0, -1])
        assert image[0, -1, 0] == image[0, 0, 0]  # never upside down
        boxes, scores, classes = self.answer(
            number, sum(number == n for n, _, _ in self.passes), size
        )
        self.passes.append((number, size, mirrored))
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        if mirrored:
            boxes = torch.stack(
                [size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], 1
            )
        found = Instances(
            size,
            pred_boxes=Boxes(boxes),
            scores=torch.tensor(scores, dtype=torch.float32).reshape(-1),
            pred_classes=torch.tensor(classes, dtype=torch.int64).reshape(-1),
        )
        return [found]

    def suppress(self, candidates):
        self.suppressed.append(candidates)
        return super().suppress(candidates)


def picture(height, width, number=0):
    """Brighter to the right in the first channel, its number everywhere in the second."""
    image = torch.zeros(3, height, width)
    image[0] = torch.linspace(10, 250, width)
    image[1] = number
    return image


def truth_in_every_pass(truths, images):
    """Answers with `truths[number]` (boxes in the loaded image) scaled to the pass.

    Scores 0.9, 0.8, ... by object, 0.01 less with every pass: those of the first one win.
    """

    def answer(number, index, size):
        height, width = images[number].shape[1:]
        factors = torch.tensor([size[1] / width, size[0] / height] * 2)
        boxes = torch.tensor(truths[number], dtype=torch.float32).reshape(-1, 4) * factors
        scores = [0.9 - 0.1 * i - 0.01 * index for i in range(len(boxes))]
        return boxes.tolist(), scores, [i % 3 for i in range(len(boxes))]

    return answer


def by_hand(*passes):
    """Answers with the given [(box, score)] of each pass, all of class 0."""

    def answer(number, index, size):
        boxes, scores = zip(*passes[index], strict=True) if passes[index] else ([], [])
        return list(boxes), list(scores), [0] * len(boxes)

    return answer


def nothing(number, index, size):
    return [], [], []


def detect(detector, scales, images, flip=False, **sizes):
    model = TestTimeAugmentation(detector, scales, flip).eval()
    return [out["instances"] for out in model([{"image": image, **sizes} for image in images])]


# -- sizes of the passes ---------------------------------------------------------------------------


def test_free_anchors_six_passes():
    """A 600 x 912 photo, loaded as 800 x 1216; no cap binds, as 1333 / 800 > 1216 / 800.

    scale        height   width                   padded to multiples of 32
     480 / 800   480      729.6, rounded  730      480 x  736
     640 / 800   640      972.8,          973      640 x  992
     800 / 800   800     1216                      800 x 1216
     960 / 800   960     1459.2,         1459      960 x 1472
    1120 / 800  1120     1702.4,         1702     1120 x 1728
    1280 / 800  1280     1945.6,         1946     1280 x 1952
    """
    detector = Oracle(nothing)
    detect(detector, SIX, [picture(800, 1216)])
    assert [size for _, size, _ in detector.passes] == [
        (480, 730),
        (640, 973),
        (800, 1216),
        (960, 1459),
        (1120, 1702),
        (1280, 1946),
    ]
    assert detector.padded == [
        (480, 736),
        (640, 992),
        (800, 1216),
        (960, 1472),
        (1120, 1728),
        (1280, 1952),
    ]


def test_passes_whose_long_edge_caps():
    """A panorama, loaded as 600 x 1333: the cap binds in every pass, the height follows.

    600 * 800 / 1333 = 360.1, 600 * 1067 / 1333 = 480.3, 600, 600 * 1600 / 1333 = 720.2,
    600 * 1867 / 1333 = 840.4, 600 * 2133 / 1333 = 960.1.
    """
    detector = Oracle(nothing)
    detect(detector, SIX, [picture(600, 1333)])
    assert [size for _, size, _ in detector.passes] == [
        (360, 800),
        (480, 1067),
        (600, 1333),
        (720, 1600),
        (840, 1867),
        (960, 2133),
    ]


def test_portrait():
    """61 x 40 at (30, 99): 61 * 30 / 40 = 45.75; at (80, 90): 90 / 61, 40 * 90 / 61 = 59.02."""
    detector = Oracle(nothing)
    detect(detector, [(30, 99), (80, 90)], [picture(61, 40)])
    assert [size for _, size, _ in detector.passes] == [(46, 30), (90, 59)]


def test_each_scale_plain_then_mirrored():
    detector = Oracle(nothing)
    detect(detector, [(20, 99), (40, 99)], [picture(20, 31)], flip=True)
    assert detector.passes == [
        (0, (20, 31), False),
        (0, (20, 31), True),
        (0, (40, 62), False),
        (0, (40, 62), True),
    ]


def test_resampling_keeps_corners():
    """align_corners: from 0, 10, 20, 30 (4 wide) to 7 wide, every step is half of the old one."""
    detector = Oracle(nothing)
    image = torch.zeros(3, 4, 4)
    image[0] = torch.tensor([0.0, 10, 20, 30])
    seen = []
    network = detector.network
    detector.network = lambda images: seen.append(images[0, 0]) or network(images)
    detect(detector, [(7, 99)], [image])
    assert torch.allclose(seen[0][:7, :7], torch.arange(0.0, 31, 5).expand(7, 7), atol=1e-4)


def test_images_are_normalised_once():
    """(pixel - 5) / 2; the padding is 0 after it."""
    detector = Oracle(nothing)
    detector.pixel_mean.fill_(5.0)
    detector.pixel_std.fill_(2.0)
    seen = []
    detector.network = lambda images: seen.append(images) or ({"images": images}, ["priors"])
    image = torch.full((3, 32, 32), 5, dtype=torch.uint8)
    image[0] = 9
    image[2] = 25
    detect(detector, [(32, 32), (40, 40)], [image])
    assert [tuple(images.shape) for images in seen] == [(1, 3, 32, 32), (1, 3, 64, 64)]
    for images, side in zip(seen, (32, 40), strict=True):
        values = images[0, :, :side, :side].flatten(1)
        assert torch.allclose(values, torch.tensor([[2.0], [0], [10]]).expand_as(values))


# -- boxes -----------------------------------------------------------------------------------------

# Of a 33 x 47 image; no two alike under mirroring.
OBJECTS = [[3.0, 4, 17, 20], [20.5, 2.25, 45, 31], [0, 25, 9, 33], [40, 0, 47, 6]]
SIZE = (33, 47)
# Smaller, the same, and larger with a cap: 20 x 28, 33 x 47, 42 x 60.
SCALES = [(20, 99), (33, 99), (50, 60)]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [SIZE, (66, 141), (20, 20)], ids=str)
def test_truth_in_every_pass_gives_the_truth(flip, size):
    """Whatever the passes' rounded sizes, in the original image each object is there once.

    Widths 28, 47 and 60 of the passes: odd and even ones are mirrored. The scores are those of the
    first pass.
    """
    images = [picture(*SIZE)]
    detector = Oracle(truth_in_every_pass([OBJECTS], images))
    (found,) = detect(detector, SCALES, images, flip, height=size[0], width=size[1])
    passes = [(20, 28), (33, 47), (42, 60)]
    seen = [(0, p, m) for p in passes for m in ([False, True] if flip else [False])]
    assert detector.passes == seen
    factors = torch.tensor([size[1] / 47, size[0] / 33] * 2)
    assert torch.allclose(found.pred_boxes.tensor, torch.tensor(OBJECTS) * factors, atol=1e-3)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert found.pred_classes.tolist() == [0, 1, 2, 0]
    assert found.image_size == size


@pytest.mark.parametrize("width", [46, 47])
def test_mirrored_pass_alone(width):
    """The detector finds nothing but in mirrored passes, and there (w - x2, y1, w - x1, y2)."""
    images = [picture(33, width)]
    inner = truth_in_every_pass([OBJECTS[:3]], images)

    def answer(number, index, size):
        return inner(number, index, size) if index == 1 else nothing(number, index, size)

    (found,) = detect(Oracle(answer), [(33, 99)], images, flip=True)
    assert torch.allclose(found.pred_boxes.tensor, torch.tensor(OBJECTS[:3]), atol=1e-4)


def test_everything_meets_in_the_frame_of_the_last_pass():
    """Passes of 20 x 28, 42 x 60 and 33 x 47: NMS sees 3 x 4 boxes of an image of 33 x 47."""
    images = [picture(*SIZE)]
    detector = Oracle(truth_in_every_pass([OBJECTS], images))
    detect(detector, [(20, 99), (50, 60), (33, 99)], images, height=500, width=900)
    (merged,) = detector.suppressed
    assert tuple(merged.image_size) == (33, 47)
    assert torch.allclose(merged.pred_boxes.tensor, torch.tensor(OBJECTS * 3), atol=1e-4)


def test_overlaps_count_in_the_frame_of_the_last_pass():
    """Passes of 10 x 10 and 20 x 20: [0, 0, 10, 10] of the first one becomes [0, 0, 20, 20].

    There [0, 0, 20, 11] has IoU 0.55 > 0.5 with it and goes, [0, 0, 20, 9] has 0.45 and stays.
    """
    passes = [([0.0, 0, 10, 10], 0.9)], [([0.0, 0, 20, 11], 0.8), ([0.0, 0, 20, 9], 0.7)]
    (found,) = detect(Oracle(by_hand(*passes)), [(10, 99), (20, 99)], [picture(10, 10)])
    assert found.pred_boxes.tensor.tolist() == [[0, 0, 10, 10], [0, 0, 10, 4.5]]


def test_nms_is_over_all_passes_at_once():
    """A suppresses B, so B cannot suppress C: A 0-10, B 4-14, C 8-18, all 10 high.

    IoU(A, B) = IoU(B, C) = 6 / 14 = 0.43 > 0.4; IoU(A, C) = 2 / 18. B (0.6) and C (0.5) come from
    the first pass, where B alone would be left; A (0.9) from the second.
    """
    a, b, c = ([left, 0.0, left + 10, 10] for left in (0.0, 4.0, 8.0))
    detector = Oracle(by_hand([(b, 0.6), (c, 0.5)], [(a, 0.9)]), nms_threshold=0.4)
    (found,) = detect(detector, [(20, 99)] * 2, [picture(20, 20)])
    assert found.pred_boxes.tensor.tolist() == [a, c]
    assert len(detector.suppressed) == 1


def test_nms_is_the_detectors_own():
    """The same three boxes with a threshold of 0.43 (6 / 14 = 0.4286): all stay.

    Linear soft NMS at 0.4: A takes 6 / 14 of B's score, then C (0.5 > 0.34) takes it once more.
    """
    a, b, c = ([left, 0.0, left + 10, 10] for left in (0.0, 4.0, 8.0))
    answer = by_hand([(b, 0.6), (c, 0.5)], [(a, 0.9)])
    (found,) = detect(Oracle(answer, nms_threshold=0.43), [(20, 99)] * 2, [picture(20, 20)])
    assert found.pred_boxes.tensor.tolist() == [a, b, c]
    soft = Oracle(answer, nms_threshold=0.4, nms_type="softnms-linear")
    (found,) = detect(soft, [(20, 99)] * 2, [picture(20, 20)])
    assert found.scores.tolist() == pytest.approx([0.9, 0.5, 0.6 * (8 / 14) ** 2])
    assert found.pred_boxes.tensor.tolist() == [a, c, b]


def test_one_cap_over_all_passes():
    """At most 3 of 2 x 3 boxes: the best of both passes, in the order of their scores."""
    first = [([0.0, 0, 9, 9], 0.9), ([10.0, 0, 19, 9], 0.5), ([20.0, 0, 29, 9], 0.4)]
    second = [([0.0, 10, 9, 19], 0.8), ([10.0, 10, 19, 19], 0.7), ([20.0, 10, 29, 19], 0.3)]
    detector = Oracle(by_hand(first, second), max_detections=3)
    (found,) = detect(detector, [(30, 99)] * 2, [picture(30, 30)])
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert found.pred_boxes.tensor.tolist() == [first[0][0], second[0][0], second[1][0]]


def test_the_cap_comes_after_nms():
    """Two near copies of one object, and another: with room for 2, both objects are there."""
    boxes = [([0.0, 0, 10, 10], 0.9), ([0.0, 0, 10, 9], 0.8), ([20.0, 20, 30, 30], 0.1)]
    detector = Oracle(by_hand(boxes), max_detections=2)
    (found,) = detect(detector, [(30, 99)], [picture(30, 30)])
    assert found.scores.tolist() == pytest.approx([0.9, 0.1])


# -- inputs and outputs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({}, (20, 30)),
        ({"height": 40, "width": 90}, (40, 90)),
        ({"height": 40}, (40, 30)),
        ({"width": 15}, (20, 15)),
    ],
)
def test_original_size(sizes, expected):
    """The loaded image's where the input does not say; [3, 4, 12, 16] of 20 x 30 grows with it."""
    images = [picture(20, 30)]
    detector = Oracle(truth_in_every_pass([[[3.0, 4, 12, 16]]], images))
    (found,) = detect(detector, [(40, 99), (10, 99)], images, **sizes)
    assert found.image_size == expected
    x, y = expected[1] / 30, expected[0] / 20
    assert found.pred_boxes.tensor[0].tolist() == pytest.approx([3 * x, 4 * y, 12 * x, 16 * y])


@pytest.mark.parametrize("flip", [False, True])
def test_nothing_found(flip):
    (found,) = detect(Oracle(nothing), SCALES, [picture(*SIZE)], flip, height=9, width=8)
    assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    assert len(found) == 0 and found.pred_boxes.tensor.shape == (0, 4)
    assert found.scores.shape == found.pred_classes.shape == (0,)
    assert found.image_size == (9, 8)


@pytest.mark.parametrize("one", [0, 1, 2])
def test_found_in_one_pass_only(one):
    images = [picture(*SIZE)]
    inner = truth_in_every_pass([OBJECTS], images)

    def answer(number, index, size):
        return inner(number, index, size) if index == one else nothing(number, index, size)

    (found,) = detect(Oracle(answer), SCALES, images)
    assert torch.allclose(found.pred_boxes.tensor, torch.tensor(OBJECTS), atol=1e-4)


def test_batch_of_several():
    """Images of three sizes: each has its own passes and finds its own objects, one has none."""
    images = [picture(33, 47, 0), picture(40, 25, 1), picture(20, 20, 2)]
    truths = [OBJECTS[:2], [], [[2.0, 3, 18, 19]]]
    detector = Oracle(truth_in_every_pass(truths, images))
    results = detect(detector, [(20, 99), (40, 50)], images, flip=True)
    assert [found.image_size for found in results] == [(33, 47), (40, 25), (20, 20)]
    for found, truth in zip(results, truths, strict=True):
        expected = torch.tensor(truth).reshape(-1, 4)
        assert torch.allclose(found.pred_boxes.tensor, expected, atol=1e-3)
    assert [number for number, _, _ in detector.passes] == [0] * 4 + [1] * 4 + [2] * 4


# -- a real detector -------------------------------------------------------------------------------


@functools.cache
def retinanet():
    """A tiny RetinaNet that finds something everywhere."""
    torch.manual_seed(0)
    config = RetinaNetConfig()
    config.merge(
        MODEL={
            "DEVICE": "cpu",
            "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64},
            "FPN": {"OUT_CHANNELS": 16},
            "RETINANET": {"NUM_CLASSES": 3, "NUM_CONVS": 1, "SCORE_THRESH_TEST": 0.0},
        }
    )
    return RetinaNet(config).eval()


def noise(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("size", [(64, 96), (70, 51)], ids=str)
def test_the_loaded_size_alone_is_an_ordinary_test(size):
    inputs = [{"image": noise(*size), "height": 2 * size[0], "width": 3 * size[1]}]
    with torch.no_grad():
        (plain,) = retinanet()(inputs)
    (augmented,) = TestTimeAugmentation(retinanet(), [(min(size), 999)])(inputs)
    plain, augmented = plain["instances"], augmented["instances"]
    assert len(plain) == len(augmented) == 100 and plain.image_size == augmented.image_size
    assert torch.equal(plain.pred_classes, augmented.pred_classes)
    assert torch.allclose(plain.scores, augmented.scores, atol=1e-6)
    boxes = plain.pred_boxes.tensor
    assert torch.allclose(boxes, augmented.pred_boxes.tensor, atol=1e-3)


def test_mirrored_image_has_mirrored_detections():
    """With flip, an image of odd width and its mirror image give the same two passes."""
    image = noise(64, 91)
    model = TestTimeAugmentation(retinanet(), [(64, 999)], flip=True)
    one, other = (out["instances"] for out in model([{"image": image}, {"image": image.flip(2)}]))
    assert len(one) == len(other) == 100
    boxes = one.pred_boxes.tensor
    mirrored = torch.stack([91 - boxes[:, 2], boxes[:, 1], 91 - boxes[:, 0], boxes[:, 3]], 1)
    assert torch.allclose(mirrored, other.pred_boxes.tensor, atol=1e-3)
    assert torch.equal(one.scores, other.scores)
    alone = TestTimeAugmentation(retinanet(), [(64, 999)])([{"image": image}])[0]["instances"]
    assert not torch.equal(alone.scores, one.scores)


def test_bfloat16_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = TestTimeAugmentation(retinanet(), [(64, 999), (80, 999)], flip=True)
        found = model([{"image": noise(64, 91)}])[0]["instances"]
    assert len(found) == 100
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32


def test_attributes_that_the_runner_reads():
    model = TestTimeAugmentation(retinanet(), [(64, 999)])
    assert model.num_classes == 3 and next(model.parameters()).device.type == "cpu"
    assert model.train().detector.training
    assert not any(module.training for module in model.eval().modules())


# -- configuration ---------------------------------------------------------------------------------


def test_scales_of_the_config():
    """Each of MIN_SIZES with MAX_SIZE, then EXTRA_SIZES; the detector's own object is used."""
    config, detector = BaseConfig(), Oracle(nothing)
    values = {"MIN_SIZES": (40, 30), "MAX_SIZE": 70, "EXTRA_SIZES": [[20, 99], (50, 60)]}
    config.merge(TEST={"AUG": {**values, "FLIP": False}})
    model = TestTimeAugmentation.from_config(config, detector)
    assert model.scales == [(40, 70), (30, 70), (20, 99), (50, 60)]
    assert model.flip is False and model.detector is detector
    config.TEST.AUG.FLIP = True
    assert TestTimeAugmentation.from_config(config, detector).flip is True


def test_scales_of_the_command_line():
    config = BaseConfig()
    config.merge_from_list(
        ["TEST.AUG.MIN_SIZES", "()", "TEST.AUG.EXTRA_SIZES", "((20, 99), (50, 60))"]
    )
    model = TestTimeAugmentation.from_config(config, Oracle(nothing))
    assert model.scales == [(20, 99), (50, 60)] and model.flip is True


def test_defaults_of_the_config():
    model = TestTimeAugmentation.from_config(BaseConfig(), Oracle(nothing))
    assert model.scales == [(size, 4000) for size in range(400, 1201, 100)] and model.flip


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("EXTRA_SIZES", [(480,)]),
        ("EXTRA_SIZES", [(480, 800), (640, 1067, 1)]),
        ("EXTRA_SIZES", [()]),
        ("EXTRA_SIZES", (480, 800)),
        ("EXTRA_SIZES", [480]),
        ("EXTRA_SIZES", ["ab"]),
        ("EXTRA_SIZES", [("480", "800")]),
        ("EXTRA_SIZES", [(True, 800)]),
        ("EXTRA_SIZES", [(0, 800)]),
        ("EXTRA_SIZES", [(480, -1)]),
        ("MIN_SIZES", (400, 0)),
        ("MIN_SIZES", ("400",)),
        ("MAX_SIZE", 0),
    ],
)
def test_what_is_no_scale(key, value):
    """Also a pair that somebody forgot to put into a tuple."""
    config = BaseConfig()
    config.TEST.AUG[key] = value
    with pytest.raises(ConfigError, match=r"TEST\.AUG.*MIN_SIZES.*EXTRA_SIZES as pairs.*; got "):
        TestTimeAugmentation.from_config(config, Oracle(nothing))


def test_no_scale_at_all():
    config = BaseConfig()
    config.TEST.AUG.MIN_SIZES = ()
    with pytest.raises(ConfigError, match="no scale: set MIN_SIZES or EXTRA_SIZES"):
        TestTimeAugmentation.from_config(config, Oracle(nothing))


@pytest.mark.parametrize("enabled", [True, False])
def test_wrong_scales_stop_a_run_at_its_start(enabled, tmp_path, monkeypatch):
    """Before anything is written; not where they are not used."""
    config = BaseConfig()
    config.OUTPUT_DIR = str(tmp_path / "output")
    config.TEST.AUG.EXTRA_SIZES = (480, 800)
    config.TEST.AUG.ENABLED = enabled
    if enabled:
        with pytest.raises(ConfigError, match="EXTRA_SIZES as pairs"):
            default_setup(config, None)
        assert list(tmp_path.iterdir()) == []
    else:
        monkeypatch.setattr("cvpods.engine.defaults.setup_logger", lambda *args: None)
        monkeypatch.setattr("cvpods.engine.defaults.seed_all_rng", lambda seed: None)
        default_setup(config, None)
        assert (tmp_path / "output").is_dir()


def test_other_models_are_refused():
    with pytest.raises(ConfigError, match="not with Linear; set TEST.AUG.ENABLED False"):
        TestTimeAugmentation(nn.Linear(1, 1), [(480, 800)])


def test_the_filter_by_scale_is_refused():
    """cvpods has it, this project does not; augmentation itself is no longer refused."""
    config = BaseConfig()
    config.TEST.AUG.ENABLED = True
    refuse_unsupported(config)
    config.TEST.AUG.SCALE_FILTER = True
    with pytest.raises(ConfigError, match="TEST.AUG.SCALE_FILTER True"):
        refuse_unsupported(config)


def test_free_anchors_protocol():
    config = FreeAnchorConfig()
    config.override(FREE_ANCHOR_TTA)
    model = TestTimeAugmentation.from_config(config, Oracle(nothing))
    assert model.scales == SIX and model.flip is False


def test_experiments_with_the_protocol():
    """The two that FreeAnchor's authors tested so; an ordinary test remains the default."""
    folders = sorted(PLAYGROUND.glob("*.ms2"))
    assert [folder.name for folder in folders] == [
        "free_anchor.res101.2x.ms2",
        "free_anchor.resx101_64x4d.2x.ms2",
    ]
    for folder in folders:
        config, _ = load_experiment(folder)
        assert config.TEST.AUG.ENABLED is False
        model = TestTimeAugmentation.from_config(config, Oracle(nothing))
        assert model.scales == SIX and model.flip is False
