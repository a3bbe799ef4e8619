"""Heat maps of an object: a hand case, a slow loop, levels, priors, sizes, objects of no location.

All maps come from detectors whose network returns chosen numbers: points lie at (j + offset) *
stride, box_deltas are distances in strides.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from cvpods.modeling.anchor_generator import PointGrid
from cvpods.structures import ImageList
from cvpods.utils.errors import ConfigError
from cvpods_ext.analysis.alignment import Alignment, alignment_maps
from cvpods_ext.methods.auto_assign import AutoAssign
from cvpods_ext.methods.feature_align import FeatureAlign

CLASSES = 2
FIELDS = ["classification", "regression", "auto_assign", "feature_align"]


def detector(kind=AutoAssign, strides=(8,), grids=((2, 3),), offset=0.5, outputs=None, **arguments):
    """Return a detector of levels p3, p4, ... whose network returns `outputs` (R, channels)."""
    model = kind(
        backbone=nn.Identity(),
        head=nn.Identity(),
        in_features=[f"p{3 + i}" for i in range(len(strides))],
        num_classes=CLASSES,
        pixel_mean=[0.0] * 3,
        pixel_std=[1.0] * 3,
        point_generator=PointGrid(strides=strides, offset=offset),
        **arguments,
    ).eval()
    priors = model.priors([torch.zeros(1, 1, *grid) for grid in grids])
    count = sum(map(len, priors))
    given = {"cls_logits": torch.zeros(count, CLASSES), "obj_score": torch.zeros(count, 1)}
    given |= {"box_deltas": torch.ones(count, 4), **(outputs or {})}
    model.predict = lambda images: ({k: v[None] for k, v in given.items()}, priors)
    return model


def image(height, width, multiple=1):
    """Return an empty image, padded to a multiple."""
    padded = [-(-n // multiple) * multiple for n in (height, width)]
    return ImageList(torch.zeros(1, 3, *padded), [(height, width)])


def maps_of(model, images, boxes, classes=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).view(-1, 4)
    classes = [0] * len(boxes) if classes is None else classes
    return alignment_maps(model, images, boxes, torch.tensor(classes, dtype=torch.int64))


def assert_blocks(heat, expected):
    """Check that a map (16, 24) has 2 x 3 blocks of 8 x 8 pixels with the expected numbers."""
    expected = torch.tensor(expected).repeat_interleave(8, 0).repeat_interleave(8, 1)
    torch.testing.assert_close(heat, expected, atol=2e-4, rtol=0)


# -- by hand ---------------------------------------------------------------------------------------


def hand_case(**arguments):
    """Return a detector of one level of stride 8: points 4, 12, 20 in x and 4, 12 in y.

    Where nothing else is said, class 0 looks certain, and class 1 and objectness are 3/4.
    """
    cls_logits = torch.tensor([9.0, math.log(3)]).repeat(6, 1)
    obj_score = torch.full((6, 1), math.log(3))
    box_deltas = torch.ones(6, 4)
    cls_logits[1, 1] = obj_score[1] = 0.0
    box_deltas[1] = 0.5
    box_deltas[2] = torch.tensor([1.5, 0.5, 0.5, 0.5])
    outputs = {"cls_logits": cls_logits, "obj_score": obj_score, "box_deltas": box_deltas}
    model = detector(outputs=outputs, loss={"reg_weight": 2.0}, **arguments)
    with torch.no_grad():
        model.mu[..., 1, :] = torch.tensor([0.5, 0.0])
    return model


@pytest.mark.parametrize("kind", [AutoAssign, FeatureAlign])
def test_hand_case(kind):
    """Box (8, 0, 24, 8) of class 1, centre (16, 4): the points (12, 4) and (20, 4) lie inside.

    mu = (1/2, 0), sigma = 1, reg_weight = 2, tau = 1/3.

        point    Pc                 box, GIoU loss        Pb       d - mu   G
        (12, 4)  1/2 * 1/2 = 1/4    (8, 0, 16, 8), 1/2    1/e      -1       e^-1/2 = .6065
        (20, 4)  3/4 * 3/4 = 9/16   the object, 0         1         0       1

        P  = Pc Pb                  .0920             .5625
        w  ~ exp(3 P) G             .7992 (.1288)     5.4060 (.8712)
        Sm = 2 / (2 - (Pc - Pb)^2)  1.0070            1.1058
        x  = P / Sm                 .0913             .5087
        w' ~ exp(3 x) G             .7977 (.1478)     4.5998 (.8522)
    """
    (maps,) = maps_of(hand_case(kind=kind), image(16, 24), [[8, 0, 24, 8]], [1])
    assert isinstance(maps, Alignment) and maps.level == "p3"
    assert_blocks(maps.classification, [[0, 0.25, 0.5625], [0.0, 0, 0]])
    assert_blocks(maps.regression, [[0, math.exp(-1), 1], [0.0, 0, 0]])
    assert_blocks(maps.auto_assign, [[0, 0.1288, 0.8712], [0.0, 0, 0]])
    assert_blocks(maps.feature_align, [[0, 0.1478, 0.8522], [0.0, 0, 0]])


def test_reg_weight_of_the_loss_when_none_is_given():
    """5: exp(-5 * 1/2) at the location whose box covers half of the object."""
    model = hand_case()
    model.loss = {}
    (maps,) = maps_of(model, image(16, 24), [[8, 0, 24, 8]], [1])
    assert maps.regression[4, 12].item() == pytest.approx(math.exp(-2.5))


def test_class_and_box_are_the_objects_own():
    """Class 0 and objectness 1/2 and 3/4: sigmoid(9) times those. The second box has one point.

    Box (8, 8, 16, 16) holds the point (12, 12) alone, whose box (4, 4, 20, 20) covers 8 * 8 of
    16 * 16 pixels: GIoU 1/4, exp(-2 * 3/4). A single location has all the weight.
    """
    first, second = maps_of(hand_case(), image(16, 24), [[8, 0, 24, 8], [8, 8, 16, 16]], [0, 1])
    certain = torch.tensor(9.0).sigmoid().item()
    assert_blocks(first.classification, [[0, certain / 2, certain * 3 / 4], [0.0, 0, 0]])
    assert_blocks(second.classification, [[0.0, 0, 0], [0, 0.5625, 0]])
    assert_blocks(second.regression, [[0.0, 0, 0], [0, math.exp(-1.5), 0]])
    for name in FIELDS[2:]:
        assert_blocks(getattr(second, name), [[0.0, 0, 0], [0.0, 1, 0]])


# -- which pixels ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        # Points 0, 8, 16: from half way to the last point, to half way to the next.
        (0.0, [0] * 4 + [1] * 8 + [2] * 9),
        # Points 4, 12, 20: the third is nearest to the last five pixels.
        (0.5, [0] * 8 + [1] * 8 + [2] * 5),
    ],
)
def test_nearest_location(offset, expected):
    """An image of 13 x 21 pixels, padded to 16 x 24; every location of its level is inside.

    The classification at the location of column j and row i is sigmoid(j + 10 i) / 2.
    """
    logits = torch.tensor([0.0, 1, 2, 10, 11, 12])[:, None].expand(6, CLASSES)
    model = detector(offset=offset, outputs={"cls_logits": logits})
    (maps,) = maps_of(model, image(13, 21, multiple=8), [[-9, -9, 60, 60]])
    rows = expected[:13] if offset else [0] * 4 + [1] * 9
    number = torch.tensor(expected)[None] + 10.0 * torch.tensor(rows)[:, None]
    assert maps.classification.shape == (13, 21)
    torch.testing.assert_close(maps.classification, number.sigmoid() / 2)


def test_beyond_the_last_location():
    """Beyond the last location, it is the nearest: locations at 4 and 12 of 40 pixels."""
    logits = torch.tensor([0.0, 1])[:, None].expand(2, CLASSES)
    model = detector(grids=[(1, 2)], outputs={"cls_logits": logits})
    (maps,) = maps_of(model, image(16, 40), [[0, 0, 40, 16]])
    expected = torch.tensor([0.0] * 8 + [1.0] * 32).sigmoid().expand(16, 40) / 2
    torch.testing.assert_close(maps.classification, expected)


# -- levels and priors -----------------------------------------------------------------------------

TWO_LEVELS = {"strides": (8, 16), "grids": ((4, 4), (2, 2))}


def flat(kind=AutoAssign, outputs=None, **arguments):
    """p3 with 4 x 4 and p4 with 2 x 2 locations, all of the same quality; G is 1 everywhere."""
    model = detector(kind, outputs=outputs, **TWO_LEVELS, **arguments)
    model.loss = {"reg_weight": 0.0}
    with torch.no_grad():
        model.sigma.fill_(1e6)
    return model


def at_points(heat, stride):
    """Return the values of a map at the locations of a stride, with offset 1/2."""
    return heat[stride // 2 :: stride, stride // 2 :: stride]


@pytest.mark.parametrize("kind", [AutoAssign, FeatureAlign])
def test_weights_sum_to_one_over_all_levels(kind):
    """16 + 4 locations of equal weight: 1/20 each; p3 has 16/20 and is shown."""
    (maps,) = maps_of(flat(kind), image(32, 32), [[0, 0, 32, 32]])
    assert maps.level == "p3"
    for name in FIELDS[2:]:
        heat = getattr(maps, name)
        torch.testing.assert_close(heat, torch.full((32, 32), 1 / 20))
        assert at_points(heat, 8).sum().item() == pytest.approx(16 / 20)


def test_level_of_most_weight_not_of_the_best_location():
    """Box (0, 0, 16, 16): 4 locations on p3, P = 1/4, and 1 on p4, with P = 1/2.

    Weights exp(3 P): 4 * 2.117 on p3, 4.482 on p4; where p4's P is 1, 20.09: p4 is shown.
    """
    certain = torch.full((20, CLASSES), 0.0)
    certain[16:] = 30.0
    boxes = [[0, 0, 16, 16]]
    for obj_score, level, weight in [(0.0, "p3", 2.117 / 12.95), (30.0, "p4", 20.09 / 28.55)]:
        objectness = torch.zeros(20, 1)
        objectness[16:] = obj_score
        outputs = {"cls_logits": certain, "obj_score": objectness}
        (maps,) = maps_of(flat(outputs=outputs), image(32, 32), boxes)
        assert maps.level == level
        assert maps.auto_assign[8, 8].item() == pytest.approx(weight, abs=1e-3)
    # The location (8, 8) of p4 is nearest to the pixels from 0 to 15.
    assert (maps.classification > 0).nonzero().amax(dim=0).tolist() == [15, 15]
    torch.testing.assert_close(maps.classification[:16, :16], torch.ones(16, 16))


def test_each_object_has_its_level():
    """As above, P = 1 on p4; the small box (9, 9, 15, 15) holds a point of p3, (12, 12), alone."""
    values = torch.zeros(20, CLASSES)
    values[16:] = 30.0
    model = flat(outputs={"cls_logits": values, "obj_score": values[:, :1]})
    boxes = [[0, 0, 16, 16], [9, 9, 15, 15], [16, 16, 32, 32]]
    assert [m.level for m in maps_of(model, image(32, 32), boxes)] == ["p4", "p3", "p4"]
    assert [m.level for m in maps_of(model, image(32, 32), boxes[::-1])] == ["p4", "p3", "p4"]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(AutoAssign, {}), (FeatureAlign, {"mdq": "shared"}), (FeatureAlign, {"mdq": "learned"})],
)
def test_prior_of_the_model(kind, arguments):
    """Box (0, 0, 32, 32), all P equal; sigma 1/2 and mu = (-1/2, -1/2) strides for class 1.

    The centre is (16, 16), so G is 1 at (12, 12) on p3 and at (8, 8) on p4. One prior for all
    levels: neighbours one stride away have e^-2 a step. S = (1 + 2 e^-2 + e^-8)^2 on 4 x 4 and
    T = (1 + e^-2)^2 on 2 x 2 locations (along an axis: 0, 1, 1, 2 and 0, 1 strides away), and the
    weight of (12, 12) is 1 / (S + T). A prior per level whose mu is (5, 5) on p4: T vanishes.
    """
    model = detector(kind, **TWO_LEVELS, **arguments)
    model.loss = {"reg_weight": 0.0}
    per_level = model.mu.dim() == 3
    with torch.no_grad():
        model.mu[..., 1, :] = -0.5
        model.sigma[..., 1, :] = 0.5
        if per_level:
            model.mu[1, 1] = 5.0
    step = math.exp(-2)
    whole = (1 + 2 * step + step**4) ** 2 + (0 if per_level else (1 + step) ** 2)
    (maps,) = maps_of(model, image(32, 32), [[0, 0, 32, 32]], [1])
    assert maps.level == "p3"
    expected = {(12, 12): 1, (20, 12): step, (4, 4): step**2, (28, 12): step**4}
    for (x, y), value in expected.items():
        for name in FIELDS[2:]:
            assert getattr(maps, name)[y, x].item() == pytest.approx(value / whole, rel=1e-4)


def test_prior_that_nobody_learns():
    """mdq "fixed": mu and sigma are buffers, 0 and 1; (8, 8) and (24, 8) are alike."""
    model = detector(FeatureAlign, strides=(16,), grids=((2, 2),), mdq="fixed")
    (maps,) = maps_of(model, image(32, 32), [[0, 0, 32, 32]])
    torch.testing.assert_close(maps.auto_assign, torch.full((32, 32), 0.25))


# -- against a slow loop ---------------------------------------------------------------------------


def giou_loss(a, b):
    """1 - GIoU of two boxes (x1, y1, x2, y2), arXiv:1902.09630."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - common
    outer = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return 1 - (common / union - (outer - union) / outer)


def loop_maps(model, box, label, size):
    """Compute the four maps of an object as nested lists, and the level, in loops."""
    outputs, priors = model.predict(None)
    cls, obj, deltas = (outputs[n][0].tolist() for n in ("cls_logits", "obj_score", "box_deltas"))
    strides = model.point_generator.strides
    places = [(level, *xy) for level, points in enumerate(priors) for xy in points.tolist()]
    center = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    values = {}
    for j, (level, x, y) in enumerate(places):
        if not (box[0] < x < box[2] and box[1] < y < box[3]):
            continue
        stride = strides[level]
        left, top, right, bottom = (max(d, 0) * stride for d in deltas[j])
        p = 1 / (1 + math.exp(-cls[j][label])) / (1 + math.exp(-obj[j][0]))
        b = math.exp(-3.0 * giou_loss((x - left, y - top, x + right, y + bottom), box))
        mu, sigma = (
            (v[level, label] if v.dim() == 3 else v[label]).tolist()
            for v in (model.mu, model.sigma)
        )
        d = [(v - c) / stride for v, c in zip((x, y), center, strict=True)]
        g = math.exp(-sum((d[k] - mu[k]) ** 2 / (2 * sigma[k] ** 2) for k in (0, 1)))
        filtered = p * b * (2 - (p - b) ** 2) / 2
        values[j] = [p, b, math.exp(3 * p * b) * g, math.exp(3 * filtered) * g]
    for column in (2, 3):
        total = sum(v[column] for v in values.values())
        for v in values.values():
            v[column] /= total
    weights = [
        sum(v[3] for j, v in values.items() if places[j][0] == n) for n in range(len(priors))
    ]
    best = weights.index(max(weights))
    pixels = []
    for row in range(size[0]):
        for column in range(size[1]):
            mine = [j for j, place in enumerate(places) if place[0] == best]
            near = min(mine, key=lambda j: math.dist(places[j][1:], (column + 0.5, row + 0.5)))
            pixels.append(values.get(near, [0.0] * 4))
    return best, torch.tensor(pixels).view(*size, 4).permute(2, 0, 1)


@pytest.mark.parametrize("kind", [AutoAssign, FeatureAlign])
@pytest.mark.parametrize("seed", range(5))
def test_matches_loop(kind, seed):
    """Two levels on 19 x 27 pixels, three objects of which the last reaches beyond the image."""
    generator = torch.Generator().manual_seed(seed)
    outputs = {
        name: torch.randn(16, channels, generator=generator)
        for name, channels in {"cls_logits": CLASSES, "obj_score": 1, "box_deltas": 4}.items()
    }
    outputs["box_deltas"] = outputs["box_deltas"] + 1.5
    model = detector(
        kind, (8, 16), ((3, 4), (2, 2)), 0.5 * (seed % 2), outputs, loss={"reg_weight": 3.0}
    )
    with torch.no_grad():
        model.mu.copy_(torch.randn(model.mu.shape, generator=generator))
        model.sigma.copy_(torch.rand(model.sigma.shape, generator=generator) + 0.5)
    low = torch.rand(3, 2, generator=generator) * torch.tensor([8.0, 4.0])
    boxes = torch.cat([low, low + 9 + 9 * torch.rand(3, 2, generator=generator)], dim=1)
    boxes[2] += torch.tensor([-9.0, -9, 30, 30])
    classes = torch.tensor([seed % 2, 1, 0])
    found = alignment_maps(model, image(19, 27, multiple=16), boxes, classes)
    assert len(found) == 3
    for maps, box, label in zip(found, boxes.tolist(), classes.tolist(), strict=True):
        level, expected = loop_maps(model, box, label, (19, 27))
        assert maps.level == model.in_features[level]
        torch.testing.assert_close(torch.stack(maps[1:]), expected, atol=1e-5, rtol=1e-4)


# -- edges -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "box",
    [
        [5, 5, 11, 11],  # between the points
        [4, 4, 12, 12],  # points on its corners are not strictly inside
        [12, 4, 12, 4],  # no area
        [30, 30, 60, 60],  # right of the image
        [-60, -60, -30, -30],
    ],
)
def test_object_without_a_location(box):
    """Without a location, all maps of an object are 0; those of its neighbours do not change."""
    boxes = [[8, 0, 24, 8], box, [0, 0, 24, 16]]
    found = maps_of(hand_case(), image(16, 24), boxes, [1, 1, 0])
    assert found[1].level == "p3"
    for name in FIELDS:
        heat = getattr(found[1], name)
        assert heat.shape == (16, 24) and not heat.any()
    alone = maps_of(hand_case(), image(16, 24), boxes[::2], [1, 0])
    for maps, expected in zip(found[::2], alone, strict=True):
        for name in FIELDS:
            assert torch.equal(getattr(maps, name), getattr(expected, name))


def test_no_object():
    assert maps_of(hand_case(), image(16, 24), []) == []


def test_box_beyond_the_image():
    """Nothing is cut off: the box score is that of the whole box (-24, -8, 24, 8).

    The point (4, 4) predicts a distance of 8 each: (-4, -4, 12, 12), of which 16 * 12 pixels are
    common; the union is 48 * 16 + 16 * 16 - 192 = 832, the enclosing box 48 * 20 = 960:
    GIoU = 192 / 832 - 128 / 960.
    """
    (maps,) = maps_of(hand_case(), image(16, 24), [[-24, -8, 24, 8]], [1])
    giou = 192 / 832 - 128 / 960
    assert maps.regression[0, 0].item() == pytest.approx(math.exp(-2 * (1 - giou)), rel=1e-4)
    assert (maps.regression[:8] > 0).all() and not maps.regression[8:].any()
    assert maps.auto_assign[4, 4::8].sum().item() == pytest.approx(1)


def test_no_gradient_is_kept():
    logits = torch.zeros(6, CLASSES, requires_grad=True)
    model = detector(outputs={"cls_logits": logits})
    (maps,) = maps_of(model, image(16, 24), [[8, 0, 24, 8]])
    assert model.mu.requires_grad
    assert not any(getattr(maps, name).requires_grad for name in FIELDS)


def test_extreme_logits():
    """Certain of nothing or of everything: finite, and weights still sum to 1."""
    for logit in (-200.0, 200.0):
        outputs = {"cls_logits": torch.full((6, CLASSES), logit)}
        outputs["obj_score"] = outputs["cls_logits"][:, :1]
        (maps,) = maps_of(detector(outputs=outputs), image(16, 24), [[0, 0, 24, 16]])
        values = torch.stack(maps[1:])
        assert values.isfinite().all() and (values >= 0).all() and (values <= 1).all()
        assert values[2:, 4::8, 4::8].sum(dim=(1, 2)).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("model", [nn.Linear(1, 1), nn.Identity()])
def test_other_models_are_refused(model):
    name = type(model).__name__
    with pytest.raises(ConfigError, match=f"AutoAssign or FeatureAlign; this model is {name}"):
        maps_of(model, image(16, 24), [[8, 0, 24, 8]])
