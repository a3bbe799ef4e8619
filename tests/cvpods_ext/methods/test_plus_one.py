"""MODEL.PLUS_ONE: boxes as in the code of FreeAnchor's and ATSS' authors, against loops over it.

Images of 64 x 96 pixels, resized by 2 / 3 from 96 x 144; boxes of the loops are inclusive.
"""

import math

import numpy as np
import pytest
import torch

from cvpods.configs import FCOSConfig
from cvpods.data.transforms import build_transform_gens
from cvpods.modeling.meta_arch import FCOSDetector
from cvpods.modeling.postprocessing import detector_postprocess
from cvpods.structures import CONTINUOUS, LAST_PIXEL, Boxes, Instances
from cvpods.utils.errors import ConfigError
from cvpods_ext.configs.frameworks import mrcnn
from cvpods_ext.methods.atss import ATSS, ATSSConfig
from cvpods_ext.methods.auto_assign import AutoAssign, AutoAssignConfig
from cvpods_ext.methods.free_anchor import FreeAnchor, FreeAnchorConfig
from cvpods_ext.methods.free_anchor.loss import free_anchor_loss
from tests.cvpods.modeling.test_dense_detectors import CHANNELS, CLASSES, STRIDES, backbone
from tests.reference import maskrcnn_benchmark as theirs
from tests.reference.atss import center, centerness, focal_loss_loop
from tests.reference.boxes import giou

IMAGE, ORIGINAL = (64, 96), (96, 144)
GRIDS = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
SIZES = [32, 64, 128, 256, 512]
FEATURES = [torch.zeros(1, 1, *grid) for grid in GRIDS]
# Odd numbers, so that no two anchors are equally near.
BOXES = [[9.31, 12.17, 75.83, 66.29], [60.7, 6.43, 141.1, 90.87], [30.59, 48.91, 63.37, 93.2]]
GT_CLASSES = [1, 0, 2]


def build(config_class, detector, group, **values):
    config = config_class()
    config.MODEL.FPN.OUT_CHANNELS = CHANNELS
    config.override(mrcnn(group))
    keys = {"NUM_CLASSES": CLASSES, "NUM_CONVS": 1, **values}
    config.override({f"MODEL.{group}.{key}": value for key, value in keys.items()})
    return detector.from_config(config, backbone())


def atss(**values):
    return build(ATSSConfig, ATSS, "ATSS", **values)


def free_anchor():
    return build(FreeAnchorConfig, FreeAnchor, "FREE_ANCHOR")


def anchors_of(method):
    """Every level's anchors in our order: cell by cell, sizes, then ratios."""
    result = []
    for (height, width), stride, side in zip(GRIDS, STRIDES, SIZES, strict=True):
        if method == "atss":
            sizes, ratios, first = [8.0 * stride], [1.0], 0.5
        else:
            sizes, ratios = [side * 2 ** (i / 3) for i in range(3)], [0.5, 1.0, 2.0]
            first = 0.0
        cell = theirs.cell_anchors(stride, sizes, ratios, first)
        result += [
            theirs.shifted(cell[one, ratio], column * stride, row * stride)
            for row in range(height)
            for column in range(width)
            for one in sizes
            for ratio in ratios
        ]
    return result


def predictions(count, seed, quality):
    random = torch.Generator().manual_seed(seed)
    outputs = {
        "cls_logits": torch.randn(1, count, CLASSES, generator=random) - 1.5,
        "box_deltas": torch.randn(1, count, 4, generator=random) * 2,
    }
    if quality:
        outputs["centerness"] = torch.randn(1, count, 1, generator=random)
    return outputs


def found_by_loop(anchors, outputs, decode, threshold):
    """[(score, class, box as COCO takes it)], best first."""
    candidates = []
    classes, boxes = outputs["cls_logits"][0].tolist(), outputs["box_deltas"][0].tolist()
    for j, anchor in enumerate(anchors):
        for k, logit in enumerate(classes[j]):
            score = 1 / (1 + math.exp(-logit))
            if score <= 0.05:
                continue
            if "centerness" in outputs:
                quality = 1 / (1 + math.exp(-outputs["centerness"][0, j].item()))
                score = math.sqrt(score * quality)
            box = theirs.clipped(decode(boxes[j], anchor), IMAGE[1], IMAGE[0])
            candidates.append((score, k, box))
    kept = theirs.nms(candidates, threshold)[:100]
    return [(s, k, theirs.with_sides(theirs.resized(box, 1.5, 1.5))) for s, k, box in kept]


@pytest.mark.parametrize("method", ["free_anchor", "atss", "atss point"])
def test_anchors(method):
    """Theirs are ours without the last pixel's width, to the float's precision."""
    model = free_anchor() if method == "free_anchor" else atss()
    ours = torch.cat(model.priors(FEATURES))
    expected = torch.tensor([theirs.with_sides(box) for box in anchors_of(method.split()[0])])
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("method", ["free_anchor", "atss", "atss point"])
def test_detections(method, seed):
    """Decode, clip, NMS and scaling, box for box."""
    if method == "free_anchor":
        model, decode, threshold = free_anchor(), theirs.decode, 0.5
    elif method == "atss":
        model, decode, threshold = atss(), theirs.decode, 0.6
    else:
        model = atss(REGRESSION_TYPE="POINT")
        decode, threshold = theirs.decode_point, 0.6
    anchors = anchors_of(method.split()[0])
    outputs = predictions(len(anchors), seed, quality=method != "free_anchor")
    expected = found_by_loop(anchors, outputs, decode, threshold)
    (result,) = model.inference(outputs, model.priors(FEATURES), [IMAGE])
    image = torch.zeros(3, *IMAGE)
    found = model.postprocess(result, {"image": image, "height": 96, "width": 144})
    assert len(found) == len(expected) > 50
    assert found.pred_classes.tolist() == [k for _, k, _ in expected]
    torch.testing.assert_close(found.scores, torch.tensor([s for s, _, _ in expected]))
    boxes = torch.tensor([box for _, _, box in expected])
    torch.testing.assert_close(found.pred_boxes.tensor, boxes, rtol=1e-4, atol=2e-3)


def test_the_half_pixel_matters():
    """Without the keys, boxes of ATSS lie half a pixel elsewhere, and are scaled otherwise."""
    config = ATSSConfig()
    config.MODEL.FPN.OUT_CHANNELS = CHANNELS
    config.override({"MODEL.ATSS.NUM_CLASSES": CLASSES, "MODEL.ATSS.NUM_CONVS": 1})
    plain = ATSS.from_config(config, backbone())
    ours, moved = torch.cat(plain.priors(FEATURES)), torch.cat(atss().priors(FEATURES))
    torch.testing.assert_close(moved - ours, torch.full_like(ours, 0.5))


def targets(mirrored=False):
    """The ground truth of an image as the data pipeline gives it: resized, then mirrored or not."""
    pipeline = [("ResizeShortestEdge", {"short_edge_length": 64, "sample_style": "choice"})]
    pipeline += [("RandomFlip", {"prob": 1.0})] if mirrored else []
    image = np.zeros((*ORIGINAL, 3), dtype=np.uint8)
    boxes = [{"bbox": box, "category_id": 0} for box in BOXES]
    for transform in build_transform_gens(pipeline, plus_one=True):
        image, boxes = transform(image, boxes)
    assert image.shape[:2] == IMAGE
    found = Boxes([box["bbox"] for box in boxes])
    return [Instances(IMAGE, gt_boxes=found, gt_classes=torch.tensor(GT_CLASSES))]


def inclusive_boxes():
    return [theirs.resized(theirs.without_sides(tuple(box)), 2 / 3, 2 / 3) for box in BOXES]


def mirrored(box, width):
    """Theirs: x1 = width - x2 - 1."""
    return (width - box[2] - 1, box[1], width - box[0] - 1, box[3])


@pytest.mark.parametrize("flip", [False, True])
def test_ground_truth(flip):
    """Theirs is read without the last pixel, scaled, and mirrored then."""
    boxes = [mirrored(box, IMAGE[1]) if flip else box for box in inclusive_boxes()]
    expected = torch.tensor([theirs.with_sides(box) for box in boxes])
    (target,) = targets(flip)
    torch.testing.assert_close(target.gt_boxes.tensor, expected)
    plain = torch.tensor(BOXES) * 2 / 3
    plain[:, [0, 2]] = IMAGE[1] - plain[:, [2, 0]] if flip else plain[:, [0, 2]]
    assert (target.gt_boxes.tensor - plain).abs().max() > 0.3


@pytest.mark.parametrize("wanted", [False, True])
def test_the_data_pipeline_is_told(wanted):
    """By MODEL.PLUS_ONE, also within a list of transforms; not by a step that says otherwise."""
    resize = ("ResizeShortestEdge", {"short_edge_length": 64, "sample_style": "choice"})
    steps = [
        resize,
        ("Resize", {"shape": 64}),
        ("ResizeLongestEdge", {"long_edge_length": [64, 64]}),
    ]
    made = build_transform_gens([*steps, ("RandomList", {"transforms": steps})], plus_one=wanted)
    expected = LAST_PIXEL if wanted else CONTINUOUS
    assert all(one.pixels is expected for one in made[:3])
    assert all(one.pixels is expected for one in made[3].transforms)
    own = ("Resize", {"shape": 64, "plus_one": not wanted})
    assert build_transform_gens([own], plus_one=wanted)[0].pixels is not expected


def atss_by_loop(anchors, outputs, boxes):
    """ATSS' assignment and loss sums, every step in inclusive boxes."""
    levels, start = [], 0
    for height, width in GRIDS:
        levels.append(range(start, start + height * width))
        start += height * width
    best = [(-1.0, -1)] * len(anchors)
    for g, gt in enumerate(boxes):
        chosen = []
        for level in levels:
            near = sorted(level, key=lambda j: math.dist(center(anchors[j]), center(gt)))
            chosen += near[:9]
        ious = torch.tensor([theirs.iou(anchors[j], gt) for j in chosen])
        for j, value in zip(chosen, ious.tolist(), strict=True):
            x, y = center(anchors[j])
            inside = min(x - gt[0], y - gt[1], gt[2] - x, gt[3] - y) > 0.01
            if inside and value >= (ious.mean() + ious.std()).item() and value > best[j][0]:
                best[j] = (value, g)
    sums = {"loss_cls": 0.0, "loss_box_reg": 0.0, "loss_centerness": 0.0}
    weights, positives = 0.0, 0
    for j, (_, g) in enumerate(best):
        for k, logit in enumerate(outputs["cls_logits"][0, j].tolist()):
            target = int(g >= 0 and GT_CLASSES[g] == k)
            sums["loss_cls"] += focal_loss_loop(logit, target, 0.25, 2.0)
        if g < 0:
            continue
        wanted = centerness(center(anchors[j]), boxes[g])
        predicted = theirs.decode(outputs["box_deltas"][0, j].tolist(), anchors[j])
        sums["loss_box_reg"] += 2 * wanted * (1 - giou(predicted, boxes[g]))
        p = 1 / (1 + math.exp(-outputs["centerness"][0, j].item()))
        sums["loss_centerness"] -= wanted * math.log(p) + (1 - wanted) * math.log(1 - p)
        weights, positives = weights + wanted, positives + 1
    assert positives > 5 and weights > 1
    divisors = {"loss_cls": positives, "loss_box_reg": weights, "loss_centerness": positives}
    return {name: value / divisors[name] for name, value in sums.items()}


@pytest.mark.parametrize("seed", range(3))
def test_losses_of_atss(seed):
    """Assignment by +1 IoUs, centres inside by 0.01; centerness and GIoU of inclusive boxes."""
    model, anchors = atss(), anchors_of("atss")
    outputs = predictions(len(anchors), seed, quality=True)
    outputs["box_deltas"] *= 0.2
    expected = atss_by_loop(anchors, outputs, inclusive_boxes())
    losses = model.losses(outputs, model.priors(FEATURES), targets())
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_loss_of_free_anchor():
    """Its IoUs and coder are those of boxes with sides, so the loss is that of moved boxes."""
    model, anchors = free_anchor(), anchors_of("free_anchor")
    outputs = predictions(len(anchors), 0, quality=False)
    losses = model.losses(outputs, model.priors(FEATURES), targets())
    expected = free_anchor_loss(
        outputs["cls_logits"],
        outputs["box_deltas"],
        torch.tensor([theirs.with_sides(box) for box in anchors]),
        [torch.tensor([theirs.with_sides(box) for box in inclusive_boxes()])],
        [torch.tensor(GT_CLASSES)],
    )
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)


def test_scaling_by_hand():
    """Inclusive (2, 3, 9, 5) is our (2, 3, 10, 6); twice that (4, 6, 18, 10), our (.., 19, 11)."""
    boxes = torch.tensor([[2.0, 3.0, 10.0, 6.0]])
    assert LAST_PIXEL.scale(boxes, 2.0, 2.0).tolist() == [[4.0, 6.0, 19.0, 11.0]]
    assert LAST_PIXEL.scale(boxes, 1.0, 1.0).tolist() == boxes.tolist()


def test_clipping_by_hand():
    """Into 10 x 20 pixels, 0 ... 9 and 0 ... 19: what lies outside keeps a pixel at the border."""
    boxes = torch.tensor([[-5.0, -5, 3, 4], [15.0, 5, 40, 40], [30.0, 2, 35, 4]])
    expected = [[0.0, 0, 3, 4], [15.0, 5, 20, 10], [19.0, 2, 20, 4]]
    assert LAST_PIXEL.clip(boxes, 10, 20).tolist() == expected


def test_no_boxes():
    nothing = Instances(IMAGE, pred_boxes=Boxes([]))
    assert len(detector_postprocess(nothing, 96, 144, pixels=LAST_PIXEL)) == 0


@pytest.mark.parametrize(
    "config_class, detector", [(FCOSConfig, FCOSDetector), (AutoAssignConfig, AutoAssign)]
)
def test_methods_without_it_refuse_it(config_class, detector):
    config = config_class()
    config.MODEL.FPN.OUT_CHANNELS = CHANNELS
    config.MODEL.PLUS_ONE = True
    with pytest.raises(ConfigError, match=r"MODEL\.PLUS_ONE"):
        detector.from_config(config, backbone())
