"""Transforms: sizes, flips, crops, padding, colours, lists, and torchvision's transforms."""

import copy
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from cvpods.data.registry import TRANSFORMS
from cvpods.data.transforms import (
    BlendTransform,
    ComposeTransform,
    CropTransform,
    Expand,
    HFlipTransform,
    MinIoURandomCrop,
    NoOpTransform,
    OrderList,
    Pad,
    PadTransform,
    RandomBrightness,
    RandomContrast,
    RandomCrop,
    RandomFlip,
    RandomList,
    RandomSaturation,
    RandomSwapChannels,
    Resize,
    ResizeLongestEdge,
    ResizeShortestEdge,
    ResizeTransform,
    ShuffleList,
    TorchTransformGen,
    Transform,
    VFlipTransform,
    build_transform_gens,
)
from cvpods.data.transforms.transform import output_size
from cvpods.structures import BoxMode
from cvpods.utils.errors import PodsError
from tests.seeds import each_seed

FLIP = ("RandomFlip", {"prob": 1.0})
# One step for every registered transform.
STEPS = {
    "ResizeShortestEdge": {"short_edge_length": (24, 40)},
    "ResizeLongestEdge": {"long_edge_length": (24, 40)},
    "Resize": {"shape": (30, 50)},
    "ResizeToFit": {"shape": (20, 30)},
    "RandomFlip": {},
    "RandomCrop": {"crop_type": "relative_range", "crop_size": (0.4, 0.4)},
    "Pad": {"size": (40, 60), "value": 7},
    "RandomContrast": {"intensity_min": 0.5, "intensity_max": 1.5},
    "RandomBrightness": {"intensity_min": 0.5, "intensity_max": 1.5},
    "RandomSaturation": {"intensity_min": 0.5, "intensity_max": 1.5},
    "RandomLighting": {"scale": 0.5},
    "RandomSwapChannels": {},
    "RandomDistortion": {"hue": 0.1, "saturation": 1.5, "exposure": 1.5},
    "MinIoURandomCrop": {},
    "Expand": {"mean": (104, 116, 123)},
    "OrderList": {"transforms": [FLIP]},
    "ShuffleList": {"transforms": [("Pad", {"size": (40, 40)}), ("Resize", {"shape": 30})]},
    "RandomList": {"transforms": [FLIP, ("Resize", {"shape": 20})]},
    "Torch_Flip": v2.RandomHorizontalFlip(0.5),
}
UNCHANGED_SIZE = ("RandomContrast", "RandomBrightness", "RandomSaturation", "RandomLighting")


def build(name, image_format="BGR"):
    return build_transform_gens([(name, copy.deepcopy(STEPS[name]))], image_format)[0]


def noise(height=24, width=32, seed=0):
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (height, width, 3), dtype=np.uint8)


def annotation(bbox=(4, 6, 20, 16), **more):
    return {"bbox": list(bbox), "bbox_mode": BoxMode.XYXY_ABS, "category_id": 3, **more}


def seed_all(seed):
    np.random.seed(seed)
    torch.manual_seed(seed)


def shape_for(gen, height, width):
    image, _ = gen(np.zeros((height, width, 3), dtype=np.uint8))
    return image.shape[:2]


@pytest.mark.parametrize(
    "size, expected",
    [
        ((800, 1344), (800, 1344)),
        ((480, 640), (800, 1067)),  # height decides: 800 / 480; 640 * 5 / 3 = 1066.7
        ((300, 640), (630, 1344)),  # width decides: 1344 / 640 = 2.1
        ((640, 480), (800, 600)),
        ((1, 5000), (1, 1344)),
    ],
)
def test_resize_to_fit(size, expected):
    """Expect the largest size inside 800 x 1344 with the same aspect ratio."""
    (gen,) = build_transform_gens([("ResizeToFit", {"shape": [800, 1344]})])
    transform = gen.get_transform(np.zeros((*size, 3), dtype=np.uint8))
    assert (transform.new_h, transform.new_w) == expected


# -- properties of every transform -----------------------------------------------------------------


def test_every_transform_has_a_step():
    own = {name for name, cls in TRANSFORMS if cls.__module__.startswith("cvpods.data")}
    assert own - {"TorchTransformGen"} == set(STEPS) - {"Torch_Flip"}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("boxes", [None, []])
def test_without_boxes(name, boxes):
    for seed in range(5):
        seed_all(seed)
        image, annotations = build(name)(noise(), boxes)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        assert annotations == boxes


@pytest.mark.parametrize("name", STEPS)
def test_annotations_may_be_left_out(name):
    seed_all(0)
    image, annotations = build(name)(noise())
    assert image.shape[2] == 3 and annotations is None


@pytest.mark.parametrize("name", STEPS)
def test_seeds_decide(name):
    """Equal seeds give equal results; over 20 seeds, a random transform gives several."""
    results = []
    for seed in [*range(20), *range(20)]:
        seed_all(seed)
        image, annotations = build(name)(noise(), [annotation()])
        results.append((image.shape, image.tobytes(), [a["bbox"] for a in annotations]))
    assert results[:20] == results[20:]
    fixed = name in ("Resize", "ResizeToFit", "Pad", "OrderList")
    assert (len({r[1] for r in results}) == 1) == fixed


@pytest.mark.parametrize("name", STEPS)
def test_the_callers_image_and_annotations_stay(name):
    for seed in range(10):
        image, annotations = noise(), [annotation(iscrowd=0), annotation((0, 0, 5, 5))]
        seed_all(seed)
        build(name)(image, annotations)
        np.testing.assert_array_equal(image, noise())
        assert annotations == [annotation(iscrowd=0), annotation((0, 0, 5, 5))]


@pytest.mark.parametrize("name", STEPS)
def test_other_fields_follow_their_box(name):
    for seed in range(10):
        seed_all(seed)
        boxes = [annotation((1, 1, 4, 4), tag="a"), annotation((20, 10, 30, 20), tag="b")]
        _, annotations = build(name)(noise(), boxes)
        for result in annotations:
            assert (result["tag"], result["category_id"]) in [("a", 3), ("b", 3)]
        assert len({a["tag"] for a in annotations}) == len(annotations)


@pytest.mark.parametrize("name", STEPS)
def test_boxes_in_other_modes_mean_the_same(name):
    results = []
    for mode, bbox in [(BoxMode.XYXY_ABS, (4, 6, 20, 16)), (BoxMode.XYWH_ABS, (4, 6, 16, 10))]:
        seed_all(3)
        _, annotations = build(name)(noise(), [annotation(bbox, bbox_mode=mode)])
        corners = [
            BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in annotations
        ]
        results.append(corners)
    assert results[0] == results[1]


@pytest.mark.parametrize("name", STEPS)
def test_memory_suits_torch(name):
    """The next transform and torch.from_numpy accept the result."""
    for seed in range(5):
        seed_all(seed)
        image, _ = build(name)(noise(), [annotation()])
        torch.from_numpy(image)
        HFlipTransform(image.shape[1])(image)


# -- boxes follow the picture ----------------------------------------------------------------------

GEOMETRY = {
    "shortest": lambda: ResizeShortestEdge((40, 90)),
    "longest": lambda: ResizeLongestEdge((40, 120)),
    "stretch": lambda: Resize((50, 110)),
    "left and right": lambda: RandomFlip(1.0),
    "upside down": lambda: RandomFlip(1.0, horizontal=False, vertical=True),
    "relative crop": lambda: RandomCrop("relative", (0.7, 0.6)),
    "crop range": lambda: RandomCrop("relative_range", (0.4, 0.4), strict_mode=False),
    "absolute crop": lambda: RandomCrop("absolute", (45, 50)),
    "pad": lambda: Pad((70, 100)),
    "overlap crop": lambda: MinIoURandomCrop(),
    "expand": lambda: Expand((1, 3), prob=1.0),
    "torch": lambda: TorchTransformGen(
        v2.Compose([v2.RandomHorizontalFlip(1.0), v2.Pad([3, 5, 7, 9])])
    ),
    "list": lambda: OrderList(
        [RandomFlip(1.0), ResizeShortestEdge(90), RandomCrop("relative", (0.8, 0.8))]
    ),
}


def bounds(image):
    """Return the corners of the bright part."""
    ys, xs = np.nonzero(image[..., 1] > 127)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("name", GEOMETRY)
def test_box_still_bounds_its_object(name):
    """Compare within 1.5 pixels, for blurred edges; a green rectangle on black, 60 x 80."""
    gen, kept = GEOMETRY[name](), 0
    for seed in range(25):
        seed_all(seed)
        x, y = np.random.randint(5, 40), np.random.randint(5, 25)
        box = [x, y, x + 28, y + 21]
        image = np.zeros((60, 80, 3), dtype=np.uint8)
        image[y : y + 21, x : x + 28, 1] = 255
        image, annotations = gen(image, [annotation(box)])
        for result in annotations:
            kept += 1
            np.testing.assert_allclose(result["bbox"], bounds(image), atol=1.5)
    assert kept >= 10


# -- sizes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size, max_size, image, expected",
    [
        (800, 1333, (480, 640), (800, 1067)),  # 640 x 800 / 480 = 1066.7
        (800, 1333, (640, 480), (1067, 800)),
        (800, 1333, (300, 900), (444, 1333)),  # 900 x 800 / 300 = 2400: x 1333 / 900 instead
        (60, 64, (30, 40), (48, 64)),
        (10, 1333, (30, 40), (10, 13)),
        (20, 1333, (20, 20), (20, 20)),
        (5, 50, (1, 1000), (1, 50)),  # 0.05 pixels high would be none
    ],
)
def test_shortest_edge_hand_cases(size, max_size, image, expected):
    transform = ResizeShortestEdge(size, max_size, "choice").get_transform(np.zeros((*image, 3)))
    assert (transform.new_h, transform.new_w) == expected


@pytest.mark.parametrize(
    "sizes, style, drawn",
    [
        ((4, 9, 6), "choice", {4, 6, 9}),
        ([4, 6], "choice", {4, 6}),
        ((4, 7), "range", {4, 5, 6, 7}),
        ((5, 5), "range", {5}),
        (5, "range", {5}),
        (5, "choice", {5}),
        ((5,), "range", {5}),
    ],
)
@pytest.mark.parametrize("cls", [ResizeShortestEdge, ResizeLongestEdge])
def test_drawn_sizes(cls, sizes, style, drawn):
    """Both ends of a range occur."""
    np.random.seed(0)
    gen = cls(sizes, sample_style=style)
    assert {shape_for(gen, 10, 10)[0] for _ in range(60)} == drawn


@each_seed(30)
def test_shortest_edge_never_exceeds_max_size(seed):
    """Either the short edge has its size, or the long edge has max_size."""
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 2000, 2)
    size, max_size = random.integers(16, 1000), random.integers(1000, 1400)
    gen = ResizeShortestEdge(int(size), int(max_size), "choice")
    transform = gen.get_transform(np.zeros((height, width, 0)))
    short, long = sorted((transform.new_h, transform.new_w))
    assert long <= max_size
    assert short == size or long == max_size


@pytest.mark.parametrize("cls", [ResizeShortestEdge, ResizeLongestEdge])
@pytest.mark.parametrize("style", ["range", "choice"])
def test_zero_does_not_change_the_image(cls, style):
    image, annotations = cls(0, sample_style=style)(noise(), [annotation()])
    np.testing.assert_array_equal(image, noise())
    assert annotations[0]["bbox"] == [4, 6, 20, 16]


@pytest.mark.parametrize("size", [(12, 16), (24, 32), (50, 31), (7, 90), (100, 140)])
def test_resize_is_pils_bilinear(size):
    image = noise(24, 32, seed=1)
    resized = ResizeTransform(24, 32, *size).apply_image(image)
    pil = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    assert resized.shape == (*size, 3)
    assert np.abs(resized.astype(int) - np.asarray(pil, dtype=int)).max() <= 1


def test_resize_scales_boxes():
    """24 x 32 -> 36 x 96: x by 3, y by 1.5, in exact numbers."""
    _, annotations = Resize((36, 96))(noise(24, 32), [annotation((1, 3, 5, 7))])
    assert annotations[0]["bbox"] == [3.0, 4.5, 15.0, 10.5]


def test_resize_to_a_square():
    assert shape_for(Resize(9), 20, 30) == (9, 9)


def test_one_channel():
    image, _ = Resize((6, 8))(noise()[..., :1])
    assert image.shape == (6, 8, 1)


# -- flips -----------------------------------------------------------------------------------------


def test_flips_by_hand():
    """24 x 32: x 4..20 -> 12..28; y 6..16 -> 8..18."""
    image = noise(24, 32)
    flipped, annotations = HFlipTransform(32)(image, [annotation((4, 6, 20, 16))])
    np.testing.assert_array_equal(flipped, image[:, ::-1])
    assert annotations[0]["bbox"] == [12, 6, 28, 16]
    flipped, annotations = VFlipTransform(24)(image, [annotation((4, 6, 20, 16))])
    np.testing.assert_array_equal(flipped, image[::-1])
    assert annotations[0]["bbox"] == [4, 8, 20, 18]


@pytest.mark.parametrize("flip", [HFlipTransform(32), VFlipTransform(24)])
def test_two_flips_are_the_identity(flip):
    image, annotations = ComposeTransform([flip, flip])(noise(), [annotation()])
    np.testing.assert_array_equal(image, noise())
    assert annotations[0]["bbox"] == [4, 6, 20, 16]


@pytest.mark.parametrize("prob, low, high", [(0.0, 0, 0), (1.0, 400, 400), (0.25, 70, 130)])
def test_flip_probability(prob, low, high):
    np.random.seed(0)
    image, gen = noise(2, 3), RandomFlip(prob)
    flipped = sum((gen(image)[0] != image).any() for _ in range(400))
    assert low <= flipped <= high


# -- whole numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "transform, expected",
    [
        (NoOpTransform(), [1, 2, 5, 4]),
        (HFlipTransform(32), [27, 2, 31, 4]),
        (ResizeTransform(24, 32, 12, 8), [0.25, 1, 1.25, 2]),
        (CropTransform(2, 1, 10, 10), [0, 1, 3, 3]),
        (PadTransform(3, 4, 40, 40), [4, 6, 8, 8]),
        (BlendTransform(0, 0.5, 0.5), [1, 2, 5, 4]),
        (v2.RandomVerticalFlip(1.0), [1, 20, 5, 22]),
    ],
)
@pytest.mark.parametrize("kind", [int, np.int64])
def test_whole_number_boxes_become_exact_floats(transform, expected, kind):
    if isinstance(transform, v2.Transform):
        transform = TorchTransformGen(transform)
    _, (result,) = transform(noise(24, 32), [annotation([kind(v) for v in (1, 2, 5, 4)])])
    assert result["bbox"] == expected
    assert all(type(value) is float for value in result["bbox"])
    assert result["bbox_mode"] == BoxMode.XYXY_ABS


@pytest.mark.parametrize("bbox", [(1, 2, 5, 4), np.array([1.0, 2, 5, 4])])
def test_boxes_may_be_tuples_or_arrays(bbox):
    _, (result,) = HFlipTransform(32)(noise(), [{"bbox": bbox, "bbox_mode": BoxMode.XYXY_ABS}])
    assert result["bbox"] == [27, 2, 31, 4]


# -- crops -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "crop_type, size, expected",
    [
        ("absolute", (10, 7), (10, 7)),
        ("absolute", (100, 7), (24, 7)),
        ("absolute", (10, 100), (10, 32)),
        ("relative", (0.5, 0.25), (12, 8)),
        ("relative", (1.0, 1.0), (24, 32)),
        ("relative", (0.001, 0.001), (1, 1)),
        ("relative_range", (1.0, 1.0), (24, 32)),
    ],
)
def test_crop_sizes(crop_type, size, expected):
    assert shape_for(RandomCrop(crop_type, size), 24, 32) == expected


def test_crop_range():
    """Each side is between a half and all of 24 x 32, independently."""
    np.random.seed(0)
    shapes = [shape_for(RandomCrop("relative_range", (0.5, 0.5)), 24, 32) for _ in range(200)]
    heights, widths = zip(*shapes, strict=True)
    assert (min(heights), min(widths)) == (12, 16)
    assert max(heights) >= 23 and max(widths) >= 31
    assert len({h / 24 - w / 32 for h, w in shapes}) > 50


def test_crops_take_every_position():
    """An 8-wide window in 10 pixels starts at 0, 1 or 2."""
    np.random.seed(0)
    image = np.broadcast_to(np.arange(10, dtype=np.uint8)[None, :, None], (4, 10, 3))
    gen = RandomCrop("absolute", (4, 8))
    assert {gen(np.ascontiguousarray(image))[0][0, 0, 0] for _ in range(40)} == {0, 1, 2}


def test_crop_by_hand():
    """Window x 2..12, y 1..9: the first box is cut, the centre of the second is outside."""
    boxes = [annotation((0, 0, 6, 4)), annotation((10, 3, 16, 6))]
    image, annotations = CropTransform(2, 1, 10, 8)(noise(), boxes)
    np.testing.assert_array_equal(image, noise()[1:9, 2:12])
    assert [a["bbox"] for a in annotations] == [[0, 0, 4, 3]]


@pytest.mark.parametrize("box", [(10, 8, 14, 12), (11, 8, 14, 11), (0, 0, 2, 2), (30, 22, 32, 24)])
@pytest.mark.parametrize("crop_type, size", [("absolute", (6, 5)), ("relative", (0.3, 0.3))])
def test_strict_crop_keeps_the_object(box, crop_type, size):
    """The window contains the centre of a drawn object, so that object is kept."""
    gen = RandomCrop(crop_type, size)
    for seed in range(100):
        np.random.seed(seed)
        _, annotations = gen(noise(), [annotation(box)])
        assert len(annotations) == 1, f"lost with seed {seed}"


def test_crop_that_is_not_strict_may_lose_the_object():
    np.random.seed(0)
    gen = RandomCrop("absolute", (6, 6), strict_mode=False)
    counts = {len(gen(noise(), [annotation((0, 0, 4, 4))])[1]) for _ in range(50)}
    assert counts == {0, 1}


def test_overlap_crop_has_a_minimum_window():
    """Each side is at least 0.5, up to a pixel; the full image is among the choices."""
    gen, shapes = MinIoURandomCrop(min_crop_size=0.5), set()
    for seed in range(60):
        seed_all(seed)
        image, annotations = gen(noise(), [annotation()])
        assert annotations
        shapes.add(image.shape[:2])
    assert (24, 32) in shapes and len(shapes) > 5
    assert min(h for h, _ in shapes) >= 11 and min(w for _, w in shapes) >= 15


# -- padding ---------------------------------------------------------------------------------------


def test_pad():
    """Padding is at the right and bottom only, so boxes stay."""
    image, annotations = Pad((30, 40), value=9)(noise(), [annotation()])
    np.testing.assert_array_equal(image[:24, :32], noise())
    assert image.shape == (30, 40, 3)
    assert (image[24:] == 9).all() and (image[:, 32:] == 9).all()
    assert annotations[0]["bbox"] == [4, 6, 20, 16]


@pytest.mark.parametrize("size, expected", [((30, 20), (30, 32)), ((5, 5), (24, 32))])
def test_pad_never_cuts(size, expected):
    assert shape_for(Pad(size), 24, 32) == expected


def test_expand():
    """Four times as high and wide: 96 x 128, with 24 x 32 of the image and the mean elsewhere."""
    seed_all(0)
    image, (result,) = Expand((4, 4), mean=(10, 20, 30), prob=1.0)(noise(), [annotation()])
    assert image.shape == (96, 128, 3)
    left, top = int(result["bbox"][0] - 4), int(result["bbox"][1] - 6)
    np.testing.assert_array_equal(image[top : top + 24, left : left + 32], noise())
    outside = np.ones((96, 128), dtype=bool)
    outside[top : top + 24, left : left + 32] = False
    assert (image[outside] == [10, 20, 30]).all()


def test_expand_takes_a_mean_with_fractions():
    image, _ = Expand((2, 2), mean=[103.53, 116.28, 123.675], prob=1.0)(noise() * 0)
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}
    assert (0, 0, 0) in colours
    (mean,) = colours - {(0, 0, 0)}
    np.testing.assert_allclose(mean, [103.53, 116.28, 123.675], atol=1)


# -- colours ---------------------------------------------------------------------------------------


def only_weight(cls, weight, **kwargs):
    return cls(weight, weight, **kwargs)


def test_brightness_by_hand():
    """Half of 100 is 50; 1.5 x 200 = 300 is clipped."""
    image = np.array([[[100, 200, 0]]], dtype=np.uint8)
    assert only_weight(RandomBrightness, 0.5)(image)[0].tolist() == [[[50, 100, 0]]]
    assert only_weight(RandomBrightness, 1.5)(image)[0].tolist() == [[[150, 255, 0]]]


def test_contrast_by_hand():
    """Mean 100: weight 0.5 gives 0 -> 50, 200 -> 150; weight 2 gives -100 and 300, clipped."""
    image = np.array([[[0, 0, 0], [200, 200, 200]]], dtype=np.uint8)
    assert only_weight(RandomContrast, 0.5)(image)[0][0, :, 0].tolist() == [50, 150]
    assert only_weight(RandomContrast, 2.0)(image)[0][0, :, 0].tolist() == [0, 255]


def test_saturation_by_hand():
    """Red 100, green 100, blue 200: grey is 29.9 + 58.7 + 22.8 = 111.4.

    Weight 0: 111 everywhere. Weight 0.5: 105.7, 105.7, 155.7.
    """
    image = np.array([[[100, 100, 200]]], dtype=np.uint8)
    grey = only_weight(RandomSaturation, 0.0, image_format="RGB")
    half = only_weight(RandomSaturation, 0.5, image_format="RGB")
    assert grey(image)[0].tolist() == [[[111, 111, 111]]]
    assert half(image)[0].tolist() == [[[106, 106, 156]]]


@pytest.mark.parametrize("cls", [RandomBrightness, RandomContrast, RandomSaturation])
def test_weight_one_and_probability_zero_change_nothing(cls):
    np.testing.assert_array_equal(only_weight(cls, 1.0)(noise())[0], noise())
    np.testing.assert_array_equal(cls(0.0, 0.1, prob=0.0)(noise())[0], noise())


@pytest.mark.parametrize("name", [*UNCHANGED_SIZE, "RandomDistortion"])
def test_colours_are_the_same_in_either_order(name):
    """A picture given as BGR or as RGB gives the same picture."""
    changed = 0
    for seed in range(10):
        results = []
        for order, image in (("RGB", noise()), ("BGR", noise()[..., ::-1].copy())):
            seed_all(seed)
            result, _ = build(name, order)(image, [annotation()])
            results.append(result if order == "RGB" else result[..., ::-1])
        changed += (results[0] != noise()).any()
        np.testing.assert_array_equal(*results)
    assert changed >= 8


def test_nested_transforms_get_the_order_too():
    step = ("OrderList", {"transforms": [("RandomSaturation", STEPS["RandomSaturation"])]})
    for order in ("RGB", "BGR"):
        (outer,) = build_transform_gens([step], order)
        assert outer.transforms[0].image_format == order


def test_an_order_in_the_config_wins():
    step = ("RandomSaturation", {**STEPS["RandomSaturation"], "image_format": "RGB"})
    assert build_transform_gens([step], "BGR")[0].image_format == "RGB"


def test_swapped_channels():
    """All 6 orders occur; every pixel keeps its values."""
    np.random.seed(0)
    image = np.array([[[1, 2, 3]]], dtype=np.uint8)
    seen = {tuple(RandomSwapChannels(1.0)(image)[0][0, 0].tolist()) for _ in range(60)}
    assert seen == set(itertools.permutations((1, 2, 3)))


# -- lists -----------------------------------------------------------------------------------------


class Tag(Transform):
    """Transform that records its calls."""

    def __init__(self, name, ran):
        self.name, self.ran = name, ran

    def __call__(self, img, annotations=None, **kwargs):
        self.ran.append(self.name)
        return img, annotations


def runs(cls, names="abc", times=60, **kwargs):
    """Return the tags that a list runs, call by call."""
    np.random.seed(0)
    ran, results = [], []
    gen = cls([Tag(name, ran) for name in names], **kwargs)
    for _ in range(times):
        ran.clear()
        gen(noise())
        results.append("".join(ran))
    return results


def test_order_list():
    assert set(runs(OrderList)) == {"abc"}


def test_shuffle_list():
    assert set(runs(ShuffleList)) == {"".join(p) for p in itertools.permutations("abc")}


@pytest.mark.parametrize("layers, expected", [(1, {"a", "b", "c"}), (2, {"ab", "ac", "bc"})])
def test_random_list(layers, expected):
    results = runs(RandomList, num_layers=layers)
    assert {"".join(sorted(result)) for result in results} == expected


def test_lists_in_lists():
    """Flip, then flip again inside a list inside a list: nothing changes."""
    inner = ("ShuffleList", {"transforms": [FLIP]})
    gens = build_transform_gens([FLIP, ("OrderList", {"transforms": [inner]})])
    image, annotations = ComposeTransform(gens)(noise(), [annotation()])
    np.testing.assert_array_equal(image, noise())
    assert annotations[0]["bbox"] == [4, 6, 20, 16]


# -- torchvision -----------------------------------------------------------------------------------


def test_torch_transform():
    (gen,) = build_transform_gens([("Torch_Mirror", v2.RandomHorizontalFlip(1.0))])
    image, annotations = gen(noise(), [annotation(iscrowd=0)])
    expected, boxes = HFlipTransform(32)(noise(), [annotation(iscrowd=0)])
    np.testing.assert_array_equal(image, expected)
    assert annotations == boxes


@pytest.mark.parametrize("then", [v2.Identity(), v2.SanitizeBoundingBoxes()])
def test_torch_transform_that_removes_boxes(then):
    """Crop the left half of 24 x 32: the box at x 20..30 is outside, 2..6 and 10..24 are not."""

    class LeftHalf(v2.Transform):
        def transform(self, inpt, params):
            return v2.functional.crop(inpt, 0, 0, 24, 16)

        _transform = transform  # its name before torchvision 0.20

    corners = [(2, 2, 6, 6), (20, 2, 30, 6), (10, 2, 24, 6)]
    boxes = [annotation(box, tag=tag) for box, tag in zip(corners, "abc", strict=True)]
    image, annotations = TorchTransformGen(v2.Compose([LeftHalf(), then]))(noise(), boxes)
    assert image.shape == (24, 16, 3)
    assert [(a["tag"], a["bbox"]) for a in annotations] == [
        ("a", [2, 2, 6, 6]),
        ("c", [10, 2, 16, 6]),
    ]


def test_torch_transform_keeps_a_box_beyond_the_border():
    """An annotation may extend beyond the border by a fraction; its object is kept."""
    box = annotation((28, 6, 32.5, 16))
    _, (result,) = TorchTransformGen(v2.ColorJitter(brightness=0.1))(noise(), [box])
    np.testing.assert_allclose(result["bbox"], [28, 6, 32, 16], atol=0.5)


# -- building --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STEPS)
def test_building_twice_leaves_the_config_alone(name):
    steps = [(name, STEPS[name])]
    before = copy.deepcopy(STEPS[name])
    first, second = build_transform_gens(steps), build_transform_gens(steps)
    assert type(first[0]) is type(second[0]) and first[0] is not second[0]
    if isinstance(before, dict):
        assert steps == [(name, before)]


def test_steps_may_be_lists():
    (gen,) = build_transform_gens([["RandomFlip", {"prob": 0.25}]])
    assert isinstance(gen, RandomFlip) and gen.prob == 0.25


@pytest.mark.parametrize(
    "step, said",
    [
        (("RandomFlp", {}), ["'RandomFlp'", "Did you mean RandomFlip?"]),
        (("Nothing", {}), ["'Nothing'", "RandomFlip"]),
        (("RandomFlip", {"probability": 1}), ["RandomFlip", "probability"]),
        (("RandomFlip", {"horizontal": True, "vertical": True}), ["RandomFlip", "exactly one"]),
        (("RandomFlip", {"horizontal": False}), ["RandomFlip", "exactly one"]),
        (("RandomFlip", 5), ["RandomFlip", "5"]),
        (("RandomFlip", None), ["RandomFlip", "None"]),
        (("RandomFlip",), ["RandomFlip"]),
        (("RandomFlip", {}, {}), ["RandomFlip"]),
        ("RandomFlip", ["RandomFlip"]),
        ({"type": "RandomFlip"}, ["RandomFlip"]),
        ((5, {}), ["5"]),
        (("ResizeShortestEdge", {}), ["ResizeShortestEdge", "short_edge_length"]),
        (("ResizeShortestEdge", {"short_edge_length": (6, 4)}), ["ResizeShortestEdge", "(6, 4)"]),
        (("ResizeShortestEdge", {"short_edge_length": (4, 5, 6)}), ["(4, 5, 6)", "range"]),
        (("ResizeShortestEdge", {"short_edge_length": ()}), ["ResizeShortestEdge", "()"]),
        (
            ("ResizeLongestEdge", {"long_edge_length": 4, "sample_style": "any"}),
            ["ResizeLongestEdge", "'any'", "'choice'"],
        ),
        (("RandomCrop", {"crop_type": "half", "crop_size": (1, 1)}), ["RandomCrop", "'half'"]),
        (
            ("RandomDistortion", {"hue": 2.0, "saturation": 1.5, "exposure": 1.5}),
            ["RandomDistortion", "hue"],
        ),
        (("ShuffleList", {}), ["ShuffleList", "transforms"]),
        (("ShuffleList", {"transforms": ["RandomFlip"]}), ["'RandomFlip'"]),
        (("OrderList", {"transforms": [("RandomFlp", {})]}), ["Did you mean RandomFlip?"]),
        (("RandomList", {"transforms": [FLIP], "num_layers": 2}), ["RandomList", "2"]),
    ],
)
def test_steps_that_cannot_be_built(step, said):
    with pytest.raises(PodsError) as raised:
        build_transform_gens([FLIP, step])
    for part in said:
        assert part in str(raised.value)


# -- sizes without an image ------------------------------------------------------------------------

CROP = ("RandomCrop", {"crop_type": "absolute", "crop_size": (9, 9)})


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], (40, 60)),
        # 24 / 40 = 0.6: 60 x 0.6 = 36. With at most 30: 30 / 60 = 0.5.
        ([("ResizeShortestEdge", {"short_edge_length": 24})], (24, 36)),
        ([("ResizeShortestEdge", {"short_edge_length": (24, 24), "max_size": 30})], (20, 30)),
        ([("ResizeShortestEdge", {"short_edge_length": 0})], (40, 60)),
        ([("ResizeLongestEdge", {"long_edge_length": 30})], (20, 30)),
        ([("Resize", {"shape": (8, 9)})], (8, 9)),
        ([("ResizeToFit", {"shape": (10, 30)})], (10, 15)),
        ([("Pad", {"size": (50, 50)}), ("RandomFlip", {})], (50, 60)),
        ([("RandomBrightness", {"intensity_min": 0.5, "intensity_max": 1.5})], (40, 60)),
        ([("ResizeShortestEdge", {"short_edge_length": (24, 32)})], None),
        ([CROP], None),
        ([CROP, ("Pad", {"size": (9, 9)})], None),
    ],
    ids=str,
)  # fmt: skip
def test_output_size_is_that_of_the_image(steps, expected):
    transforms = build_transform_gens(steps, "BGR")
    assert output_size(transforms, 40, 60) == expected
    if expected is not None:
        image = np.zeros((40, 60, 3), np.uint8)
        for transform in transforms:
            image, _ = transform(image, None)
        assert image.shape[:2] == expected


def test_output_size_of_lists():
    """Lists of random order may have several sizes."""
    resize, pad = Resize((8, 8)), Pad((10, 10))
    assert output_size([OrderList([resize, pad])], 40, 60) == (10, 10)
    assert output_size([ShuffleList([resize, pad])], 40, 60) is None
    assert output_size([RandomList([resize, pad])], 40, 60) is None
    assert output_size([lambda image, annotations: (image, annotations)], 40, 60) is None


def test_one_size_draws_no_random_number():
    """Predictors resize in several threads, so shared generators must not change."""
    np.random.seed(7)
    before = np.random.get_state()[1:3]
    for style in ("choice", "range"):
        ResizeShortestEdge(24, sample_style=style)(np.zeros((40, 60, 3), np.uint8))
    after = np.random.get_state()[1:3]
    assert np.array_equal(before[0], after[0]) and before[1] == after[1]
