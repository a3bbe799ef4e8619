"""TestTimeAugmentation: sizes of the passes, boxes back to the original image, how they merge."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from cvpods.configs import BaseConfig, BaseDetectionConfig, RetinaNetConfig
from cvpods.data import PATH_ROUTES, build_test_loader, register_coco_instances
from cvpods.data.transforms import ResizeShortestEdge
from cvpods.engine.defaults import default_setup, refuse_unsupported
from cvpods.evaluation import COCOEvaluator, inference_on_dataset
from cvpods.modeling.meta_arch import RetinaNet
from cvpods.modeling.meta_arch.dense_detector import DenseDetector
from cvpods.modeling.test_time_augmentation import (
    MERGES,
    ScaleRange,
    TestTimeAugmentation,
    augmentation_arguments,
    groups_of_one_size,
)
from cvpods.structures import Boxes, Instances
from cvpods.tools.experiment import load_experiment
from cvpods.utils.errors import ConfigError
from cvpods_ext.configs.fragments import ATSS_TTA, FREE_ANCHOR_TTA
from cvpods_ext.methods.atss import ATSSConfig
from cvpods_ext.methods.free_anchor import FreeAnchorConfig

PLAYGROUND = Path(__file__).resolve().parents[3] / "playground"
# FreeAnchor's release of 10/2019.
SIX = [(480, 800), (640, 1067), (800, 1333), (960, 1600), (1120, 1867), (1280, 2133)]
# ATSS's 50.7 AP: (short edge, cap of the long edge, low, high), each plain and mirrored.
THIRTEEN = [
    (800, 1333, 0, 1e5),
    (400, 1333, 96, 1e4),
    (500, 1333, 96, 1e4),
    (600, 1333, 64, 1e4),
    (640, 1333, 64, 1e4),
    (700, 1333, 64, 1e4),
    (900, 3000, 0, 1e4),
    (1000, 3000, 0, 1e4),
    (1100, 3000, 0, 256),
    (1200, 3000, 0, 256),
    (1300, 3000, 0, 192),
    (1400, 3000, 0, 192),
    (1800, 3000, 0, 96),
]


class Padding(nn.Module):
    """Backbone without features: it only has the attribute that the detector reads."""

    size_divisibility = 32


class Oracle(DenseDetector):
    """Finds in every pass what `answer` says, in the frame of that pass.

    Images are those of `picture`: the detector reads off them which one it sees and whether it is
    mirrored. It notes the padded size, the true size, how many images it was shown at once, and
    what went through its NMS.

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
        self.padded, self.batches = [], []
        self.suppressed = []

    def predict(self, images):
        assert not torch.is_grad_enabled()
        self.padded.append(tuple(images.tensor.shape[2:]))
        self.batches.append(len(images))
        return {"images": images.tensor}, ["priors"]

    def candidates(self, predictions, priors, image_sizes, per_level):
        assert priors == ["priors"] and per_level == self.topk_candidates
        shown = zip(predictions["images"], image_sizes, strict=True)
        return [self.find(image, tuple(size)) for image, size in shown]

    def find(self, image, size):
        assert not image[:, size[0] :].any() and not image[:, :, size[1] :].any()
        image = image[:, : size[0], : size[1]]
        number = round(image[1, 0, 0].item())
        mirrored = bool(image[0, 0, 0] > image[0, 0, -1])
        assert abs(image[0, -1, 0] - image[0, 0, 0]) < 0.1  # never upside down
        boxes, scores, classes = self.answer(
            number, sum(number == n for n, _, _ in self.passes), size
        )
        self.passes.append((number, size, mirrored))
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        if mirrored:
            boxes = torch.stack(
                [size[1] - boxes[:, 2], boxes[:, 1], size[1] - boxes[:, 0], boxes[:, 3]], 1
            )
        return Instances(
            size,
            pred_boxes=Boxes(boxes),
            scores=torch.tensor(scores, dtype=torch.float32).reshape(-1),
            pred_classes=torch.tensor(classes, dtype=torch.int64).reshape(-1),
        )

    def suppress(self, candidates):
        self.suppressed.append(candidates)
        return super().suppress(candidates)


class Camera(Oracle):
    """Keeps the images that it is shown, without their padding, and finds nothing."""

    def __init__(self):
        super().__init__(nothing)
        self.shown = []

    def find(self, image, size):
        assert not image[:, size[0] :].any() and not image[:, :, size[1] :].any()
        self.shown.append(image[:, : size[0], : size[1]])
        return Instances(
            size,
            pred_boxes=Boxes(torch.zeros(0, 4)),
            scores=torch.zeros(0),
            pred_classes=torch.zeros(0, dtype=torch.int64),
        )


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


def augmented(detector, scales, images, **options):
    model = TestTimeAugmentation(detector, scales, **options).eval()
    return [out["instances"] for out in model(images)]


def detect(detector, scales, images, flip=False, **sizes):
    """Detect with one NMS over all passes; `sizes` are those of the original image."""
    return augmented(detector, scales, [{"image": image, **sizes} for image in images], flip=flip)


def merged(merge, detector, scales, size=(20, 20), **options):
    """Return the merged detections of one picture."""
    images = [{"image": picture(*size)}]
    (found,) = augmented(detector, scales, images, merge=merge, **options)
    return found


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
    detector = Camera()
    image = torch.zeros(3, 4, 4)
    image[0] = torch.tensor([0.0, 10, 20, 30])
    detect(detector, [(7, 99)], [image])
    assert torch.allclose(detector.shown[0][0], torch.arange(0.0, 31, 5).expand(7, 7), atol=1e-4)


@pytest.mark.parametrize("from_original", [False, True])
def test_images_are_normalised_once(from_original):
    """(pixel - 5) / 2; the padding is 0 after it."""
    detector = Camera()
    detector.pixel_mean.fill_(5.0)
    detector.pixel_std.fill_(2.0)
    image = torch.full((3, 32, 32), 5, dtype=torch.uint8)
    image[0] = 9
    image[2] = 25
    scales, images = [(32, 32), (40, 40)], [{"image": image}]
    augmented(detector, scales, images, from_original=from_original)
    assert detector.padded == [(32, 32), (64, 64)]
    assert [tuple(shown.shape) for shown in detector.shown] == [(3, 32, 32), (3, 40, 40)]
    for shown in detector.shown:
        values = shown.flatten(1)
        assert torch.allclose(values, torch.tensor([[2.0], [0], [10]]).expand_as(values))


@pytest.mark.parametrize("size", [(37, 53), (60, 41), (48, 48)], ids=str)
@pytest.mark.parametrize("scale", [(48, 999), (30, 40), (90, 100), (480, 700)], ids=str)
@pytest.mark.parametrize("layout", ["planes", "pixels"])
def test_from_original_resizes_as_an_ordinary_test(layout, scale, size):
    """The bytes of the original image go through the same kernel, to the last bit, and the result
    is rounded to bytes again; also smaller, larger, and where the size is what it was.

    Images come as planes of channels, or as read: a view of pixels with three values each.
    """
    image = noise(*size)
    if layout == "pixels":
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    resize = ResizeShortestEdge(*scale, sample_style="choice")
    pixels, _ = resize(image.permute(1, 2, 0).contiguous().numpy(), [])
    detector = Camera()
    augmented(detector, [scale], [{"image": image}], from_original=True, flip=True)
    expected = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float()
    plain, mirrored = detector.shown
    assert torch.equal(plain, expected) and torch.equal(mirrored, expected.flip(2))


def test_of_the_loaded_size_is_resampled_otherwise():
    """FROM_ORIGINAL False resamples the same image to values between bytes, other pixels."""
    detector = Camera()
    for from_original in (True, False):
        images = [{"image": noise(37, 53)}]
        augmented(detector, [(30, 99)], images, from_original=from_original)
    original, loaded = detector.shown
    assert original.shape == loaded.shape == (3, 30, 43)
    assert (original - loaded).abs().max() > 10
    assert torch.equal(original, original.round()) and not torch.equal(loaded, loaded.round())


# -- boxes -----------------------------------------------------------------------------------------

# Of a 33 x 47 image; no two alike under mirroring.
OBJECTS = [[3.0, 4, 17, 20], [20.5, 2.25, 45, 31], [0, 25, 9, 33], [40, 0, 47, 6]]
SIZE = (33, 47)
# Smaller, the same, and larger with a cap: 20 x 28, 33 x 47, 42 x 60.
SCALES = [(20, 99), (33, 99), (50, 60)]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [SIZE, (66, 141), (20, 20)], ids=str)
def test_truth_in_every_pass_gives_the_truth(flip, size, merge):
    """Whatever the passes' rounded sizes, in the original image each object is there once.

    Widths 28, 47 and 60 of the passes: odd and even ones are mirrored. The scores are those of the
    first pass, the highest ones.
    """
    images = [picture(*SIZE)]
    detector = Oracle(truth_in_every_pass([OBJECTS], images))
    inputs = [{"image": images[0], "height": size[0], "width": size[1]}]
    (found,) = augmented(detector, SCALES, inputs, flip=flip, merge=merge)
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


def test_everything_meets_in_the_original_image():
    """Passes of 20 x 28, 42 x 60 and 33 x 47: NMS sees 3 x 4 boxes of an image of 66 x 141."""
    images = [picture(*SIZE)]
    detector = Oracle(truth_in_every_pass([OBJECTS], images))
    detect(detector, [(20, 99), (50, 60), (33, 99)], images, height=66, width=141)
    (together,) = detector.suppressed
    assert tuple(together.image_size) == (66, 141)
    expected = torch.tensor(OBJECTS * 3) * torch.tensor([3.0, 2, 3, 2])
    assert torch.allclose(together.pred_boxes.tensor, expected, atol=1e-3)


@pytest.mark.parametrize("sizes", [{}, {"height": 70, "width": 30}], ids=str)
def test_overlaps_are_the_same_in_any_frame(sizes):
    """Passes of 10 x 10 and 20 x 20: [0, 0, 10, 10] of the first is [0, 0, 20, 20] of the other.

    There [0, 0, 20, 11] has IoU 0.55 > 0.5 with it and goes, [0, 0, 20, 9] has 0.45 and stays.
    """
    passes = [([0.0, 0, 10, 10], 0.9)], [([0.0, 0, 20, 11], 0.8), ([0.0, 0, 20, 9], 0.7)]
    detector = Oracle(by_hand(*passes))
    (found,) = detect(detector, [(10, 99), (20, 99)], [picture(10, 10)], **sizes)
    height, width = sizes.get("height", 10), sizes.get("width", 10)
    boxes = found.pred_boxes.tensor.tolist()
    assert boxes == [[0, 0, width, height], [0, 0, width, pytest.approx(0.45 * height)]]


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


def test_own_cap_on_the_result():
    """The detector's cap of 3, or what max_detections says instead: 2, or 5 of 2 x 3 boxes."""
    rows = [[([10.0 * i, y, 10.0 * i + 9, y + 9], 0.9 - i / 10) for i in range(3)] for y in (0, 15)]
    for cap, count in ((None, 3), (2, 2), (5, 5)):
        detector = Oracle(by_hand(*rows), max_detections=3)
        for merge in ("nms", "vote"):
            detector.passes.clear()
            found = merged(merge, detector, [(30, 99)] * 2, (30, 30), max_detections=cap)
            assert len(found) == count, (cap, merge)
            assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


# -- merging ---------------------------------------------------------------------------------------


def test_three_ways_to_merge():
    """One class, a threshold of 0.66, boxes 10 wide at (0, 0); NMS of the detector at 0.5.

    First pass: heights 10 (0.8) and 9 (0.7); second pass: height 8 (0.4).
    nms: the best suppresses both.
    vote: the first pass's own NMS leaves 10; with 8 (IoU 0.8) the mean height is
    (0.8 * 10 + 0.4 * 8) / 1.2 = 9.3333, score 0.8.
    soft-vote: the second box also stays, with 0.4 * (1 - 0.8) = 0.08.
    """
    first = [([0.0, 0, 10, 10], 0.8), ([0.0, 0, 10, 9], 0.7)]
    second = [([0.0, 0, 10, 8], 0.4)]
    expected = {
        "nms": ([10], [0.8], [3]),
        "vote": ([9.3333], [0.8], [2, 1]),
        "soft-vote": ([9.3333, 8], [0.8, 0.08], [2, 1]),
    }
    for merge, (heights, scores, through_nms) in expected.items():
        detector = Oracle(by_hand(first, second))
        found = merged(merge, detector, [(20, 99)] * 2, vote_threshold=0.66)
        boxes = found.pred_boxes.tensor
        assert boxes[:, 3].tolist() == pytest.approx(heights, abs=1e-3), merge
        assert torch.equal(boxes[:, :3], torch.tensor([[0.0, 0, 10]] * len(heights)))
        assert found.scores.tolist() == pytest.approx(scores, abs=1e-5), merge
        assert [len(part) for part in detector.suppressed] == through_nms, merge


@pytest.mark.parametrize(("threshold", "count"), [(0.79, 1), (0.81, 2)])
def test_threshold_of_the_vote(threshold, count):
    """Heights 10 and 8 of two passes, IoU 0.8: one cluster, or two."""
    passes = [([0.0, 0, 10, 10], 0.8)], [([0.0, 0, 10, 8], 0.4)]
    detector = Oracle(by_hand(*passes), nms_threshold=0.9)
    found = merged("vote", detector, [(20, 99)] * 2, vote_threshold=threshold)
    assert len(found) == count


def test_votes_are_class_by_class():
    """The same box as class 0 in one pass and as class 2 in the other: two detections."""

    def answer(number, index, size):
        return [[0.0, 0, 10, 10]], [0.9 - 0.1 * index], [2 * index]

    found = merged("soft-vote", Oracle(answer), [(20, 99)] * 2)
    assert found.pred_classes.tolist() == [0, 2]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


@pytest.mark.parametrize("merge", ["vote", "soft-vote"])
def test_each_pass_has_its_own_cap_where_boxes_vote(merge):
    """A pass keeps at most 2 of its 3 boxes, although 10 may stay in the end: 4 of two passes."""
    passes = [
        [([10.0 * i, y, 10.0 * i + 9, y + 9], 0.9 - i / 10) for i in range(3)] for y in (0, 15)
    ]
    detector = Oracle(by_hand(*passes), max_detections=2)
    found = merged(merge, detector, [(30, 99)] * 2, (30, 30), max_detections=10)
    assert found.scores.tolist() == pytest.approx([0.9, 0.9, 0.8, 0.8])
    assert found.pred_boxes.tensor[:, 0].tolist() == [0, 0, 10, 10]


# -- sizes that a pass may find --------------------------------------------------------------------


def square(side, left=0.0):
    return [left, 0.0, left + side, float(side)]


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("flip", [False, True])
def test_range_of_sizes(merge, flip):
    """Between 10 and 20 pixels by sqrt(area), both ends excluded.

    Squares of 10 and 20 are at the ends and go, of 10.25 and 19.75 stay. 8 x 15 has area 120, root
    10.95, and stays though its short side is below 10; 21 x 19 has 399, root 19.97, and stays;
    4 x 25 has 100, root 10, and goes.
    """
    inside = [square(10.25), square(19.75, 30), [60, 0, 68, 15], [90, 0, 111, 19]]
    outside = [square(10, 120), square(20, 150), [180, 0, 184, 25]]
    boxes = [(box, 0.9 - 0.1 * i) for i, box in enumerate(inside + outside)]
    detector = Oracle(by_hand(boxes, boxes))
    found = merged(merge, detector, [(30, 999, 10, 20)], (30, 200), flip=flip)
    assert torch.allclose(found.pred_boxes.tensor, torch.tensor(inside), atol=1e-4)


def test_ranges_are_in_pixels_of_the_pass():
    """An image of 20 x 40 in passes of 40 x 80 (over 10 pixels) and 10 x 20 (under 4 pixels).

    Squares of 6 are 12 in the first one: stay; of 4 are 8: go. In the second one squares of 6 are
    3: stay; of 10 are 5: go. So of squares of 4, 6 and 10 in the original, the first pass leaves
    6 and 10 and the second one 4 and 6.
    """
    images = [picture(20, 40)]
    sides = [4.0, 6.0, 10.0]
    truth = [square(side, 13.0 * i) for i, side in enumerate(sides)]
    for scales, expected in (
        ([(40, 99, 10, math.inf)], [6, 10]),
        ([(10, 99, 0, 4)], [4, 6]),
        ([(40, 99, 10, math.inf), (10, 99, 0, 4)], [4, 6, 10]),
    ):
        detector = Oracle(truth_in_every_pass([truth], images))
        (found,) = detect(detector, scales, images)
        assert sorted(found.pred_boxes.tensor[:, 3].tolist()) == pytest.approx(expected)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("clip_before_nms", [True, False])
def test_ranges_are_of_boxes_within_the_image(clip_before_nms, merge):
    """A square of 30 at (12, 0) in an image of 20 x 20: 8 x 20 = 160 pixels are in it, not 900."""
    for high, count in ((13, 1), (12, 0)):
        detector = Oracle(by_hand([(square(30, 12.0), 0.9)]))
        detector.clip_before_nms = clip_before_nms
        found = merged(merge, detector, [(20, 99, 0, high)])
        assert found.pred_boxes.tensor.tolist() == [[12, 0, 20, 20]] * count


def test_ranges_before_and_after_nms():
    """Out of range A (side 20, 0.9), in range B (side 18, 0.8): IoU 324 / 400 = 0.81 > 0.5.

    nms: candidates are filtered before they meet, so B stays. Votes: A suppresses B in the pass,
    and goes then, as in ATSS's release.
    """
    boxes = [(square(20), 0.9), (square(18), 0.8)]
    for merge, expected in (("nms", [square(18)]), ("vote", []), ("soft-vote", [])):
        found = merged(merge, Oracle(by_hand(boxes)), [(20, 99, 0, 19)])
        assert found.pred_boxes.tensor.tolist() == expected


def test_cap_of_a_pass_comes_before_its_range():
    """One box a pass: the best is out of range, so nothing is left, as in ATSS's release."""
    boxes = [(square(5), 0.9), (square(12, 8.0), 0.8)]
    for cap, count in ((1, 0), (2, 1)):
        detector = Oracle(by_hand(boxes), max_detections=cap)
        found = merged("soft-vote", detector, [(20, 99, 10, 99)], max_detections=9)
        assert len(found) == count


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
    """Images of three sizes: each has its own passes and finds its own objects, one has none.

    At a time one scale of all images, plain and mirrored.
    """
    images = [picture(33, 47, 0), picture(40, 25, 1), picture(20, 20, 2)]
    truths = [OBJECTS[:2], [], [[2.0, 3, 18, 19]]]
    detector = Oracle(truth_in_every_pass(truths, images))
    results = detect(detector, [(20, 99), (40, 50)], images, flip=True)
    assert [found.image_size for found in results] == [(33, 47), (40, 25), (20, 20)]
    for found, truth in zip(results, truths, strict=True):
        expected = torch.tensor(truth).reshape(-1, 4)
        assert torch.allclose(found.pred_boxes.tensor, expected, atol=1e-3)
    assert [number for number, _, _ in detector.passes] == [0, 0, 1, 1, 2, 2] * 2


def test_groups_of_one_size():
    """Groups appear in the order of their first image; a turned image has another size."""
    images = [torch.zeros(3, *size) for size in ((4, 5), (5, 4), (4, 5), (4, 4), (5, 4))]
    assert groups_of_one_size(images) == [[0, 2], [1, 4], [3]]
    assert groups_of_one_size([]) == []


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("from_original", [False, True])
def test_images_of_one_size_share_a_pass(from_original, merge):
    """Five images of 20 x 30 (0, 2, 4), 30 x 20 (1) and 40 x 60 (3), to short edges 20 and 40.

    At 20, the images 0, 2, 3 and 4 are all 20 x 30, at 40 all 40 x 60: batches of 4 and 1, plain
    and mirrored. Each image gets its own objects, in its own size, in the order of the input.
    """
    sizes = [(20, 30), (30, 20), (20, 30), (40, 60), (20, 30)]
    images = [picture(*size, number) for number, size in enumerate(sizes)]
    truths = [[[1.0 + n, 2, 12, 15 + n / 2], [15.0, n, 19, 18]] for n in range(5)]
    truths[2] = []
    detector = Oracle(truth_in_every_pass(truths, images))
    inputs = [
        {"image": image, "height": 3 * height, "width": 3 * width}
        for image, (height, width) in zip(images, sizes, strict=True)
    ]
    options = {"flip": True, "from_original": from_original, "merge": merge}
    results = augmented(detector, [(20, 99), (40, 99)], inputs, **options)
    assert detector.batches == [4, 4, 1, 1] * 2
    assert detector.passes[:8] == [
        *((number, (20, 30), mirrored) for mirrored in (False, True) for number in (0, 2, 3, 4)),
    ]
    for found, truth, (height, width) in zip(results, truths, sizes, strict=True):
        assert found.image_size == (3 * height, 3 * width)
        expected = 3 * torch.tensor(truth).reshape(-1, 4)
        assert torch.allclose(found.pred_boxes.tensor, expected, atol=1e-3)


def test_no_images():
    assert augmented(Oracle(nothing), SCALES, []) == []


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


def assert_same(found, expected):
    """Check that numbers, scores, classes and boxes of detections agree, up to rounding."""
    assert len(found) == len(expected) > 0 and found.image_size == expected.image_size
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    assert torch.allclose(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-2)


@pytest.mark.parametrize("size", [(64, 96), (70, 51)], ids=str)
def test_the_loaded_size_alone_is_an_ordinary_test(size):
    inputs = [{"image": noise(*size), "height": 2 * size[0], "width": 3 * size[1]}]
    with torch.no_grad():
        (plain,) = retinanet()(inputs)
    (found,) = augmented(retinanet(), [(min(size), 999)], inputs)
    assert len(found) == 100
    assert_same(found, plain["instances"])


@pytest.mark.parametrize("size", [(64, 96), (70, 51)], ids=str)
def test_one_scale_of_the_original_is_an_ordinary_test_of_it(size):
    """The image as read, 48 pixels high or wide in the pass; an ordinary test gets it resized."""
    pixels = noise(*size).permute(1, 2, 0).contiguous()
    resized, _ = ResizeShortestEdge(48, 999, sample_style="choice")(pixels.numpy(), [])
    sizes = {"height": size[0], "width": size[1]}
    with torch.no_grad():
        (plain,) = retinanet()([{"image": torch.from_numpy(resized).permute(2, 0, 1), **sizes}])
    inputs = [{"image": pixels.permute(2, 0, 1)}]
    (found,) = augmented(retinanet(), [(48, 999)], inputs, from_original=True)
    assert_same(found, plain["instances"])


@pytest.mark.parametrize(
    ("from_original", "merge"), [(False, "nms"), (True, "vote"), (True, "soft-vote")]
)
def test_company_changes_no_result(from_original, merge):
    """Four images of two sizes at once, or one by one; the same up to rounding."""
    sizes = [(48, 64), (52, 40), (48, 64), (48, 64)]
    inputs = [{"image": noise(*size, seed)} for seed, size in enumerate(sizes)]
    scales = [(48, 999), (40, 60, 20, 60)]
    options = {"flip": True, "from_original": from_original, "merge": merge}
    results = augmented(retinanet(), scales, inputs, **options)
    assert len(results) == 4
    for one, found in zip(inputs, results, strict=True):
        (alone,) = augmented(retinanet(), scales, [one], **options)
        assert_same(found, alone)
    assert not torch.allclose(results[0].scores, results[2].scores, atol=1e-4)


def test_mirrored_image_has_mirrored_detections():
    """With flip, an image of odd width and its mirror image give the same two passes."""
    image = noise(64, 91)
    inputs = [{"image": image}, {"image": image.flip(2)}]
    one, other = augmented(retinanet(), [(64, 999)], inputs, flip=True)
    assert len(one) == len(other) == 100
    boxes = one.pred_boxes.tensor
    mirrored = torch.stack([91 - boxes[:, 2], boxes[:, 1], 91 - boxes[:, 0], boxes[:, 3]], 1)
    assert torch.allclose(mirrored, other.pred_boxes.tensor, atol=1e-3)
    assert torch.allclose(one.scores, other.scores, atol=1e-6)
    (alone,) = augmented(retinanet(), [(64, 999)], inputs[:1])
    assert not torch.equal(alone.scores, one.scores)


@pytest.mark.parametrize("merge", ["nms", "soft-vote"])
def test_bfloat16_autocast(merge):
    scales, images = [(64, 999), (80, 999)], [{"image": noise(64, 91)}]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = augmented(retinanet(), scales, images, flip=True, merge=merge)
    assert len(found) == 100
    assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32


def test_attributes_that_the_runner_reads():
    model = TestTimeAugmentation(retinanet(), [(64, 999)])
    assert model.num_classes == 3 and next(model.parameters()).device.type == "cpu"
    assert model.train().detector.training
    assert not any(module.training for module in model.eval().modules())


# -- configuration ---------------------------------------------------------------------------------


def test_scales_of_the_config():
    """Each of MIN_SIZES with MAX_SIZE, then EXTRA_SIZES; the detector's own object is used.

    Without SCALE_FILTER every size is kept, whatever SCALE_RANGES says.
    """
    config, detector = BaseConfig(), Oracle(nothing)
    values = {"MIN_SIZES": (40, 30), "MAX_SIZE": 70, "EXTRA_SIZES": [[20, 99], (50, 60)]}
    values["SCALE_RANGES"] = ((1, 2),)
    config.merge(TEST={"AUG": {**values, "FLIP": False}})
    model = TestTimeAugmentation.from_config(config, detector)
    pairs = [(40, 70), (30, 70), (20, 99), (50, 60)]
    assert model.scales == [(*pair, 0, math.inf) for pair in pairs]
    assert model.flip is False and model.detector is detector
    config.TEST.AUG.FLIP = True
    assert TestTimeAugmentation.from_config(config, detector).flip is True


def test_scales_of_the_command_line():
    config = BaseConfig()
    config.merge_from_list(
        ["TEST.AUG.MIN_SIZES", "()", "TEST.AUG.EXTRA_SIZES", "((20, 99), (50, 60))"]
    )
    model = TestTimeAugmentation.from_config(config, Oracle(nothing))
    assert model.scales == [ScaleRange(20, 99), ScaleRange(50, 60)] and model.flip is True


def test_defaults_of_the_config():
    """The defaults are those of cvpods: 9 scales, mirrored, soft voting from IoU 0.65, no cap."""
    model = TestTimeAugmentation.from_config(BaseConfig(), Oracle(nothing, max_detections=7))
    assert model.scales == [ScaleRange(size, 4000) for size in range(400, 1201, 100)] and model.flip
    assert model.merge == "soft-vote" and model.vote_threshold == 0.65
    assert model.from_original is False and model.max_detections == 7


def test_arguments_of_the_config():
    """All of TEST.AUG that is an argument; ranges are those of MIN_SIZES first."""
    config = BaseConfig()
    config.merge_from_list(
        [
            *("TEST.AUG.MIN_SIZES", "(40,)", "TEST.AUG.MAX_SIZE", "70"),
            *("TEST.AUG.EXTRA_SIZES", "((20, 99),)", "TEST.AUG.FLIP", "False"),
            *("TEST.AUG.SCALE_FILTER", "True", "TEST.AUG.SCALE_RANGES", "((0, 8.5), [3, 1e5])"),
            *("TEST.AUG.FROM_ORIGINAL", "True", "TEST.AUG.MERGE", "vote"),
            *("TEST.AUG.VOTE_THRESH", "0.5", "TEST.AUG.DETECTIONS_PER_IMAGE", "12"),
        ]
    )
    assert augmentation_arguments(config) == {
        "scales": [ScaleRange(40, 70, 0, 8.5), ScaleRange(20, 99, 3, 1e5)],
        "flip": False,
        "from_original": True,
        "merge": "vote",
        "vote_threshold": 0.5,
        "max_detections": 12,
    }
    model = TestTimeAugmentation.from_config(config, Oracle(nothing))
    for name, value in augmentation_arguments(config).items():
        assert getattr(model, name) == value, name


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
    """Values that are not a pair are refused, also a pair that is not inside a tuple."""
    config = BaseConfig()
    config.TEST.AUG[key] = value
    with pytest.raises(ConfigError, match=r"TEST\.AUG.*MIN_SIZES.*EXTRA_SIZES as pairs.*; got "):
        TestTimeAugmentation.from_config(config, Oracle(nothing))


def test_no_scale_at_all():
    config = BaseConfig()
    config.TEST.AUG.MIN_SIZES = ()
    with pytest.raises(ConfigError, match="no scale: set MIN_SIZES or EXTRA_SIZES"):
        TestTimeAugmentation.from_config(config, Oracle(nothing))


@pytest.mark.parametrize(
    "ranges",
    [
        (),
        ((0, 10),),
        ((0, 10), (0, 10), (0, 10)),
        ((0, 10), (10, 10)),
        ((0, 10), (20, 10)),
        ((0, 10), (-1, 10)),
        ((0, 10), (0, 10, 20)),
        ((0, 10), (5,)),
        ((0, 10), 5),
        ((0, 10), ("0", "10")),
        ((0, 10), (False, True)),
        ((0, 10), (0, math.nan)),
    ],
    ids=str,
)
def test_what_is_no_range(ranges):
    """Two scales; a range is needed for each, low below high, not below 0."""
    config = BaseConfig()
    config.TEST.AUG.update(MIN_SIZES=(40, 30), SCALE_FILTER=True, SCALE_RANGES=ranges)
    with pytest.raises(
        ConfigError, match="SCALE_RANGES with a pair .* each of the 2 scales.*; got"
    ):
        augmentation_arguments(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MERGE", "soft_vote", r"TEST\.AUG\.MERGE must be one of .*'soft-vote'.* got 'soft_vote'"),
        ("MERGE", "", "got ''"),
        ("VOTE_THRESH", 0.0, r"TEST\.AUG\.VOTE_THRESH must lie in \(0, 1\]; got 0.0"),
        ("VOTE_THRESH", -0.5, "got -0.5"),
        ("VOTE_THRESH", 1.01, "got 1.01"),
        ("VOTE_THRESH", math.nan, "got nan"),
        ("VOTE_THRESH", "0.5", "got '0.5'"),
        ("VOTE_THRESH", True, "got True"),
        ("DETECTIONS_PER_IMAGE", 0, "DETECTIONS_PER_IMAGE must be None or an integer .* got 0"),
        ("DETECTIONS_PER_IMAGE", -1, "got -1"),
        ("DETECTIONS_PER_IMAGE", 2.5, "got 2.5"),
        ("DETECTIONS_PER_IMAGE", True, "got True"),
    ],
)
def test_what_cannot_be_merged_by(key, value, message):
    config = BaseConfig()
    config.TEST.AUG[key] = value
    with pytest.raises(ConfigError, match=message):
        augmentation_arguments(config)


@pytest.mark.parametrize("threshold", [1e-3, 1.0])
def test_ends_of_the_threshold(threshold):
    config = BaseConfig()
    config.TEST.AUG.VOTE_THRESH = threshold
    assert augmentation_arguments(config)["vote_threshold"] == threshold


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


def test_no_key_of_augmentation_is_refused():
    """Neither augmentation nor cvpods' filter by scale."""
    config = BaseConfig()
    config.TEST.AUG.update(ENABLED=True, SCALE_FILTER=True)
    refuse_unsupported(config)


def test_free_anchors_protocol():
    config = FreeAnchorConfig()
    config.override(FREE_ANCHOR_TTA)
    assert augmentation_arguments(config) == {
        "scales": [ScaleRange(*pair) for pair in SIX],
        "flip": False,
        "from_original": False,
        "merge": "nms",
        "vote_threshold": 0.65,
        "max_detections": None,
    }


def test_atss_protocol():
    config = ATSSConfig()
    config.override(ATSS_TTA)
    assert augmentation_arguments(config) == {
        "scales": [ScaleRange(*numbers) for numbers in THIRTEEN],
        "flip": True,
        "from_original": True,
        "merge": "soft-vote",
        "vote_threshold": 0.66,
        "max_detections": 1000,
    }
    # Of each pass, and of what is evaluated.
    assert config.TEST.DETECTIONS_PER_IMAGE == 100 and config.TEST.AUG.ENABLED is False
    assert config.MODEL.ATSS.NMS_THRESH_TEST == 0.6


def test_experiments_with_a_protocol():
    """Those that their authors tested so; an ordinary test remains the default."""
    expected = {
        "atss.dcnv2.resx101_32x8d.2x": [ScaleRange(*numbers) for numbers in THIRTEEN],
        "atss.dcnv2.resx101_64x4d.2x": [ScaleRange(*numbers) for numbers in THIRTEEN],
        "free_anchor.res101.2x.ms2": [ScaleRange(*pair) for pair in SIX],
        "free_anchor.resx101_64x4d.2x.ms2": [ScaleRange(*pair) for pair in SIX],
    }
    named = [
        path.parent.name for path in PLAYGROUND.glob("*/config.py") if "_TTA" in path.read_text()
    ]
    assert sorted(named) == sorted(expected)
    for name, scales in expected.items():
        config, _ = load_experiment(PLAYGROUND / name)
        assert config.TEST.AUG.ENABLED is False
        arguments = augmentation_arguments(config)
        assert arguments["scales"] == scales
        assert arguments["merge"] == ("soft-vote" if name.startswith("atss") else "nms")


# -- from files to AP ------------------------------------------------------------------------------

# (height, width) of four images, and their objects (x1, y1, x2, y2), from 1.5 pixels long to nearly
# all of the image; object i of image n is of class (n + i) % 3. Long ones cost less when enlarged.
PHOTOS = [(40, 60), (91, 13), (12, 101), (12, 101)]
PHOTO_OBJECTS = [
    [[1.0, 2, 4, 5.5], [8.25, 3, 33, 38.5], [30, 10.5, 59, 39], [50, 1, 52, 3], [4, 20, 14, 29]],
    [[0.0, 0, 13, 91], [2.5, 30, 8, 41], [5, 3.75, 12, 12], [4, 60, 6.5, 62]],
    [[3.0, 2, 97.5, 11], [60, 1, 66, 7], [90, 3, 92, 11], [10, 0, 30, 10]],
    [[33.0, 5, 58, 12], [0, 1, 60, 12], [12, 5, 13.5, 8]],
]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A config whose test data are PHOTOS: as `picture`, once as read; classes with ids 2, 4, 6."""
    images, annotations = [], []
    for number, (height, width) in enumerate(PHOTOS):
        pixels = picture(height, width, number).permute(1, 2, 0).numpy().round().astype(np.uint8)
        Image.fromarray(pixels[..., ::-1]).save(tmp_path / f"{number}.png")
        size = {"height": height, "width": width}
        images.append({"id": 10 + number, "file_name": f"{number}.png", **size})
        for i, (x1, y1, x2, y2) in enumerate(PHOTO_OBJECTS[number]):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + number,
                    "category_id": 2 + 2 * ((number + i) % 3),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    categories = [{"id": id_, "name": str(id_)} for id_ in (2, 4, 6)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "photos.json").write_text(json.dumps(content))
    monkeypatch.setattr(PATH_ROUTES, "_objects", dict(PATH_ROUTES._objects))
    register_coco_instances("photos", tmp_path / "photos.json", tmp_path)
    config = BaseDetectionConfig()
    config.MODEL.DEVICE = "cpu"
    config.DATASETS.TEST = ("photos",)
    config.DATALOADER.NUM_WORKERS = 0
    config.INPUT.AUG.TEST_PIPELINES = [("ResizeShortestEdge", {"short_edge_length": 12})]
    return config


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("from_original", [False, True])
def test_what_the_loader_gives(photos, enabled, from_original):
    """Original bytes where both keys say so, otherwise 12 pixels short.

    40 x 60 becomes 12 x 18, and 91 x 13 becomes 84 x 12.
    """
    photos.TEST.AUG.update(ENABLED=enabled, FROM_ORIGINAL=from_original)
    batches = list(build_test_loader(photos, "photos"))
    assert [len(batch) for batch in batches] == [1] * 4
    samples = [batch[0] for batch in batches]
    small = [(12, 18), (84, 12), (12, 101), (12, 101)]
    expected = PHOTOS if enabled and from_original else small
    assert [tuple(sample["image"].shape[1:]) for sample in samples] == expected
    assert [(sample["height"], sample["width"]) for sample in samples] == PHOTOS
    for number, sample in enumerate(samples):
        assert sample["image"].dtype == torch.uint8 and sample["image_id"] == 10 + number
        if expected is PHOTOS:
            original = picture(*PHOTOS[number], number).round().to(torch.uint8)
            assert torch.equal(sample["image"], original)


@pytest.mark.parametrize("enabled", [False, True])
def test_several_images_at_once(photos, enabled):
    """The last two have one size and share a batch; the others stay alone."""
    photos.TEST.IMS_PER_DEVICE = 3
    photos.TEST.AUG.update(ENABLED=enabled, FROM_ORIGINAL=enabled)
    batches = list(build_test_loader(photos, "photos"))
    ids = [[sample["image_id"] for sample in batch] for batch in batches]
    assert ids == [[10], [11], [12, 13]]


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_image_at_once(photos, count):
    photos.TEST.IMS_PER_DEVICE = count
    with pytest.raises(ConfigError, match=rf"TEST.IMS_PER_DEVICE must be at least 1; got {count}"):
        build_test_loader(photos, "photos")


def truth_within_the_ranges(number, index, size):
    """Of `PHOTO_OBJECTS`, in the order of ATSS's passes: the truth where the pass may find it.

    An object out of the pass's range is found a third of its size beside its place, with a better
    score than any true one.
    """
    _, _, low, high = THIRTEEN[index // 2]
    height, width = PHOTOS[number]
    boxes, scores, classes = [], [], []
    for i, (x1, y1, x2, y2) in enumerate(PHOTO_OBJECTS[number]):
        x1, x2 = x1 * size[1] / width, x2 * size[1] / width
        y1, y2 = y1 * size[0] / height, y2 * size[0] / height
        wrong = not low < math.sqrt((x2 - x1) * (y2 - y1)) < high
        x, y = (wrong * (x2 - x1) / 3, wrong * (y2 - y1) / 3)
        boxes.append([x1 + x, y1 + y, x2 + x, y2 + y])
        scores.append(0.99 if wrong else 0.6 + 0.01 * index)
        classes.append((number + i) % 3)
    return boxes, scores, classes


def average_precision(config, detector):
    model = TestTimeAugmentation.from_config(config, detector).eval()
    loader = build_test_loader(config, "photos")
    ground_truth = loader.dataset.datasets[0].coco_ground_truth()
    evaluator = COCOEvaluator("photos", loader.dataset.meta, config, ground_truth=ground_truth)
    return inference_on_dataset(model, loader, evaluator)["bbox"]["AP"], evaluator._detections


def test_truth_through_all_passes_of_atss(photos):
    """A detector that finds the truth has AP 100 after 26 passes, and finds each object once.

    Image 0, 40 x 60: 13 scales from 800 x 1200 on, plain and mirrored. Of image 1, 91 x 13, the
    long edge binds: 13 * 1333 / 91 = 190.4, 13 * 3000 / 91 = 428.6; of images 2 and 3, 12 x 101,
    also: 12 * 1333 / 101 = 158.4, 12 * 3000 / 101 = 356.4. These two share passes.
    """
    photos.override({**ATSS_TTA, "TEST.AUG.ENABLED": True, "TEST.IMS_PER_DEVICE": 4})
    detector = Oracle(truth_within_the_ranges, nms_threshold=0.6)
    precision, found = average_precision(photos, detector)
    assert precision == pytest.approx(100)
    assert len(found) == sum(len(objects) for objects in PHOTO_OBJECTS)
    edges = [800, 400, 500, 600, 640, 700, 900, 1000, 1100, 1200, 1300, 1400, 1800]
    expected = [
        [(edge, edge * 3 // 2) for edge in edges],
        [(1333, 190)] * 6 + [(3000, 429)] * 7,
        [(158, 1333)] * 6 + [(356, 3000)] * 7,
        [(158, 1333)] * 6 + [(356, 3000)] * 7,
    ]
    for number, sizes in enumerate(expected):
        passes = [(size, mirrored) for n, size, mirrored in detector.passes if n == number]
        assert passes == [(size, mirrored) for size in sizes for mirrored in (False, True)]
    assert detector.batches == [1] * 52 + [2] * 26  # images 2 and 3 have one size


def test_wrong_sizes_would_be_seen(photos):
    """The same detector without the filter: what it misplaces wins, and AP falls."""
    keys = {"TEST.AUG.ENABLED": True, "TEST.AUG.SCALE_FILTER": False}
    photos.override({**ATSS_TTA, **keys, "TEST.AUG.EXTRA_SIZES": ((800, 1333), (400, 1333))})
    precision, _ = average_precision(photos, Oracle(truth_within_the_ranges, nms_threshold=0.6))
    assert precision < 80


def test_cap_of_the_protocol(photos):
    """1,000 of an image stay, of 26 passes with up to 100 each; of each class the best 100 count.

    150 objects in a row, no two overlapping; passes differ in what they see by a whole pixel of
    the original, too little overlap for a vote. Each pass gives its 100 best.
    """

    def answer(number, index, size):
        factor = size[1] / PHOTOS[number][1]
        left = torch.arange(150) % 50 + 0.3 * (index % 3)
        top = torch.arange(150) // 50 * 3 + 10.0 * (index % 4)
        boxes = torch.stack([left, top, left + 0.25, top + 2], 1) * factor
        return boxes.tolist(), (0.9 - torch.arange(150) / 1000).tolist(), [0] * 150

    keys = {"TEST.AUG.ENABLED": True, "TEST.AUG.SCALE_FILTER": False}
    photos.override({**ATSS_TTA, **keys})
    arguments = augmentation_arguments(photos)
    arguments["scales"] = [ScaleRange(40, 99)] * 13
    for cap, count in ((1000, 1000), (None, 100), (5000, 1200)):
        arguments["max_detections"] = cap
        model = TestTimeAugmentation(Oracle(answer, nms_threshold=0.6), **arguments)
        (result,) = model([{"image": picture(40, 60)}])
        assert len(result["instances"]) == count
