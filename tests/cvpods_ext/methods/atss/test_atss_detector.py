"""ATSS as a detector: what all dense detectors promise, its positives, where boxes start."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from cvpods.layers import DFConv2d
from cvpods.modeling.anchor_generator import AnchorGrid
from cvpods.modeling.meta_arch import DenseHead
from cvpods.structures import ImageList
from cvpods.utils.errors import ConfigError
from cvpods_ext.kernels.assignment import BACKGROUND, IGNORE, Assignment
from cvpods_ext.methods.atss import ATSS, ATSSConfig, atss_assign
from cvpods_ext.methods.atss.compared.max_iou import max_iou_assign
from cvpods_ext.methods.atss.compared.scale_range import scale_range_assign
from cvpods_ext.methods.atss.compared.topk_iou import topk_iou_assign
from cvpods_ext.methods.atss.detector import POINT_BIAS, make_assigner
from tests.cvpods.modeling.test_dense_detectors import (
    CHANNELS,
    CLASSES,
    FIRST,
    GRIDS,
    LEVELS,
    LOCATIONS,
    NOTHING,
    SCALES,
    SECOND,
    STRIDES,
    DenseDetectorTests,
    backbone,
    empty_features,
    ground_truth,
    head_keys,
    make_inputs,
)
from tests.reference.atss import atss_loss_loop, center, centerness

LOSSES = {"loss_cls", "loss_box_reg", "loss_centerness"}
SIDES = [64, 128, 256, 512, 1024]
POSITIVE_TYPES = ["ATSS", "SSC", "IoU", "TOPK"]
POINT = {"REGRESSION_TYPE": "POINT"}


class TestATSSDetector(DenseDetectorTests):
    loss_names = LOSSES
    head_keys = head_keys([0, 1], "centerness") | SCALES
    stub_channels = {"cls_logits": CLASSES, "box_deltas": 4, "centerness": 1}

    def build(self, **arguments):
        head = DenseHead(
            in_channels=CHANNELS,
            num_convs=1,
            num_classes=CLASSES,
            norm="GN",
            quality="centerness",
            num_scales=5,
        )
        anchors = AnchorGrid(
            sizes=[[4 * stride] for stride in STRIDES],
            aspect_ratios=[[1.0]],
            strides=STRIDES,
            offset=0.5,
            persistent=False,
        )
        return ATSS(**{"head": head, "anchor_generator": anchors, **arguments})


def atss(**arguments: Any) -> ATSS:
    """From plain arguments; anchors have a side of 4 strides."""
    return TestATSSDetector().make(**arguments)


def tiny_config(**values: Any) -> ATSSConfig:
    """3 classes, one convolution in each tower; values of MODEL.ATSS."""
    config = ATSSConfig()
    config.MODEL.DEVICE = "cpu"
    config.MODEL.FPN.OUT_CHANNELS = CHANNELS
    config.merge(MODEL={"ATSS": {"NUM_CLASSES": CLASSES, "NUM_CONVS": 1, **values}})
    return config


def from_config(**values: Any) -> ATSS:
    torch.manual_seed(0)
    return ATSS.from_config(tiny_config(**values), backbone=backbone())


def random_predictions(images: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    channels = {"cls_logits": CLASSES, "box_deltas": 4, "centerness": 1}
    return {
        name: torch.randn(images, LOCATIONS, count, generator=random).requires_grad_()
        for name, count in channels.items()
    }


def assign_rows(rows: dict[int, int], rest: int = BACKGROUND):
    """An assigner of a user: location -> box, all others `rest`; the same for every image."""

    def assign(anchors, level_sizes, gt_boxes):
        index = torch.full((len(anchors),), rest)
        index[list(rows)] = torch.tensor(list(rows.values()))
        return Assignment(index, torch.zeros(len(anchors)))

    return assign


# -- who is positive -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [{"POSITIVE_TYPE": name} for name in POSITIVE_TYPES]
    + [POINT, {"POSITIVE_TYPE": "SSC", **POINT}],
    ids=str,
)
def test_training_step(values):
    """One image with boxes, one without; a small step down the gradient lowers the loss."""
    model = from_config(**values).train()
    inputs = make_inputs(FIRST, NOTHING)
    model.zero_grad()
    losses = model(inputs)
    assert set(losses) == LOSSES
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    before = sum(losses.values())
    before.backward()
    for name, parameter in model.head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # Not every level has a positive.
        assert parameter.grad.abs().sum() > 0 or name.startswith("scales"), name
        parameter.data -= 1e-3 * parameter.grad
    with torch.no_grad():
        assert sum(model(inputs).values()) < before


@pytest.mark.parametrize("positive_type", POSITIVE_TYPES)
def test_training_without_a_box(positive_type):
    losses = from_config(POSITIVE_TYPE=positive_type).train()(make_inputs(NOTHING))
    sum(losses.values()).backward()
    assert losses["loss_cls"].isfinite() and losses["loss_cls"] > 0
    assert losses["loss_box_reg"] == 0 and losses["loss_centerness"] == 0


def test_positive_types():
    """Every name is its assigner, with the k and the ranges given, and no two choose alike."""
    generator = AnchorGrid(
        sizes=[[4 * s] for s in STRIDES], aspect_ratios=[[1.0]], strides=STRIDES, offset=0.5
    )
    levels = generator.grid(empty_features())
    anchors, sizes = torch.cat(levels), [len(level) for level in levels]
    boxes = torch.tensor([[4.0, 4, 40, 30], [20, 10, 90, 60], [1, 50, 60, 95]])
    ranges = [(0, 32), (32, 64), (64, 128), (128, 256), (256, math.inf)]
    expected = {
        "ATSS": atss_assign(anchors, sizes, boxes, topk=4),
        "SSC": scale_range_assign(anchors, sizes, boxes, size_ranges=ranges),
        "IoU": max_iou_assign(anchors, sizes, boxes),
        "TOPK": topk_iou_assign(anchors, sizes, boxes, topk=4),
    }
    assert list(expected) == POSITIVE_TYPES
    for name, wanted in expected.items():
        found = make_assigner(name, 4, [32, 64, 128, 256, 512])(anchors, sizes, boxes)
        assert torch.equal(found.gt_index, wanted.gt_index), name
        assert torch.equal(found.quality, wanted.quality), name
    chosen = {tuple(wanted.gt_index.tolist()) for wanted in expected.values()}
    assert len(chosen) == 4


@pytest.mark.parametrize(
    ("scale", "bounds"),
    [(8, [0, 64, 128, 256, 512, math.inf]), (4, [0, 32, 64, 128, 256, math.inf])],
)
def test_size_ranges_from_config(scale, bounds):
    """Strides 8, 16, 32, 64, 128; 8 strides are FCOS' ranges.

    On each level a location at the centre of a box of half side s takes it if s is in the range:
    at the bounds, and not half a pixel beyond them; on the last one, however large.
    """
    assigner = from_config(POSITIVE_TYPE="SSC", ANCHOR_SCALE=scale).assigner
    anchors = torch.tensor([[2992.0, 2992, 3008, 3008]]).repeat(5, 1)
    for level, (low, high) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        for half, fits in (
            (low, True),
            (low - 0.5, False),
            (min(high, 1e5), True),
            (high + 0.5, False),
        ):
            if not 0 < half < math.inf:
                continue
            box = torch.tensor([[3000.0 - half, 3000 - half, 3000 + half, 3000 + half]])
            index = assigner(anchors, [1] * 5, box).gt_index
            assert (index[level].item() == 0) is fits, (level, half)


@pytest.mark.parametrize("positive_type", ["ATSS", "TOPK"])
def test_topk_from_config(positive_type):
    """One level, 16 anchors of side 64, centres 4, 12, 20, 28 both ways: as many as TOPK says.

    All of them contain the box, and it their centres; their IoUs are the same. With one candidate
    the threshold of ATSS is its IoU, and it is positive.
    """
    config = {"POSITIVE_TYPE": positive_type, "IN_FEATURES": ["p3"]}
    anchors = AnchorGrid(sizes=[[64]], aspect_ratios=[[1.0]], strides=[8], offset=0.5).grid(
        [torch.zeros(1, 1, 4, 4)]
    )[0]
    box = torch.tensor([[0.0, 0, 31, 30]])
    one = from_config(**config, TOPK=1).assigner(anchors, [16], box).gt_index
    assert (one == 0).sum() == 1
    if positive_type == "TOPK":
        four = from_config(**config, TOPK=4).assigner(anchors, [16], box).gt_index
        assert (four == 0).sum() == 4


@pytest.mark.parametrize(
    ("key", "value", "options"),
    [("POSITIVE_TYPE", "FCOS", POSITIVE_TYPES), ("REGRESSION_TYPE", "LINE", ["BOX", "POINT"])],
)
def test_unknown_types(key, value, options):
    with pytest.raises(
        ConfigError, match=f"MODEL.ATSS.{key} must be one of.*got '{value}'"
    ) as error:
        from_config(**{key: value})
    assert all(repr(option) in str(error.value) for option in options)


def test_unknown_regression_type_of_the_constructor():
    with pytest.raises(ConfigError, match="MODEL.ATSS.REGRESSION_TYPE"):
        atss(regression_type="point")


def test_a_users_own_assigner():
    """It sees the anchors of all levels and the boxes of each image in turn; its word counts."""
    seen = []

    def assign(anchors, level_sizes, gt_boxes):
        seen.append((anchors, level_sizes, gt_boxes))
        return assign_rows({30: len(gt_boxes) - 1, 31: 0})(anchors, level_sizes, gt_boxes)

    model = atss(assigner=assign)
    priors = model.priors(empty_features())
    truths = [ground_truth(*FIRST), ground_truth(*SECOND)]
    targets = model.assign(torch.cat(priors), [len(level) for level in priors], truths)
    assert [sizes for _, sizes, _ in seen] == [[h * w for h, w in GRIDS]] * 2
    assert all(torch.equal(anchors, torch.cat(priors)) for anchors, _, _ in seen)
    assert [boxes.tolist() for _, _, boxes in seen] == [FIRST[0], SECOND[0]]
    # FIRST has classes 0, 1, 2 and SECOND 2, 0; the last box of each is at 30, the first at 31.
    assert targets.classes[:, 29:33].tolist() == [
        [CLASSES, 2, 0, CLASSES],
        [CLASSES, 0, 2, CLASSES],
    ]
    assert targets.boxes[:, 30].tolist() == [FIRST[0][2], SECOND[0][1]]
    assert targets.boxes.shape == (2, LOCATIONS, 4)
    assert targets.classes.shape == targets.centerness.shape == (2, LOCATIONS)
    # It is used in training, too.
    losses = model.train()(make_inputs(FIRST))
    assert len(seen) == 3 and losses["loss_box_reg"].isfinite()


# -- losses --------------------------------------------------------------------------------------


def test_class_loss_by_hand():
    """All logits 0, one positive, one background, all others ignored.

    Focal loss at p = 1/2, gamma 2, alpha .25: of the wanted class .25 * .25 * log 2, of any other
    .75 * .25 * log 2. The positive has one wanted and two others, the background three others:
    (.0625 + 5 * .1875) log 2 = log 2, divided by one positive.
    """
    assigner = assign_rows({27: 0, 60: BACKGROUND}, rest=IGNORE)
    model = atss(assigner=assigner)
    predictions = {name: torch.zeros_like(p) for name, p in random_predictions().items()}
    losses = model.losses(predictions, model.priors(empty_features()), [ground_truth(*FIRST)])
    assert losses["loss_cls"].item() == pytest.approx(math.log(2), rel=1e-5)
    assert losses["loss_centerness"].item() == pytest.approx(math.log(2), rel=1e-5)


def test_ignored_anchors_do_not_learn():
    """Box (0, 0, 40, 40), anchors of side 32 and stride 8: RetinaNet's positives ignore some.

    Centre (20, 20), row 2 and column 2: the anchor lies within the box, IoU 1024/1600 = .64.
    (28, 20): they share 28 * 32 = 896 of 1024 + 1600 - 896 = 1728, .52: positive.
    (28, 28): 28 * 28 = 784 of 1840, .43: ignored.
    (36, 20): 20 * 32 = 640 of 1984, .32: background.
    """
    model = atss(assigner=max_iou_assign)
    priors = model.priors(empty_features())
    truth = ground_truth([[0, 0, 40, 40]], [1])
    predictions = random_predictions()
    model.losses(predictions, priors, [truth])["loss_cls"].backward()
    moved = predictions["cls_logits"].grad[0].abs().sum(dim=1) > 0
    index = max_iou_assign(torch.cat(priors), [], torch.tensor([[0.0, 0, 40, 40]])).gt_index
    places = {2 * 12 + 2: 0, 2 * 12 + 4: BACKGROUND, 2 * 12 + 3: 0, 3 * 12 + 3: IGNORE}
    for place, wanted in places.items():
        assert index[place] == wanted and moved[place].item() is (wanted != IGNORE), place
    assert torch.equal(moved, index != IGNORE)


@pytest.mark.parametrize("regression_type", ["BOX", "POINT"])
def test_losses_match_the_loop(regression_type):
    """Sums of both images, by the loop, over the normalisers: positives, and their centerness."""
    truths = [FIRST, SECOND]
    model = atss(regression_type=regression_type, reg_weight=3.0, focal_alpha=0.4, focal_gamma=1.5)
    priors = model.priors(empty_features())
    anchors = torch.cat(priors)
    predictions = random_predictions(images=2)
    losses = model.losses(predictions, priors, [ground_truth(*truth) for truth in truths])
    sums, positives, quality = dict.fromkeys(LOSSES, 0.0), 0, 0.0
    for i, (boxes, classes) in enumerate(truths):
        index = atss_assign(
            anchors, [len(level) for level in priors], torch.tensor(boxes).float()
        ).gt_index.tolist()
        one = atss_loss_loop(
            predictions["cls_logits"][i].tolist(),
            model.boxes(predictions["box_deltas"][i], anchors).tolist(),
            predictions["centerness"][i, :, 0].tolist(),
            anchors.tolist(),
            index,
            boxes,
            classes,
            alpha=0.4,
            gamma=1.5,
        )
        sums = {name: sums[name] + value for name, value in one.items()}
        for anchor, g in zip(anchors.tolist(), index, strict=True):
            if g >= 0:
                positives += 1
                quality += centerness(center(anchor), boxes[g])
    assert positives > quality > 1
    assert losses["loss_cls"].item() == pytest.approx(sums["loss_cls"] / positives, rel=1e-4)
    expected = sums["loss_centerness"] / positives
    assert losses["loss_centerness"].item() == pytest.approx(expected, rel=1e-4)
    assert losses["loss_box_reg"].item() == pytest.approx(
        3 * sums["loss_box_reg"] / quality, rel=1e-4
    )


# -- what boxes start from -----------------------------------------------------------------------

ANCHOR = torch.tensor([[68.0, 68, 132, 132]])


def test_point_decodes_by_hand():
    """Anchor of side 64 at (100, 100): 8 pixels a unit; relu makes (1, 2, -3, 4) (1, 2, 0, 4).

    left 100 - 8, top 100 - 16, right 100, bottom 100 + 32.
    """
    boxes = atss(regression_type="POINT").decode(torch.tensor([[1.0, 2, -3, 4]]), ANCHOR, 0)
    assert boxes.tolist() == [[92, 84, 100, 132]]


def test_point_has_the_unit_of_each_anchor():
    """Side 16 at (8, 8): 2 pixels a unit; side 128 at (0, 0): 16; whatever the leading shape."""
    anchors = torch.tensor([[0.0, 0, 16, 16], [-64, -64, 64, 64]])
    outputs = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4]]).expand(3, 2, 4)
    boxes = atss(regression_type="POINT").boxes(outputs, anchors)
    assert boxes.tolist() == [[[6, 4, 14, 16], [-16, -32, 48, 64]]] * 3


def test_box_decodes_by_hand():
    """Weights (10, 10, 5, 5): dx = 5 shifts by half of 64 pixels; dh = 5 log 2 doubles the height.

    Centre (132, 100), size 64 x 128.
    """
    deltas = torch.tensor([[5.0, 0, 0, 5 * math.log(2)]])
    boxes = atss().decode(deltas, ANCHOR, 0)
    assert boxes[0].tolist() == pytest.approx([100, 36, 164, 164])


@pytest.mark.parametrize(("regression_type", "bias"), [("BOX", 0.0), ("POINT", 4.0)])
def test_boxes_start_as_the_anchors(regression_type, bias):
    """With zero weights the head says its bias; 4 units are half a side to all four sides."""
    model = from_config(REGRESSION_TYPE=regression_type).eval()
    assert POINT_BIAS == 4.0 and (model.head.bbox_pred.bias == bias).all()
    nn.init.zeros_(model.head.bbox_pred.weight)
    with torch.no_grad():
        outputs, priors = model.predict(ImageList(torch.rand(1, 3, 96, 96), [(96, 96)]))
    assert [len(level) for level in priors] == [h * w for h, w in GRIDS]
    assert torch.equal(priors[0][0], torch.tensor([-28.0, -28, 36, 36]))
    levels = outputs["box_deltas"][0].split([len(level) for level in priors])
    for i, (deltas, anchors) in enumerate(zip(levels, priors, strict=True)):
        assert torch.allclose(model.decode(deltas, anchors, i), anchors)


PLACES = [3 * 12 + 2, 144 + 2 * 6 + 2]


def point_model() -> tuple[ATSS, list[torch.Tensor]]:
    """Positives at two places: row 3, column 2 of level 0; row 2, column 2 of level 1."""
    assigner = assign_rows({PLACES[0]: 0, PLACES[1]: 1})
    model = atss(regression_type="POINT", assigner=assigner)
    return model, model.priors(empty_features())


def test_point_target_is_the_inverse_of_decoding():
    """Distances of the anchor's centre to the sides / the anchor's side * 8 cost nothing.

    Level 0, side 32, centre (20, 28), box (4, 4, 40, 30): 16, 24, 20, 2 / 32 * 8 = 4, 6, 5, .5.
    Level 1, side 64, centre (40, 40), box (20, 10, 90, 60): 20, 30, 50, 20 / 64 * 8 = 2.5, 3.75,
    6.25, 2.5.
    """
    model, priors = point_model()
    predictions = random_predictions()
    predictions["box_deltas"].data[0, PLACES[0]] = torch.tensor([4.0, 6, 5, 0.5])
    predictions["box_deltas"].data[0, PLACES[1]] = torch.tensor([2.5, 3.75, 6.25, 2.5])
    loss = model.losses(predictions, priors, [ground_truth(*FIRST)])["loss_box_reg"]
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_point_without_positive_outputs():
    """relu makes the boxes points within their targets: IoU 0, hull = union, 1 - GIoU = 1.

    Weighted by centerness and divided by its sum (here above 1) that is 1, times the factor 2.
    Nothing can be learned from behind relu, but nothing breaks either.
    """
    model, priors = point_model()
    wide = [[0, 0, 40, 60], [20, 10, 60, 60]]
    predictions = random_predictions()
    predictions["box_deltas"].data.fill_(-5)
    losses = model.losses(predictions, priors, [ground_truth(wide, [0, 1])])
    assert losses["loss_box_reg"].item() == pytest.approx(2, rel=1e-5)
    sum(losses.values()).backward()
    assert predictions["box_deltas"].grad.isfinite().all()
    assert (predictions["box_deltas"].grad == 0).all()


def test_point_gradient_flows():
    """Of positives, to the sides whose output is above 0; of no other location."""
    model, priors = point_model()
    predictions = random_predictions()
    predictions["box_deltas"].data[:] = torch.tensor([1.0, 2, -3, 4])
    losses = model.losses(predictions, priors, [ground_truth(*FIRST)])
    losses["loss_box_reg"].backward()
    gradient = predictions["box_deltas"].grad[0]
    assert (gradient[PLACES] != 0).tolist() == [[True, True, False, True]] * 2
    others = torch.ones(LOCATIONS, dtype=torch.bool)
    others[PLACES] = False
    assert (gradient[others] == 0).all()


def test_state_dict_is_the_same_for_box_and_point():
    box, point = from_config().state_dict(), from_config(**POINT).state_dict()
    assert list(box) == list(point)
    assert all(box[key].shape == point[key].shape for key in box)
    assert {k for k in box if not k.startswith("backbone.")} == TestATSSDetector.head_keys
    from_config(**POINT).load_state_dict(box)


# -- evaluation, the config ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("regression_type", "expected"), [("BOX", [0, 0, 36, 28]), ("POINT", [12, 4, 28, 20])]
)
def test_score_is_the_root_of_the_product(regression_type, expected):
    """Class logit 0 and centerness logit -log 3: sqrt(1/2 * 1/4); the threshold sees 1/2 only.

    Row 1, column 2 of the finest grid, centre (20, 12), anchor (4, -4, 36, 28), side 32.
    POINT: 2 units of 32 / 8 pixels each way: (12, 4, 28, 20).
    BOX: weights 1; deltas -1/16 and 1/16 move the centre to (18, 14), log 9/8 and log 7/8 make
    the size 36 x 28: (0, 0, 36, 28).
    """
    deltas = [2.0] * 4
    if regression_type == "BOX":
        deltas = [-1 / 16, 1 / 16, math.log(9 / 8), math.log(7 / 8)]
    model = atss(
        regression_type=regression_type, bbox_reg_weights=(1.0, 1, 1, 1), score_threshold=0.4
    )
    logits = torch.full((1, LOCATIONS, CLASSES), -50.0)
    logits[0, 14, 2] = 0
    outputs = {
        "cls_logits": logits,
        "box_deltas": torch.tensor(deltas).expand(1, LOCATIONS, 4),
        "centerness": torch.full((1, LOCATIONS, 1), -math.log(3)),
    }
    (found,) = model.inference(outputs, model.priors(empty_features()), [(96, 96)])
    assert found.scores.tolist() == pytest.approx([math.sqrt(1 / 8)])
    assert found.pred_classes.tolist() == [2]
    assert found.pred_boxes.tensor[0].tolist() == pytest.approx(expected, abs=1e-4)


def test_evaluation_with_points():
    found = from_config(SCORE_THRESH_TEST=0.0, **POINT).eval()(make_inputs(FIRST))[0]["instances"]
    assert 0 < len(found) <= 100 and found.pred_boxes.tensor.isfinite().all()


def test_published_defaults():
    own = ATSSConfig().MODEL.ATSS
    assert (own.POSITIVE_TYPE, own.REGRESSION_TYPE, own.TOPK) == ("ATSS", "BOX", 9)
    assert (own.ANCHOR_SCALE, own.ANCHOR_OFFSET) == (8, 0.5)
    assert (own.FOCAL_LOSS_ALPHA, own.FOCAL_LOSS_GAMMA, own.PRIOR_PROB) == (0.25, 2.0, 0.01)
    assert (own.REG_WEIGHT, tuple(own.BBOX_REG_WEIGHTS)) == (2.0, (10, 10, 5, 5))
    model = from_config()
    assert model.assigner.func is atss_assign and model.assigner.keywords == {
        "topk": 9,
        "inside": 0.0,
    }
    cells = [cell.tolist() for cell in model.anchor_generator.cell_anchors]
    assert cells == [[[-side / 2, -side / 2, side / 2, side / 2]] for side in SIDES]


def test_config_values_reach_the_detector():
    """Every key of ATSS that no other test sets, each with a value of its own."""
    model = from_config(
        NUM_CLASSES=2,
        NUM_CONVS=2,
        IN_FEATURES=["p3", "p4"],
        PRIOR_PROB=0.1,
        ANCHOR_SCALE=6,
        ANCHOR_OFFSET=0.25,
        BBOX_REG_WEIGHTS=(1.0, 2.0, 3.0, 4.0),
        USE_DCN_IN_TOWER=True,
        REG_WEIGHT=1.5,
        FOCAL_LOSS_GAMMA=1.0,
        FOCAL_LOSS_ALPHA=0.3,
        SCORE_THRESH_TEST=0.2,
        TOPK_CANDIDATES_TEST=12,
        NMS_THRESH_TEST=0.35,
    )
    assert model.num_classes == model.head.cls_score.out_channels == 2
    assert model.in_features == LEVELS[:2] and len(model.head.scales) == 2
    assert torch.allclose(model.head.cls_score.bias.sigmoid(), torch.tensor(0.1))
    assert model.box2box_transform.weights == (1, 2, 3, 4)
    assert (model.reg_weight, model.focal_gamma, model.focal_alpha) == (1.5, 1.0, 0.3)
    assert (model.score_threshold, model.topk_candidates) == (0.2, 12)
    assert model.nms_threshold == 0.35
    for tower in (model.head.cls_subnet, model.head.bbox_subnet):
        kinds = [type(layer) for layer in tower]
        assert kinds == [nn.Conv2d, nn.GroupNorm, nn.ReLU, DFConv2d, nn.GroupNorm, nn.ReLU]
    # Stride 16, side 96, the first centre at 4.
    _, second = model.priors(empty_features()[:2])
    assert second[0].tolist() == [-44, -44, 52, 52]
