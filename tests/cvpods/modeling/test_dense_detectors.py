"""RetinaNet and FCOS: one set of tests for every dense detector, then what each one adds."""

import functools
import math

import pytest
import torch
from torch import nn

from cvpods.configs import FCOSConfig, RetinaNetConfig
from cvpods.layers import ShapeSpec
from cvpods.modeling.anchor_generator import AnchorGrid, DefaultAnchorGenerator, PointGrid
from cvpods.modeling.backbone import FPN, Backbone, ResNet, build_retinanet_resnet_fpn_backbone
from cvpods.modeling.backbone.fpn import LastLevelP6P7
from cvpods.modeling.meta_arch import FCOS, DenseHead, FCOSDetector, RetinaNet, RetinaNetDetector
from cvpods.modeling.meta_arch import fcos as fcos_module
from cvpods.modeling.meta_arch import retinanet as retinanet_module
from cvpods.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from cvpods.modeling.meta_arch.fcos import Scale, centerness_of
from cvpods.structures import Boxes, Instances
from cvpods.utils.errors import ConfigError, DataError
from tests.reference.fcos import distances, fcos_assign_loop
from tests.reference.retinanet import box_deltas, retinanet_assign_loop
from tests.seeds import each_seed

# 64 channels: GroupNorm's 32 groups need two values each on the one cell of P7.
CLASSES, CHANNELS = 3, 64
LEVELS = ["p3", "p4", "p5", "p6", "p7"]
STRIDES = [8, 16, 32, 64, 128]
RANGES = [(-1, 32), (32, 64), (64, 128), (128, 256), (256, math.inf)]
# Images of 64 x 96 and 70 x 60 are padded to 96 x 96: 144 + 36 + 9 + 4 + 1 locations.
SIZES = [(64, 96), (70, 60)]
GRIDS = [(12, 12), (6, 6), (3, 3), (2, 2), (1, 1)]
LOCATIONS = sum(h * w for h, w in GRIDS)
# State-dict keys of the factors that FCOS' kind of head learns for each level.
SCALES = {f"head.scales.{i}.scale" for i in range(5)}

FIRST = ([[4, 4, 40, 30], [20, 10, 90, 60], [50, 5, 58, 20]], [0, 1, 2])
SECOND = ([[5, 8, 55, 66], [30, 30, 45, 41]], [2, 0])
NOTHING = ([], [])


@functools.cache
def backbone():
    torch.manual_seed(0)
    bottom_up = ResNet(
        depth=18,
        out_features=["res3", "res4", "res5"],
        norm="FrozenBN",
        res2_out_channels=64,
        freeze_at=4,
    )
    top_block = LastLevelP6P7(CHANNELS, CHANNELS, "p5")
    return FPN(bottom_up, ["res3", "res4", "res5"], CHANNELS, top_block=top_block)


def ground_truth(boxes, classes, size=SIZES[0]):
    return Instances(size, gt_boxes=Boxes(boxes), gt_classes=torch.tensor(classes).long())


def make_inputs(*truths):
    """Images of SIZES in turn, one for each (boxes, classes)."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "instances": ground_truth(*truth, size),
        }
        for truth, size in zip(truths, SIZES * len(truths), strict=False)
    ]


def loss_history(model, inputs, steps, lr):
    """Train with AdamW; the total loss before each step."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr)
    history = []
    for _ in range(steps):
        total = sum(model(inputs).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(total.item())
    return history


def empty_features(batch=1):
    return [torch.zeros(batch, CHANNELS, *grid) for grid in GRIDS]


class StubHead(nn.Module):
    """Predicts one trainable number everywhere."""

    def __init__(self, channels, value):
        super().__init__()
        self.channels = channels
        self.value = nn.Parameter(torch.tensor(float(value)))

    def forward(self, features):
        return {
            name: [
                self.value.expand(len(x), channels, *x.shape[-2:]) + 0 * x.mean() for x in features
            ]
            for name, channels in self.channels.items()
        }


class DenseDetectorTests:
    """A subclass says how its detector is made and what its losses and head are called."""

    loss_names: set[str]
    head_keys: set[str]
    stub_channels: dict[str, int]
    other_keys: set[str] = set()

    def build(self, **arguments):
        raise NotImplementedError

    def make(self, **arguments):
        shared = backbone()  # made once, and then without random numbers
        torch.manual_seed(1)
        return self.build(
            **{
                "backbone": shared,
                "in_features": LEVELS,
                "num_classes": CLASSES,
                "pixel_mean": (100.0, 110.0, 120.0),
                "pixel_std": (58.0, 57.0, 59.0),
                **arguments,
            }
        )

    def check_losses(self, losses):
        assert set(losses) == self.loss_names
        for loss in losses.values():
            assert loss.shape == () and loss.dtype == torch.float32
            assert loss.isfinite() and loss >= 0 and loss.requires_grad

    def losses_of(self, *truths):
        """Numbers of a fresh model, without gradients."""
        with torch.no_grad():
            return {k: v.item() for k, v in self.make().train()(make_inputs(*truths)).items()}

    def train(self, model, inputs):
        """One pass forwards and backwards; returns the losses, already checked."""
        model.zero_grad()
        losses = model.train()(inputs)
        self.check_losses(losses)
        sum(losses.values()).backward()
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        return losses

    @pytest.mark.parametrize(
        "truths",
        [[FIRST, SECOND], [FIRST, NOTHING], [NOTHING, SECOND], [FIRST]],
        ids=["full", "second empty", "first empty", "one image"],
    )
    def test_training(self, truths):
        model = self.make()
        losses = self.train(model, make_inputs(*truths))
        assert all(loss > 0 for loss in losses.values())
        for name, parameter in model.head.named_parameters():
            if not name.startswith("scales"):  # not every level has an object
                assert parameter.grad.abs().sum() > 0, name

    @pytest.mark.parametrize("images", [1, 2])
    def test_training_without_a_box(self, images):
        losses = self.train(self.make(), make_inputs(*[NOTHING] * images))
        assert losses["loss_cls"] > 0
        assert all(loss == 0 for name, loss in losses.items() if name != "loss_cls")

    @pytest.mark.parametrize(
        "box", [[10, 10, 10, 30], [10, 10, 30, 10], [16, 16, 16, 16]], ids=["x", "y", "point"]
    )
    def test_box_without_area_changes_nothing(self, box):
        boxes, classes = FIRST
        losses = self.train(self.make(), make_inputs(([*boxes, box], [*classes, 1])))
        for name, expected in self.losses_of(FIRST).items():
            assert losses[name].item() == pytest.approx(expected, rel=1e-4), name

    def test_a_thousand_boxes(self):
        generator = torch.Generator().manual_seed(0)
        low = torch.rand(1000, 2, generator=generator) * 50
        boxes = torch.cat([low, low + 1 + torch.rand(1000, 2, generator=generator) * 40], 1)
        self.train(self.make(), make_inputs((boxes, [i % CLASSES for i in range(1000)])))

    def test_order_of_boxes_does_not_matter(self):
        boxes, classes = FIRST
        permuted = self.losses_of((boxes[::-1], classes[::-1]))
        assert permuted == pytest.approx(self.losses_of(FIRST), rel=1e-4)

    def test_two_passes_before_one_backward(self):
        """Semi-supervised experiments add the losses of two batches."""
        model = self.make().train()
        model.zero_grad()
        first, second = model(make_inputs(FIRST)), model(make_inputs(SECOND))
        (sum(first.values()) + sum(second.values())).backward()
        assert model.head.cls_score.weight.grad.isfinite().all()

    def test_targets_is_another_name_of_instances(self):
        inputs = make_inputs(FIRST)
        inputs[0]["targets"] = inputs[0].pop("instances")
        losses = self.make().train()(inputs)
        assert {k: v.item() for k, v in losses.items()} == pytest.approx(self.losses_of(FIRST))

    def test_training_needs_instances(self):
        with pytest.raises(DataError, match="'instances'"):
            self.make().train()([{"image": make_inputs(FIRST)[0]["image"]}])

    @pytest.mark.parametrize("label", [-1, CLASSES, 80])
    def test_classes_of_another_data_set(self, label):
        inputs = make_inputs(FIRST, SECOND)
        inputs[1]["instances"].gt_classes[0] = label
        with pytest.raises(DataError, match=rf"gt_classes must lie in \[0, {CLASSES}\).*{label}"):
            self.make().train()(inputs)

    def test_evaluation(self):
        model = self.make(score_threshold=0.0).eval()
        inputs = make_inputs(FIRST, SECOND)
        del inputs[1]["instances"]
        results = model(inputs)
        assert [set(result) for result in results] == [{"instances"}] * 2
        for result, size in zip(results, SIZES, strict=True):
            found = result["instances"]
            assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
            assert found.image_size == size and 0 < len(found) <= 100
            assert isinstance(found.pred_boxes, Boxes) and found.scores.dtype == torch.float32
            assert found.pred_classes.dtype == torch.int64
            assert set(found.pred_classes.tolist()) <= set(range(CLASSES))
            assert torch.equal(found.scores, found.scores.sort(descending=True).values)
            assert ((found.scores > 0) & (found.scores <= 1)).all()
            corners = found.pred_boxes.tensor
            assert (corners >= 0).all() and not found.scores.requires_grad
            assert (corners[:, 2] <= size[1]).all() and (corners[:, 3] <= size[0]).all()
            assert found.pred_boxes.nonempty().all()

    def test_at_most_so_many_detections(self):
        model = self.make(score_threshold=0.0, max_detections=1000).eval()
        everything = model(make_inputs(FIRST))[0]["instances"]
        model.max_detections_per_image = 7
        best = model(make_inputs(FIRST))[0]["instances"]
        assert len(everything) > 7 >= len(best) > 0
        assert torch.equal(best.scores, everything.scores[: len(best)])

    def test_detections_are_in_the_original_image(self):
        """64 x 96 comes from 128 x 288: y doubles, x trebles."""
        model = self.make(score_threshold=0.0).eval()
        inputs = make_inputs(FIRST)
        small = model(inputs)[0]["instances"]
        large = model([{**inputs[0], "height": 128, "width": 288}])[0]["instances"]
        assert large.image_size == (128, 288) and len(large) == len(small) > 0
        factors = torch.tensor([3.0, 2, 3, 2])
        assert torch.allclose(large.pred_boxes.tensor, small.pred_boxes.tensor * factors)
        assert torch.equal(large.scores, small.scores)

    def test_nothing_found(self):
        found = self.make(score_threshold=1.0).eval()(make_inputs(FIRST))[0]["instances"]
        assert len(found) == 0 and found.pred_boxes.tensor.shape == (0, 4)
        assert found.scores.shape == found.pred_classes.shape == (0,)

    def test_candidates_per_level(self):
        """One candidate from each of 5 levels; an IoU is never above 1, so NMS drops none."""
        model = self.make(score_threshold=0.0, topk_candidates=1, nms_threshold=1.0).eval()
        assert 1 <= len(model(make_inputs(FIRST))[0]["instances"]) <= 5
        model.topk_candidates = 2
        assert 1 <= len(model(make_inputs(FIRST))[0]["instances"]) <= 10

    def test_bfloat16_autocast(self):
        model = self.make(score_threshold=0.0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            self.train(model, make_inputs(FIRST, SECOND))
            found = model.eval()(make_inputs(FIRST))[0]["instances"]
        assert found.scores.dtype == found.pred_boxes.tensor.dtype == torch.float32
        assert len(found) > 0

    def test_losses_are_computed_outside_autocast(self, monkeypatch):
        model, seen = self.make().train(), []
        losses = model.losses
        monkeypatch.setattr(
            model,
            "losses",
            lambda *a: seen.append(torch.is_autocast_enabled("cpu")) or losses(*a),
        )
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            model(make_inputs(FIRST))
        assert seen == [False]

    @pytest.mark.parametrize(
        ("dtype", "value"),
        [
            (torch.float32, 50.0),
            (torch.float32, -50.0),
            (torch.float32, 1e4),
            (torch.float32, 16.7),
            (torch.bfloat16, 6.4),
        ],
    )
    def test_extreme_logits_stay_finite(self, dtype, value):
        """Sigmoid is exactly 1 from 6.3 on in bfloat16, from 16.6 on in float32."""
        head = StubHead(self.stub_channels, value).to(dtype)
        model = self.make(head=head, score_threshold=0.0)
        model.zero_grad()
        losses = model.train()(make_inputs(FIRST, NOTHING))
        self.check_losses(losses)
        sum(losses.values()).backward()
        assert head.value.grad.isfinite()
        found = model.eval()(make_inputs(FIRST))[0]["instances"]
        assert found.scores.isfinite().all() and found.pred_boxes.tensor.isfinite().all()

    def test_state_dict_keys(self):
        keys = {key for key in self.make().state_dict() if not key.startswith("backbone.")}
        assert keys == self.head_keys | self.other_keys

    def test_attributes_that_experiments_read(self):
        model = self.make(nms_threshold=0.7, nms_type="cluster", max_detections=9)
        assert (model.nms_threshold, model.nms_type, model.max_detections_per_image) == (
            0.7,
            "cluster",
            9,
        )
        assert model.device == torch.device("cpu") and model.num_classes == CLASSES

    @pytest.mark.parametrize("nms_type", ["softnms-linear", "softnms-gaussian", "cluster"])
    def test_nms_types(self, nms_type):
        model = self.make(score_threshold=0.0, topk_candidates=20, nms_type=nms_type).eval()
        scores = model(make_inputs(FIRST))[0]["instances"].scores
        assert len(scores) > 0 and torch.equal(scores, scores.sort(descending=True).values)

    def test_mean_and_std_belong_together(self):
        with pytest.raises(ConfigError, match="PIXEL_STD"):
            self.make(pixel_std=(1.0,))

    def test_images_are_normalised_then_padded_with_zeros(self):
        batch = self.make().preprocess_image(make_inputs(FIRST, SECOND))
        assert batch.tensor.shape == (2, 3, 96, 96) and batch.image_sizes == SIZES
        red = make_inputs(FIRST)[0]["image"][0].float()
        assert torch.allclose(batch[0][0], (red - 100) / 58)
        assert (batch.tensor[0, :, 64:] == 0).all() and (batch.tensor[1, :, :, 60:] == 0).all()


def head_keys(convs, *predictors):
    """Keys of a head whose towers have layers of the given indices."""
    names = [f"{tower}_subnet.{i}" for tower in ("cls", "bbox") for i in convs]
    names += ["cls_score", "bbox_pred", *predictors]
    return {f"head.{name}.{part}" for name in names for part in ("weight", "bias")}


class TestRetinaNetDetector(DenseDetectorTests):
    loss_names = {"loss_cls", "loss_box_reg"}
    head_keys = head_keys([0])
    other_keys = {"loss_normalizer"} | {f"anchor_generator.cell_anchors.{i}" for i in range(5)}
    stub_channels = {"cls_logits": 2 * CLASSES, "box_deltas": 2 * 4}

    def build(self, **arguments):
        head = DenseHead(in_channels=CHANNELS, num_convs=1, num_classes=CLASSES, num_anchors=2)
        sizes = [[2 * stride, 4 * stride] for stride in STRIDES]
        anchors = AnchorGrid(sizes=sizes, aspect_ratios=[[1.0]], strides=STRIDES)
        return RetinaNetDetector(**{"head": head, "anchor_generator": anchors, **arguments})


class TestFCOSDetector(DenseDetectorTests):
    loss_names = {"loss_cls", "loss_box_reg", "loss_centerness"}
    head_keys = head_keys([0, 1], "centerness") | SCALES
    stub_channels = {"cls_logits": CLASSES, "box_deltas": 4, "centerness": 1}
    options = {}

    def build(self, **arguments):
        head = DenseHead(
            in_channels=CHANNELS,
            num_convs=1,
            num_classes=CLASSES,
            norm="GN",
            quality="centerness",
            num_scales=5,
        )
        own = {
            "head": head,
            "point_generator": PointGrid(strides=STRIDES),
            "size_ranges": RANGES,
        }
        return FCOSDetector(**{**own, **self.options, **arguments})


class TestFCOSWithCenterSampling(TestFCOSDetector):
    options = {"center_sampling_radius": 1.5, "norm_reg_targets": True, "iou_loss_type": "giou"}


# -- RetinaNet -----------------------------------------------------------------------------------


def retinanet(**arguments):
    return TestRetinaNetDetector().make(**arguments)


def test_retinanet_assigns_by_hand():
    """One box (0, 0, 20, 20) of class 2 and four anchors.

    (0, 0, 20, 20)   IoU 1                             object, deltas 0
    (0, 0, 20, 45)   400 / 900 = 0.44                  ignored
    (0, 0, 20, 60)   400 / 1200 = 0.33                 background
    (10, 0, 30, 20)  200 / 600 = 0.33                  background
    """
    anchors = torch.tensor([[0.0, 0, 20, 20], [0, 0, 20, 45], [0, 0, 20, 60], [10, 0, 30, 20]])
    classes, deltas = retinanet().assign(anchors, ground_truth([[0, 0, 20, 20]], [2]))
    assert classes.tolist() == [2, -1, CLASSES, CLASSES]
    assert deltas[0].tolist() == [0, 0, 0, 0] and deltas.shape == (4, 4)


def test_retinanet_assigns_a_low_quality_match():
    """The best of a bad lot (IoU 1/3) is an object: half a width to the left, same size."""
    anchors = torch.tensor([[10.0, 0, 30, 20], [15, 0, 35, 20]])
    classes, deltas = retinanet().assign(anchors, ground_truth([[0, 0, 20, 20]], [1]))
    assert classes.tolist() == [1, CLASSES] and deltas[0].tolist() == [-0.5, 0, 0, 0]


@each_seed(20)
def test_retinanet_assign_matches_the_loop(seed):
    """Whole-numbered boxes, so that equal IoUs are equal in any arithmetic."""
    model = retinanet()
    generator = torch.Generator().manual_seed(seed)
    count = seed % 5 + 1
    low = torch.randint(0, 60, (count, 2), generator=generator).float()
    boxes = torch.cat([low, low + torch.randint(5, 60, (count, 2), generator=generator)], 1)
    gt_classes = torch.randint(0, CLASSES, (count,), generator=generator).tolist()
    anchors = torch.cat(model.priors(empty_features()))
    classes, deltas = model.assign(anchors, ground_truth(boxes, gt_classes))
    expected = retinanet_assign_loop(anchors.tolist(), boxes.tolist())
    wanted = [{1: gt_classes[i], 0: CLASSES, -1: -1}[label] for label, i in expected]
    assert classes.tolist() == wanted and 0 < sum(label == 1 for label, _ in expected) < 388
    for row, (label, index) in enumerate(expected):
        if label == 1:
            truth = box_deltas(anchors[row].tolist(), boxes[index].tolist())
            assert deltas[row].tolist() == pytest.approx(truth, abs=1e-4)


def test_retinanet_assigns_background_without_boxes():
    anchors = torch.cat(retinanet().priors(empty_features()))
    classes, deltas = retinanet().assign(anchors, ground_truth(*NOTHING))
    assert anchors.shape == (2 * LOCATIONS, 4) and deltas.shape == anchors.shape
    assert (classes == CLASSES).all() and classes.dtype == torch.int64


def test_box_without_area_claims_no_anchor():
    anchors = torch.cat(retinanet().priors(empty_features()))
    classes, deltas = retinanet().assign(anchors, ground_truth([[16, 16, 16, 16]], [0]))
    assert (classes == CLASSES).all() and deltas.isfinite().all()


def test_retinanet_losses_by_hand():
    """Logits 0 and no box: each of 2 * (2 * 194) * 3 scores costs 0.75 * 0.5^2 * log 2.

    The normaliser moves from 100 towards max(1, no object): 0.9 * 100 + 0.1 * 1 = 90.1.
    """
    model = retinanet(head=StubHead(TestRetinaNetDetector.stub_channels, 0.0)).train()
    losses = model(make_inputs(NOTHING, NOTHING))
    expected = 2 * (2 * LOCATIONS) * CLASSES * 0.75 * 0.25 * math.log(2) / 90.1
    assert losses["loss_cls"].item() == pytest.approx(expected, rel=1e-5)
    assert model.loss_normalizer.item() == pytest.approx(90.1)


@pytest.mark.parametrize(("error", "each"), [(0.0, 0.0), (1.0, 0.95)])
def test_retinanet_box_loss_by_hand(error, each):
    """Every coordinate off by 1: smooth L1 of beta 0.1 costs 1 - 0.05, for objects only."""
    model = retinanet()
    priors = model.priors(empty_features())
    target = ground_truth(*FIRST)
    classes, deltas = model.assign(torch.cat(priors), target)
    logits = torch.full((1, len(classes), CLASSES), -50.0)
    losses = model.losses(
        {"cls_logits": logits, "box_deltas": deltas[None] + error}, priors, [target]
    )
    objects = ((classes >= 0) & (classes < CLASSES)).sum().item()
    normaliser = 90 + 0.1 * objects
    assert objects > 2
    assert losses["loss_box_reg"].item() == pytest.approx(4 * objects * each / normaliser, rel=1e-4)
    # Certain of background everywhere: each object costs 0.25 * 50, ignored anchors nothing.
    assert losses["loss_cls"].item() == pytest.approx(objects * 12.5 / normaliser, rel=1e-4)


def test_retinanet_decodes_the_anchor():
    """Logit 0 of class 1 at anchor 5 of the finest level, zero deltas: that anchor, score 0.5."""
    model = retinanet()
    priors = model.priors(empty_features())
    logits = torch.full((1, 2 * LOCATIONS, CLASSES), -50.0)
    logits[0, 100, 1] = 0
    deltas = torch.zeros(1, 2 * LOCATIONS, 4)
    (found,) = model.inference({"cls_logits": logits, "box_deltas": deltas}, priors, [(96, 96)])
    assert found.scores.tolist() == [0.5] and found.pred_classes.tolist() == [1]
    assert torch.allclose(found.pred_boxes.tensor, priors[0][100:101].clamp(0, 96))


def test_retinanet_loads_files_without_the_normaliser():
    model = retinanet()
    model.loss_normalizer.fill_(7)
    state = model.state_dict()
    del state["loss_normalizer"]
    model.load_state_dict(state)
    assert model.loss_normalizer.item() == 7 and "loss_normalizer" not in state
    model.load_state_dict({**state, "loss_normalizer": torch.tensor(5.0)})
    assert model.loss_normalizer.item() == 5


# -- FCOS ----------------------------------------------------------------------------------------


def fcos(**arguments):
    return TestFCOSDetector().make(**arguments)


def test_centerness_by_hand():
    """(1, 2, 3, 2): sqrt(1/3 * 1); at the centre 1; on a side and outside 0; no size 0."""
    ltrb = torch.tensor(
        [[1.0, 2, 3, 2], [5, 5, 5, 5], [0, 3, 6, 3], [-1, 3, 7, 3], [-2, -2, -2, -2], [0, 0, 0, 0]]
    )
    expected = [math.sqrt(1 / 3), 1, 0, 0, 0, 0]
    assert centerness_of(ltrb).tolist() == pytest.approx(expected)
    assert centerness_of(ltrb.view(2, 3, 4)).shape == (2, 3)
    assert centerness_of(torch.zeros(0, 4)).shape == (0,)


def test_fcos_assigns_by_hand():
    """Stride 8, distances up to 16; boxes A (0, 0, 20, 20) of class 0, B (4, 4, 12, 12) of class 2.

    (8, 8)    in both; the farthest side of A is 12 away, of B 4: the smaller box, B
    (16, 8)   in A, whose farthest side is 16 away, just within the range: A, ltrb 16, 8, 4, 12
    (16, 16)  the same from A's lower right, 16 away: A
    (0, 8)    on A's side, not inside: background
    (18, 8)   18 from A's left side, beyond 16: background
    """
    points = torch.tensor([[8.0, 8], [16, 8], [16, 16], [0, 8], [18, 8]])
    model = fcos(size_ranges=[(-1, 16)], point_generator=PointGrid(strides=[8]))
    target = ground_truth([[0, 0, 20, 20], [4, 4, 12, 12]], [0, 2])
    classes, ltrb = model.assign([points], target)
    assert classes.tolist() == [2, 0, 0, CLASSES, CLASSES]
    assert ltrb[:3].tolist() == [[4, 4, 4, 4], [16, 8, 4, 12], [16, 16, 4, 4]]


def test_center_sampling_by_hand():
    """Box (0, 0, 40, 6), centre (20, 3), radius 1 stride of 8: x in (12, 28), y in (0, 6)."""
    points = torch.tensor([[20.0, 3], [13, 1], [12, 3], [29, 3], [20, 7]])
    model = fcos(
        size_ranges=[(-1, 99)], point_generator=PointGrid(strides=[8]), center_sampling_radius=1.0
    )
    classes, _ = model.assign([points], ground_truth([[0, 0, 40, 6]], [1]))
    assert classes.tolist() == [1, 1, CLASSES, CLASSES, CLASSES]


@pytest.mark.parametrize("radius", [0.0, 1.0, 1.5])
@each_seed(20)
def test_fcos_assign_matches_the_loop(seed, radius):
    model = fcos(center_sampling_radius=radius)
    generator = torch.Generator().manual_seed(seed)
    count = seed % 6 + 1
    low = torch.rand(count, 2, generator=generator) * 60 - 5
    size = torch.rand(count, 2, generator=generator) * 90 + 15
    boxes = torch.cat([low, low + size], 1)
    gt_classes = torch.randint(0, CLASSES, (count,), generator=generator).tolist()
    points = model.priors(empty_features())
    classes, ltrb = model.assign(points, ground_truth(boxes, gt_classes))
    levels = list(zip(STRIDES, RANGES, [level.tolist() for level in points], strict=True))
    chosen = fcos_assign_loop(levels, boxes.tolist(), radius)
    assert classes.tolist() == [gt_classes[i] if i >= 0 else CLASSES for i in chosen]
    assert 0 < sum(i >= 0 for i in chosen) < LOCATIONS
    for point, index, row in zip(torch.cat(points).tolist(), chosen, ltrb.tolist(), strict=True):
        if index >= 0:
            assert row == pytest.approx(distances(point, boxes[index].tolist()), abs=1e-4)


@pytest.mark.parametrize("boxes", [[], [[16, 16, 16, 16]], [[500, 500, 600, 600]]])
def test_fcos_assigns_background(boxes):
    classes, ltrb = fcos().assign(
        fcos().priors(empty_features()), ground_truth(boxes, [0] * len(boxes))
    )
    assert classes.shape == (LOCATIONS,) and ltrb.shape == (LOCATIONS, 4)
    assert (classes == CLASSES).all() and classes.dtype == torch.int64


@pytest.mark.parametrize(("factor", "each"), [(1.0, 0.0), (2.0, math.log(4))])
@pytest.mark.parametrize("norm_reg_targets", [True, False])
def test_fcos_losses_by_hand(norm_reg_targets, factor, each):
    """Distances twice too long in all directions: IoU 1/4, -log IoU = log 4 for every object.

    Weighted by centerness and divided by its sum, the box loss is log 4. Certain of background
    everywhere, each of P objects costs 0.25 * 50 of the focal loss, divided by P. Centerness c
    predicted as 1/2 costs log 2.
    """
    model = fcos(norm_reg_targets=norm_reg_targets)
    priors = model.priors(empty_features())
    target = ground_truth(*FIRST)
    classes, ltrb = model.assign(priors, target)
    positive = classes < CLASSES
    assert positive.sum() > 3 and centerness_of(ltrb)[positive].sum() > 1
    strides = torch.cat(
        [torch.full((len(p), 1), float(s)) for p, s in zip(priors, STRIDES, strict=True)]
    )
    ltrb = torch.where(positive[:, None], ltrb * factor, 1.0)
    raw = ltrb / strides if norm_reg_targets else ltrb.log()
    losses = model.losses(
        {
            "cls_logits": torch.full((1, LOCATIONS, CLASSES), -50.0),
            "box_deltas": raw[None],
            "centerness": torch.zeros(1, LOCATIONS, 1),
        },
        priors,
        [target],
    )
    assert losses["loss_box_reg"].item() == pytest.approx(each, rel=1e-4, abs=1e-5)
    assert losses["loss_cls"].item() == pytest.approx(12.5, rel=1e-4)
    assert losses["loss_centerness"].item() == pytest.approx(math.log(2), rel=1e-5)


def test_fcos_score_is_the_root_of_the_product():
    """Class logit 0 and centerness logit -log 3: sqrt(1/2 * 1/4); the threshold sees 1/2 only.

    Row 1, column 2 of the finest grid is the point (16, 8); log 8 pixels each way: (8, 0, 24, 16).
    """
    model = fcos(score_threshold=0.4)
    priors = model.priors(empty_features())
    logits = torch.full((1, LOCATIONS, CLASSES), -50.0)
    logits[0, 14, 2] = 0
    outputs = {
        "cls_logits": logits,
        "box_deltas": torch.full((1, LOCATIONS, 4), math.log(8)),
        "centerness": torch.full((1, LOCATIONS, 1), -math.log(3)),
    }
    (found,) = model.inference(outputs, priors, [(96, 96)])
    assert found.scores.tolist() == pytest.approx([math.sqrt(1 / 8)])
    assert found.pred_classes.tolist() == [2]
    assert found.pred_boxes.tensor[0].tolist() == pytest.approx([8, 0, 24, 16], abs=1e-4)


@pytest.mark.parametrize(
    ("norm_reg_targets", "expected"), [(False, [math.e, 1 / math.e]), (True, [8, 0])]
)
def test_distances_from_raw_output(norm_reg_targets, expected):
    """exp(1) and exp(-1) pixels, or relu(1) and relu(-1) strides of 8."""
    model = fcos(norm_reg_targets=norm_reg_targets)
    assert model.distances(torch.tensor([1.0, -1.0]), 8).tolist() == pytest.approx(expected)


def test_scale():
    scale = Scale(2.0)
    assert scale.scale.shape == (1,) and isinstance(scale.scale, nn.Parameter)
    assert scale(torch.tensor([3.0])).tolist() == [6] and Scale()(torch.ones(1)).tolist() == [1]


# -- the head ------------------------------------------------------------------------------------


def test_head_shapes_and_initial_values():
    torch.manual_seed(0)
    head = DenseHead(
        in_channels=CHANNELS,
        num_convs=2,
        num_classes=CLASSES,
        num_anchors=2,
        prior_prob=0.02,
        quality="obj_score",
        num_scales=5,
    )
    outputs = head(empty_features(batch=2))
    assert {name: [tuple(x.shape) for x in maps] for name, maps in outputs.items()} == {
        name: [(2, channels, *grid) for grid in GRIDS]
        for name, channels in {"cls_logits": 2 * CLASSES, "box_deltas": 8, "obj_score": 2}.items()
    }
    assert torch.allclose(outputs["cls_logits"][0].sigmoid(), torch.tensor(0.02))
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.1)
            assert name == "cls_score" or (module.bias == 0).all()


@pytest.mark.parametrize("on_box_tower", [True, False])
def test_quality_reads_its_tower(on_box_tower):
    """With one tower silenced by zero weights, only the predictors on the other one answer."""
    torch.manual_seed(0)
    head = DenseHead(
        in_channels=CHANNELS,
        num_convs=1,
        num_classes=CLASSES,
        quality="centerness",
        quality_on_box_tower=on_box_tower,
    )
    nn.init.zeros_((head.cls_subnet if on_box_tower else head.bbox_subnet)[0].weight)
    outputs = head([torch.rand(1, CHANNELS, 4, 4)])
    assert outputs["centerness"][0].abs().sum() > 0


def test_scales_multiply_their_level():
    head = DenseHead(in_channels=CHANNELS, num_convs=0, num_classes=1, num_scales=2)
    nn.init.constant_(head.scales[1].scale, 3.0)
    feature = torch.rand(1, CHANNELS, 4, 4)
    first, second = head([feature, feature])["box_deltas"]
    assert torch.allclose(second, 3 * first) and first.abs().sum() > 0


# -- permutations --------------------------------------------------------------------------------


def test_permute_to_n_hwa_k():
    """Channel a * K + k at row y, column x goes to location (y * W + x) * A + a, class k."""
    x = torch.arange(2 * 6 * 2 * 3).view(2, 6, 2, 3)
    permuted = permute_to_N_HWA_K(x, 3)
    assert permuted.shape == (2, 2 * 3 * 2, 3)
    assert permuted[1, (1 * 3 + 2) * 2 + 1, 2] == x[1, 1 * 3 + 2, 1, 2]
    with pytest.raises(ValueError, match="A \\* K"):
        permute_to_N_HWA_K(x[0], 3)


def test_permute_all_levels():
    maps = {c: [torch.rand(2, c, 2, 3), torch.rand(2, c, 1, 1)] for c in (CLASSES, 4, 1)}
    cls, delta = retinanet_module.permute_all_cls_and_box_to_N_HWA_K_and_concat(
        maps[CLASSES], maps[4], CLASSES
    )
    assert cls.shape == (14, CLASSES) and delta.shape == (14, 4)
    assert torch.equal(cls[7 + 6], maps[CLASSES][1][1, :, 0, 0])
    three = fcos_module.permute_all_cls_and_box_to_N_HWA_K_and_concat(
        maps[CLASSES], maps[4], maps[1], CLASSES
    )
    assert torch.equal(three[0], cls) and torch.equal(three[1], delta)
    assert three[2].shape == (14, 1) and three[2][1] == maps[1][0][0, 0, 0, 1]


# -- cvpods' forms -------------------------------------------------------------------------------


def small_config(cls):
    config = cls()
    config.MODEL.DEVICE = "cpu"
    config.MODEL.RESNETS.DEPTH = 18
    config.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    config.MODEL.FPN.OUT_CHANNELS = CHANNELS
    group = config.MODEL.FCOS if cls is FCOSConfig else config.MODEL.RETINANET
    group.NUM_CLASSES, group.NUM_CONVS, group.SCORE_THRESH_TEST = CLASSES, 1, 0.0
    return config


@pytest.mark.parametrize(
    ("detector", "cls", "count", "millions"),
    [(RetinaNet, RetinaNetConfig, 306 + 1, 37.97), (FCOS, FCOSConfig, 324, 32.30)],
)
def test_resnet50_detectors_of_80_classes(detector, cls, count, millions):
    """cvpods' entries, and RetinaNet's loss_normalizer; running statistics are not counted."""
    config = cls()
    config.MODEL.RESNETS.DEPTH = 50
    config.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        state = detector(config).state_dict()
    assert len(state) == count
    left_out = ("running_mean", "running_var", "cell_anchors", "loss_normalizer")
    total = sum(v.numel() for k, v in state.items() if not any(name in k for name in left_out))
    assert total / 1e6 == pytest.approx(millions, abs=0.005)
    tower = [0, 2, 4, 6] if detector is RetinaNet else [0, 1, 3, 4, 6, 7, 9, 10]
    predictors = [] if detector is RetinaNet else ["centerness"]
    assert head_keys(tower, *predictors) <= set(state)
    channels = {"cls_score": 720, "bbox_pred": 36} if detector is RetinaNet else {"cls_score": 80}
    for name, outputs in channels.items():
        assert len(state[f"head.{name}.bias"]) == outputs


@pytest.mark.parametrize(("detector", "cls"), [(RetinaNet, RetinaNetConfig), (FCOS, FCOSConfig)])
def test_detector_from_config(detector, cls):
    model = detector(small_config(cls))
    losses = model.train()(make_inputs(FIRST, NOTHING))
    assert all(loss.isfinite() for loss in losses.values())
    found = model.eval()(make_inputs(FIRST))[0]["instances"]
    assert found.image_size == SIZES[0] and 0 < len(found) <= 100


def test_config_values_reach_the_detector():
    config = small_config(FCOSConfig)
    config.merge(
        MODEL={
            "NMS_TYPE": "cluster",
            "FCOS": {
                "NMS_THRESH_TEST": 0.3,
                "TOPK_CANDIDATES_TEST": 11,
                "CENTER_SAMPLING_RADIUS": 1.5,
                "NORM_REG_TARGETS": True,
                "IOU_LOSS_TYPE": "giou",
                "FOCAL_LOSS_ALPHA": 0.3,
                "FOCAL_LOSS_GAMMA": 1.0,
                "CENTERNESS_ON_REG": True,
            },
        },
        TEST={"DETECTIONS_PER_IMAGE": 5},
    )
    model = FCOS(config)
    assert (model.nms_type, model.nms_threshold, model.topk_candidates) == ("cluster", 0.3, 11)
    assert (model.center_sampling_radius, model.norm_reg_targets) == (1.5, True)
    assert (model.iou_loss_type, model.focal_alpha, model.focal_gamma) == ("giou", 0.3, 1.0)
    assert model.head.quality_on_box_tower and model.max_detections_per_image == 5


@pytest.mark.parametrize(
    ("detector", "cls", "name"),
    [
        (RetinaNet, RetinaNetConfig, "build_anchor_generator"),
        (FCOS, FCOSConfig, "build_shift_generator"),
    ],
)
def test_factories_on_the_config_are_used(detector, cls, name):
    calls = {}

    def build_backbone(cfg, input_shape=None):
        calls["backbone"] = input_shape
        built = build_retinanet_resnet_fpn_backbone(cfg, input_shape)
        assert isinstance(built, Backbone)
        return built

    def build_generator(cfg, shapes):
        calls["generator"] = [shape.stride for shape in shapes]
        own = {"build_anchor_generator": DefaultAnchorGenerator}
        return own.get(name, fcos_module.ShiftGenerator)(cfg, shapes)

    config = small_config(cls)
    config.build_backbone = build_backbone
    config[name] = build_generator
    detector(config)
    assert calls == {"backbone": ShapeSpec(channels=3), "generator": STRIDES}


def test_normaliser_by_the_batch():
    """mmdetection's: the positives of each image, at least 1 of each; no moving average."""
    model = retinanet(loss_normalizer="positives")
    foreground = torch.zeros(3, 5, dtype=torch.bool)
    foreground[0, :3] = True
    assert model.normalizer(foreground).item() == 3 + 1 + 1
    assert model.loss_normalizer.item() == 100
    assert retinanet().normalizer(foreground).item() == pytest.approx(0.9 * 100 + 0.1 * 3)


def test_unknown_normaliser():
    with pytest.raises(ConfigError, match=r"MODEL\.RETINANET\.LOSS_NORMALIZER must be one of"):
        retinanet(loss_normalizer="mean")
