"""FreeAnchor's loss: by hand, against two slow references, gradients, extremes, invariances."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.ops import box_iou

from cvpods.modeling.anchor_generator import AnchorGrid
from cvpods_ext.kernels.bags import BAGS_AT_ONCE, GROUP
from cvpods_ext.methods.free_anchor import definition
from cvpods_ext.methods.free_anchor.loss import free_anchor_loss, positive_loss
from tests.reference.free_anchor import (
    encode,
    free_anchor_loss_loop,
    mean_max,
)
from tests.seeds import each_seed

NO_AREA = [[20, 10, 20, 30], [20, 10, 40, 10], [20, 20, 20, 20], [40, 10, 20, 30], [40, 30, 20, 10]]
NO_AREA_IDS = ["no width", "no height", "point", "left of itself", "inside out"]


class Scene(NamedTuple):
    """The arguments of free_anchor_loss."""

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    boxes: list[Tensor]
    classes: list[Tensor]

    def to(self, dtype: torch.dtype) -> Scene:
        logits, deltas = (t.detach().to(dtype).requires_grad_() for t in self[:2])
        boxes = [b.to(dtype) for b in self.boxes]
        return Scene(logits, deltas, self.anchors.to(dtype), boxes, self.classes)


def scene(
    seed: int = 0,
    counts: tuple[int, ...] = (3, 2),
    anchors: int = 40,
    num_classes: int = 3,
    clash: bool = False,
) -> Scene:
    """Random anchors and boxes on 100 x 80 pixels, predicted boxes close to boxes; float64.

    With `clash`, all boxes of an image nearly coincide: a predicted box finds several of a class.
    """
    random = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    def corners(count: int) -> Tensor:
        low = rand(count, 2) * torch.tensor([60, 40])
        return torch.cat([low, low + 10 + rand(count, 2) * 30], dim=1)

    def group(count: int) -> Tensor:
        return corners(1) + 3 * rand(count, 4) if clash else corners(count)

    boxes = [group(count) for count in counts]
    classes = [torch.randint(0, num_classes, (c,), generator=random) for c in counts]
    places = corners(anchors)
    logits = rand(len(counts), anchors, num_classes) * 6 - 4
    deltas = rand(len(counts), anchors, 4) - 0.5
    for n, count in enumerate(counts):
        for j in range(anchors if count else 0):
            wanted = encode(places[j].tolist(), boxes[n][j % count].tolist())
            deltas[n, j] += torch.tensor(wanted, dtype=torch.float64)
    return Scene(logits.requires_grad_(), deltas.requires_grad_(), places, boxes, classes)


def gradients(losses: dict[str, Tensor], given: Scene) -> tuple[Tensor, Tensor]:
    """Of the sum of the losses, with respect to logits and deltas."""
    return torch.autograd.grad(sum(losses.values()), given[:2], materialize_grads=True)


def assert_same(actual: Scene, expected: Scene, rtol: float = 1e-9, **settings: Any) -> None:
    """Equal losses, and equal gradients by the same locations."""
    results = []
    for given in (actual, expected):
        losses = free_anchor_loss(*given, **settings)
        results.append((losses, gradients(losses, given)))
    torch.testing.assert_close(*results, rtol=rtol, atol=1e-12)


def assert_finite(losses: dict[str, Tensor], given: Scene) -> None:
    assert set(losses) == {"loss_pos", "loss_neg"}
    for loss in losses.values():
        assert loss.isfinite() and loss >= 0 and loss.shape == ()
    for gradient, leaf in zip(gradients(losses, given), given[:2], strict=True):
        assert gradient.isfinite().all() and gradient.dtype == leaf.dtype
        assert gradient.shape == leaf.shape


def loop(given: Scene, **settings: Any) -> dict[str, float]:
    numbers = [given.logits.tolist(), given.deltas.tolist(), given.anchors.tolist()]
    boxes, classes = ([t.tolist() for t in part] for part in given[3:])
    return free_anchor_loss_loop(*numbers, boxes, classes, **settings)


def assert_matches_loop(given: Scene, **settings: Any) -> None:
    losses = free_anchor_loss(*given, **settings)
    expected = loop(given, **settings)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9, abs=1e-12), name


# -- -log MeanMax --------------------------------------------------------------------------------


def test_mean_max_by_hand():
    """x = .2, .6: 1 / (1 - x) = 1.25, 2.5, shares 1/3 and 2/3; MeanMax = .2 / 3 + 1.2 / 3.

    -log .4666667 = .7621401. Three of .5: all shares 1/3, log 2. One alone is its own MeanMax.
    """
    loss = positive_loss(torch.tensor([[0.2, 0.6]], dtype=torch.float64).log())
    assert loss.tolist() == pytest.approx([0.7621401], abs=1e-7)
    assert positive_loss(torch.full((1, 3), 0.5).log()).item() == pytest.approx(math.log(2))
    alone = torch.tensor([[-1e4], [-3.0], [-1e-3], [-1e-9]])
    assert positive_loss(alone).tolist() == pytest.approx([1e4, 3, 1e-3, 1e-9], rel=1e-6)


def test_mean_max_shapes():
    assert positive_loss(torch.full((5, 3), -1.0)).shape == (5,)
    assert positive_loss(torch.zeros(0, 3)).shape == (0,)
    empty = torch.zeros(2, 0, requires_grad=True)
    loss = positive_loss(empty)
    assert loss.tolist() == [0, 0] and loss.requires_grad


@each_seed(20)
def test_mean_max_matches_the_definition(seed):
    random = torch.Generator().manual_seed(seed)
    x = torch.rand(4, 1 + seed % 7, generator=random, dtype=torch.float64)
    expected = [-math.log(mean_max(row)) for row in x.tolist()]
    assert positive_loss(x.log()).tolist() == pytest.approx(expected, rel=1e-9)


def test_mean_max_nears_the_maximum():
    """Ten of .01: the mean, .01. With one at 1 - 1e-6, all but 9.9e-6 of it: 1 - MeanMax = 10 / D,

    D = sum 1 / (1 - x) = 1e6 + 9 / .99; small losses keep their digits, also in float32.
    """
    x = torch.full((1, 10), 0.01, dtype=torch.float64)
    assert positive_loss(x.log()).item() == pytest.approx(-math.log(0.01))
    log_x = x.log()
    log_x[0, 3] = math.log1p(-1e-6)
    missed = 10 / (1e6 + 9 / 0.99)
    for dtype in (torch.float64, torch.float32):
        loss = positive_loss(log_x.to(dtype)).item()
        assert loss == pytest.approx(-math.log1p(-missed), rel=1e-5)


def test_gradient_passes_through_the_limit_of_the_weights():
    """x = (x0, .5), x0 -> 1: the loss is about 2 (1 - x0), slope -2 in x0 - also at x0 = 1."""
    for dtype, rest in itertools.product((torch.float32, torch.float64), (1e-5, 1e-9)):
        log_x = torch.tensor([[-rest, math.log(0.5)]], dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(positive_loss(log_x).sum(), log_x)
        assert gradient[0, 0].item() == pytest.approx(-2, abs=1e-4)
    certain = torch.tensor([[0.0, math.log(0.5)]], requires_grad=True)
    loss = positive_loss(certain).sum()
    (gradient,) = torch.autograd.grad(loss, certain)
    assert 0 <= loss.item() < 1e-11
    assert gradient[0].tolist() == pytest.approx([-2, 0], abs=1e-6)


@pytest.mark.parametrize("rest", [0.5, 1e-2, 1e-3, 1e-5])
def test_mean_max_gradcheck(rest):
    """One x of every row lies `rest` below 1; steps a thousandth of that."""
    random = torch.Generator().manual_seed(0)
    log_x = -3 * torch.rand(3, 5, generator=random, dtype=torch.float64) - 0.1
    log_x[:, 2] = math.log1p(-rest)
    log_x[0, 4] = math.log1p(-rest)
    log_x.requires_grad_()
    assert torch.autograd.gradcheck(positive_loss, (log_x,), eps=min(1e-6, rest * 1e-3))


@pytest.mark.parametrize("seed", range(5))
def test_mean_max_in_float32_is_as_good_as_in_float64(seed):
    """x from 1e-9 to 1 - 1e-9. Expected: autograd on the definition, in float64."""
    random = torch.Generator().manual_seed(seed)
    rest = torch.cat(
        [
            10 ** (-9 * torch.rand(40, 6, generator=random, dtype=torch.float64)),
            1 - 10 ** (-9 * torch.rand(40, 6, generator=random, dtype=torch.float64)),
        ],
        dim=1,
    )
    rest[:5, 0] = 1e-9
    log_x = torch.log1p(-rest.clamp(1e-9, 1 - 1e-9)).float().requires_grad_()
    exact = log_x.detach().double().requires_grad_()
    w = 1 / -torch.expm1(exact)
    # Of 1 - MeanMax, and of MeanMax, whichever is small keeps its digits.
    mean, missed = (exact.exp() * w).sum(1) / w.sum(1), exact.shape[1] / w.sum(1)
    expected = torch.where(missed < 0.5, -torch.log1p(-missed), -mean.log())
    losses = positive_loss(log_x)
    torch.testing.assert_close(losses.double(), expected, rtol=1e-5, atol=0)
    (gradient,) = torch.autograd.grad(losses.sum(), log_x)
    (exact_gradient,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=1e-4, atol=1e-7)


# -- the loss by hand, and against references ----------------------------------------------------


def test_hand_case():
    """Box (0, 0, 10, 10) of class 1 of 2, anchors (0, 0, 10, 8) and (0, 0, 10, 7), deltas 0, bag 2.

    encode: dy = 10 * 1 / 8 = 1.25, dh = 5 log 1.25 = 1.115718   and  2.142857, 1.783375
    smooth L1, each less .055: 2.255718 and 3.816232; exp(-.75 ...) = .184190 and .057144
    Logits (0, log 3) and (log 3, 0), p = (.5, .75) and (.75, .5)
    x = .75 * .184190 = .138142, .5 * .057144 = .028572; x / (1 - x) = .160285, .029412
    MeanMax = .189697 / 2.189697 = .086632, loss_pos = .5 * 2.446087 = 1.223044

    The predicted boxes are the anchors: IoU .8 and .7, t2 = .8, A = 1 and .5, for class 1.
    Class 0: FL(.5) = .25 log 2 = .173287, FL(.75) = .5625 log 4 = .779790
    Class 1: FL(.75 * 0) = 0, FL(.5 * .5) = .0625 * .287682 = .017980
    loss_neg = .5 * .971057 / (2 * 1) = .242764
    """
    log3 = math.log(3)
    losses = free_anchor_loss(
        torch.tensor([[[0, log3], [log3, 0]]]),
        torch.zeros(1, 2, 4),
        torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 7]]),
        [torch.tensor([[0.0, 0, 10, 10]])],
        [torch.tensor([1])],
        bag_size=2,
    )
    assert losses["loss_pos"].item() == pytest.approx(1.223044, abs=2e-6)
    assert losses["loss_neg"].item() == pytest.approx(0.242764, abs=2e-6)


def test_normalisers_by_hand():
    """Three boxes in two images, a bag of 1, the one anchor right: x_ij = p = 1/2 for all three.

    Deltas 0 decode to the anchor, which is every box: A = 1 for class 0. Of class 1, p = 1/2 in
    both images. loss_pos = .5 * 3 log 2 / 3; loss_neg = .5 * 2 * .25 log 2 / (n * 3), where n is
    the bag's size as asked for, whether or not so many anchors exist.
    """
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    for bag_size in (1, 50):
        losses = free_anchor_loss(
            torch.zeros(2, 1, 2),
            torch.zeros(2, 1, 4),
            anchor,
            [anchor, anchor.repeat(2, 1)],
            [torch.tensor([0]), torch.tensor([0, 0])],
            bag_size=bag_size,
        )
        assert losses["loss_pos"].item() == pytest.approx(0.5 * math.log(2))
        expected = 0.25 * math.log(2) / (3 * bag_size)
        assert losses["loss_neg"].item() == pytest.approx(expected)


def test_perfect_prediction_is_near_zero():
    """Every anchor of a bag predicts its box, surely; every other predicts nothing, surely."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12], [50, 0, 60, 10], [50, 0, 64, 10]])
    boxes = torch.tensor([[1.0, 0, 11, 10], [50, 1, 60, 12]])
    deltas = [encode(anchors[j].tolist(), boxes[j // 2].tolist()) for j in range(4)]
    logits = torch.full((1, 4, 2), -20.0)
    logits[0, :2, 1] = logits[0, 2:, 0] = 20.0
    arguments = [logits, torch.tensor([deltas]), anchors, [boxes], [torch.tensor([1, 0])]]
    losses = free_anchor_loss(*arguments, bag_size=2)
    assert 0 <= losses["loss_pos"] < 1e-4 and 0 <= losses["loss_neg"] < 1e-6
    wrong = free_anchor_loss(-logits, *arguments[1:], bag_size=2)
    assert wrong["loss_pos"] > 5 and wrong["loss_neg"] > 5


@pytest.mark.parametrize("bag_size", [1, 7, 50])
@each_seed(20)
def test_matches_loop(seed, bag_size):
    """Every other batch has an image without boxes."""
    counts = [(3, 2), (0, 4), (5, 0), (1,)][seed % 4]
    assert_matches_loop(scene(seed, counts), bag_size=bag_size)


@each_seed(20)
def test_matches_loop_where_boxes_of_a_class_clash(seed):
    given = scene(seed, (4, 3), num_classes=2, clash=True)
    for last_write in (False, True):
        assert_matches_loop(given, bag_size=9, last_write=last_write)
    maximum, last = (
        free_anchor_loss(*given, bag_size=9, last_write=last_write)["loss_neg"].item()
        for last_write in (False, True)
    )
    assert last > maximum * 1.001  # the maximum excuses more


@pytest.mark.parametrize(
    "settings",
    [
        {"gamma": 0.0},
        {"gamma": 1.0},
        {"gamma": 2.5},
        {"alpha": 0.25},
        {"alpha": 1.0},
        {"beta": 1.0},
        {"beta": 0.01},
        {"reg_weight": 0.0},
        {"reg_weight": 2.0},
        {"iou_threshold": 0.3},
        {"iou_threshold": 0.8},
        {"gamma": 1.5, "alpha": 0.7, "beta": 0.5, "reg_weight": 0.3, "iou_threshold": 0.5},
    ],
    ids=str,
)
def test_settings_match_the_loop(settings):
    given = scene(3)
    assert_matches_loop(given, bag_size=5, **settings)
    default = free_anchor_loss(*given, bag_size=5)
    other = free_anchor_loss(*given, bag_size=5, **settings)
    assert any(other[name] != default[name] for name in default)


def test_defaults_are_the_papers():
    settings = {
        "bag_size": 50,
        "iou_threshold": 0.6,
        "alpha": 0.5,
        "gamma": 2.0,
        "reg_weight": 0.75,
        "beta": 0.11,
        "bbox_reg_weights": (10.0, 10.0, 5.0, 5.0),
        "last_write": False,
    }
    given = scene(4, (3, 1), anchors=70, clash=True)
    assert free_anchor_loss(*given) == free_anchor_loss(*given, **settings)
    assert_matches_loop(given)


def test_box_weights_scale_deltas_and_errors():
    """Weights and deltas twice as large: the same boxes, errors twice as large.

    Smooth L1 with twice the beta is then twice as large, which half the reg_weight undoes.
    """
    given = scene(5)
    expected = free_anchor_loss(*given, bag_size=5)
    twice = given._replace(deltas=given.deltas * 2)
    settings = {"bbox_reg_weights": (20, 20, 10, 10), "beta": 0.22, "reg_weight": 0.375}
    torch.testing.assert_close(free_anchor_loss(*twice, bag_size=5, **settings), expected)
    swapped = free_anchor_loss(*given, bag_size=5, bbox_reg_weights=(5, 5, 10, 10))
    assert not torch.allclose(swapped["loss_pos"], expected["loss_pos"])


@each_seed(10)
def test_matches_tensors_image_by_image(seed):
    """Float32, default settings: losses, and both gradients."""
    given = scene(seed, [(4, 3), (3, 0), (0, 6)][seed % 3], 1000, 5, clash=seed % 2 == 1)
    # More than 50 anchors overlap each box: no choice between anchors of IoU 0.
    assert all((box_iou(b, given.anchors) > 0).sum(dim=1).gt(50).all() for b in given.boxes)
    given = given.to(torch.float32)
    actual, expected = free_anchor_loss(*given), definition.free_anchor_loss(*given)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    for name in actual:
        sides = [
            torch.autograd.grad(losses[name], given[:2], retain_graph=True, materialize_grads=True)
            for losses in (actual, expected)
        ]
        torch.testing.assert_close(*sides, rtol=1e-3, atol=1e-5)
        assert sides[0][0].abs().max() > 1e-3


# -- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("last_write", [False, True])
def test_grad_of_logits(gamma, last_write):
    given = scene(6, (2, 0, 1), anchors=6, num_classes=2, clash=True)
    settings = {"bag_size": 4, "gamma": gamma, "last_write": last_write}

    def losses(logits: Tensor) -> tuple[Tensor, ...]:
        return tuple(free_anchor_loss(logits, *given[1:], **settings).values())

    assert torch.autograd.gradcheck(losses, (given.logits,))


def test_grad_of_deltas():
    """Only loss_pos: what is found comes from predicted boxes, but is constant there."""
    given = scene(7, (2, 0, 1), anchors=6, num_classes=2, clash=True)

    def positive(deltas: Tensor) -> Tensor:
        return free_anchor_loss(given.logits, deltas, *given[2:], bag_size=4)["loss_pos"]

    assert torch.autograd.gradcheck(positive, (given.deltas,))
    negative = free_anchor_loss(*given, bag_size=4)["loss_neg"]
    (gradient,) = torch.autograd.grad(negative, given.deltas, allow_unused=True)
    assert gradient is None or gradient.abs().max() == 0


def test_backward_twice():
    """The gradient that backward gives away is neither reused nor written to."""
    given = scene(8)
    total = sum(free_anchor_loss(*given, bag_size=5).values())
    kept, copies = [], []
    for _ in range(3):
        given.logits.grad = given.deltas.grad = None
        total.backward(retain_graph=True)
        kept.append([given.logits.grad, given.deltas.grad])
        copies.append([gradient.clone() for gradient in kept[-1]])
    assert copies[0][0].abs().sum() > 0 and copies[0][1].abs().sum() > 0
    for other in (*kept, *copies[1:]):
        torch.testing.assert_close(other, copies[0], rtol=0, atol=0)


def test_gradients_of_the_losses_add_up():
    """Also weighted, in either order, from one graph."""
    given = scene(9)
    losses = free_anchor_loss(*given, bag_size=5)
    each = {
        name: torch.autograd.grad(loss, given[:2], retain_graph=True, materialize_grads=True)
        for name, loss in losses.items()
    }
    assert all(gradients[0].abs().max() > 0 for gradients in each.values())
    weighted = 3 * losses["loss_pos"] + 0.25 * losses["loss_neg"]
    actual = torch.autograd.grad(weighted, given[:2])
    pairs = zip(each["loss_pos"], each["loss_neg"], strict=True)
    torch.testing.assert_close(actual, tuple(3 * p + 0.25 * n for p, n in pairs))


def test_only_what_asks_gets_a_gradient():
    given = scene(10)
    expected = free_anchor_loss(*given, bag_size=5)
    gradient_of_logits, gradient_of_deltas = gradients(expected, given)
    only_logits = given._replace(deltas=given.deltas.detach())
    total = sum(free_anchor_loss(*only_logits, bag_size=5).values())
    torch.testing.assert_close(torch.autograd.grad(total, given.logits), (gradient_of_logits,))
    only_deltas = given._replace(logits=given.logits.detach())
    total = sum(free_anchor_loss(*only_deltas, bag_size=5).values())
    torch.testing.assert_close(torch.autograd.grad(total, given.deltas), (gradient_of_deltas,))
    with torch.no_grad():
        losses = free_anchor_loss(*given, bag_size=5)
    assert losses == expected and not any(loss.requires_grad for loss in losses.values())


def test_inputs_are_left_alone():
    given = scene(11)
    tensors = [given.logits, given.deltas, given.anchors, *given.boxes, *given.classes]
    before = [t.detach().clone() for t in tensors]
    versions = [t._version for t in tensors]
    gradients(free_anchor_loss(*given, bag_size=5), given)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert [t._version for t in tensors] == versions


# -- numbers at the edge -------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("delta", [None, 50.0, -50.0])
@pytest.mark.parametrize("logit", [50.0, -50.0, 0.0])
def test_extreme_predictions(logit, delta, dtype, autocast):
    """Deltas that are right, so that x_ij = p, or far off."""
    given = scene(12)
    logits = torch.full_like(given.logits, logit)
    deltas = given.deltas if delta is None else torch.full_like(given.deltas, delta)
    halves = given._replace(logits=logits, deltas=deltas).to(dtype)
    # Anchors and boxes are never halves.
    given = Scene(*halves[:2], *given.to(torch.float32)[2:])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        losses = free_anchor_loss(*given, bag_size=5)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert_finite(losses, given)


@pytest.mark.parametrize("logit", [1e4, -1e4, 16.7, 88.5, 104.0])
def test_logits_far_off_stay_finite(logit):
    """Beyond the float32 range of exp, and where sigmoid becomes exactly 0 or 1."""
    given = scene(12).to(torch.float32)
    given = given._replace(logits=torch.full_like(given.logits, logit, requires_grad=True))
    assert_finite(free_anchor_loss(*given, bag_size=5), given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype):
    given = scene(13)
    logits, deltas = (t.detach().to(dtype) for t in given[:2])
    places = given.to(torch.float32)[2:]
    actual = free_anchor_loss(logits, deltas, *places)
    assert actual == free_anchor_loss(logits.float(), deltas.float(), *places)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert actual == free_anchor_loss(logits, deltas, *places)


def test_certain_and_wrong_costs_in_proportion():
    """Logits of 50 of a class that is nowhere: -log(1 - p) = 50 each, and a slope of 1 each.

    From 1 - p = 1e-38 on, float32's end, the cost stays.
    """
    for logit, cost in ((20.0, 20.0), (50.0, 50.0), (200.0, 87.34)):
        logits = torch.full((1, 3, 2), logit, requires_grad=True)
        none, anchors = torch.zeros(0, 4), torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)
        classes = torch.zeros(0, dtype=torch.int64)
        losses = free_anchor_loss(logits, torch.zeros(1, 3, 4), anchors, [none], [classes])
        assert losses["loss_neg"].item() == pytest.approx(0.5 * 6 * cost, rel=1e-4)
        (gradient,) = torch.autograd.grad(losses["loss_neg"], logits)
        assert gradient.flatten().tolist() == pytest.approx([0.5] * 6, rel=1e-4)


def test_hopeless_bag_costs_in_proportion():
    """No ceiling: a logit of -1000 of the box's class, the one anchor in place, costs 1000."""
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    logits = torch.full((1, 1, 1), -1000.0, requires_grad=True)
    deltas = torch.zeros(1, 1, 4)
    losses = free_anchor_loss(logits, deltas, anchor, [anchor], [torch.tensor([0])], bag_size=1)
    assert losses["loss_pos"].item() == pytest.approx(500)
    (gradient,) = torch.autograd.grad(losses["loss_pos"], logits)
    assert gradient.item() == pytest.approx(-0.5)


@pytest.mark.parametrize("best", [5.99, 6.0, 6.000001])
def test_best_iou_about_the_threshold(best):
    """A predicted box of IoU .6 with its object, where t2 - t1 = 0."""
    given = Scene(
        torch.zeros(1, 1, 1, requires_grad=True),
        torch.zeros(1, 1, 4, requires_grad=True),
        torch.tensor([[0.0, 0, 10, best]]),
        [torch.tensor([[0.0, 0, 10, 10]])],
        [torch.tensor([0])],
    )
    losses = free_anchor_loss(*given, bag_size=1)
    assert_finite(losses, given)
    assert best > 6 or losses["loss_neg"].item() == pytest.approx(0.5 * 0.25 * math.log(2))


# -- boxes: none, without area, outside, many ----------------------------------------------------


@pytest.mark.parametrize("images", [1, 3])
def test_no_boxes(images):
    """All background, over N_gt = 1: against the loop; deltas learn nothing."""
    given = scene(14, (0,) * images)
    assert_matches_loop(given)
    losses = free_anchor_loss(*given)
    assert_finite(losses, given)
    of_logits, of_deltas = gradients(free_anchor_loss(*given), given)
    assert losses["loss_pos"] == 0 and losses["loss_neg"] > 0
    assert (of_logits > 0).all() and of_deltas.abs().max() == 0
    assert losses["loss_pos"].requires_grad


@pytest.mark.parametrize("counts", [(0, 3), (3, 0)])
def test_half_empty_batch(counts):
    """The empty image adds its background: N_gt times the losses of the images add up."""
    given = scene(15, counts)
    losses = free_anchor_loss(*given, bag_size=5)
    assert_finite(losses, given)
    positive = negative = 0.0
    for n, count in enumerate(counts):
        one = Scene(
            *(t[n : n + 1] for t in given[:2]), given.anchors, *(t[n : n + 1] for t in given[3:])
        )
        alone = free_anchor_loss(*one, bag_size=5)
        positive += alone["loss_pos"].item()
        # Without boxes nothing divides the sum; here 3 boxes and bags of 5 do.
        negative += alone["loss_neg"].item() / (1 if count else 3 * 5)
    assert losses["loss_pos"].item() == pytest.approx(positive)
    assert losses["loss_neg"].item() == pytest.approx(negative)


@pytest.mark.parametrize("last_write", [False, True])
@pytest.mark.parametrize("box", NO_AREA, ids=NO_AREA_IDS)
def test_box_without_area_changes_nothing(box, last_write):
    """First or last of an image's boxes."""
    given = scene(16, (2, 1), clash=True)
    extra, label = torch.tensor([box], dtype=torch.float64), given.classes[0][:1]
    settings = {"bag_size": 5, "last_write": last_write}
    for boxes, classes in (
        ((extra, given.boxes[0]), (label, given.classes[0])),
        ((given.boxes[0], extra), (given.classes[0], label)),
    ):
        more = given._replace(
            boxes=[torch.cat(boxes), given.boxes[1]],
            classes=[torch.cat(classes), given.classes[1]],
        )
        assert_same(more, given, **settings)


@pytest.mark.parametrize("box", NO_AREA, ids=NO_AREA_IDS)
def test_only_boxes_without_area(box):
    """As if there were none, N_gt = 1."""
    given = scene(17, (0, 0))
    boxes = torch.tensor([box], dtype=torch.float64)
    settings = {"bag_size": 5}
    losses = free_anchor_loss(*given, **settings)
    flat = given._replace(boxes=[boxes, boxes], classes=[torch.tensor([1]), torch.tensor([0])])
    actual = free_anchor_loss(*flat, **settings)
    assert actual["loss_pos"] == 0
    assert actual["loss_neg"].item() == pytest.approx(losses["loss_neg"].item())
    assert_finite(actual, flat)


def test_boxes_outside_of_all_anchors():
    given = scene(18)
    given = given._replace(boxes=[b + 1000 for b in given.boxes])
    assert_matches_loop(given, bag_size=5)
    single = given.to(torch.float32)
    assert_finite(free_anchor_loss(*single, bag_size=5), single)


@pytest.mark.parametrize(
    ("counts", "anchors", "num_classes"),
    [((1,), 1, 1), ((3,), 1, 2), ((0,), 1, 1), ((2, 1), 7, 1), ((1, 0, 2), 65, 4)],
)
def test_shapes(counts, anchors, num_classes):
    """Few anchors: the bags are as large as they can be."""
    given = scene(19, counts, anchors, num_classes)
    assert_matches_loop(given)
    for dtype in (torch.float32, torch.float64):
        given = given.to(dtype)
        losses = free_anchor_loss(*given)
        assert_finite(losses, given)
        assert all(loss.dtype == dtype for loss in losses.values())


@pytest.mark.parametrize("boxes", [0, 2])
def test_no_anchors(boxes):
    """Nothing can be learnt, but it can be summed."""
    none = torch.zeros(1, 0, 4, requires_grad=True)
    truth = torch.tensor([[0.0, 0, 10, 10]] * boxes).view(-1, 4)
    classes = torch.zeros(boxes, dtype=torch.int64)
    logits = torch.zeros(1, 0, 3, requires_grad=True)
    given = Scene(logits, none, torch.zeros(0, 4), [truth], [classes])
    losses = free_anchor_loss(*given)
    assert_finite(losses, given)
    assert losses["loss_pos"] == losses["loss_neg"] == 0


def test_thousand_boxes():
    """On the anchors of a 64 x 96 image: 9 each on 8 x 12, 4 x 6, 2 x 3 and 1 x 2 cells."""
    strides = [8, 16, 32, 64]
    sizes = [[4 * s, 5 * s, 6 * s] for s in strides]
    grid = AnchorGrid(sizes=sizes, aspect_ratios=[[0.5, 1, 2]], strides=strides, offset=0.5)
    maps = [torch.zeros(1, 1, *size) for size in ((8, 12), (4, 6), (2, 3), (1, 2))]
    anchors = torch.cat(grid.grid(maps))
    random = torch.Generator().manual_seed(0)
    low = torch.rand(1000, 2, generator=random) * torch.tensor([80.0, 50])
    boxes = torch.cat([low, low + 2 + torch.rand(1000, 2, generator=random) * 40], dim=1)
    logits, deltas = (torch.randn(2, 9 * 128, k, generator=random) for k in (6, 4))
    classes = torch.randint(0, 6, (1000,), generator=random)
    given = Scene(
        logits.requires_grad_(),
        deltas.requires_grad_(),
        anchors,
        [boxes, boxes[:1]],
        [classes, classes[:1]],
    )
    losses = free_anchor_loss(*given)
    assert_finite(losses, given)
    expected = definition.free_anchor_loss(*given)
    assert losses["loss_neg"].item() == pytest.approx(expected["loss_neg"].item(), rel=1e-4)
    # Many anchors cover a box with the same IoU; the reference takes others of them.
    assert losses["loss_pos"].item() == pytest.approx(expected["loss_pos"].item(), rel=1e-2)


# -- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("last_write", [False, True])
@pytest.mark.parametrize("bound", [1, 100, 2**10])
def test_slices_change_nothing(bound, last_write):
    given = scene(20, (4, 0, 2), anchors=150, clash=True)
    settings = {"bag_size": 20, "last_write": last_write}
    expected = free_anchor_loss(*given, **settings)
    expected_gradients = gradients(expected, given)
    actual = free_anchor_loss(*given, **settings, bags_at_once=1, elements_at_once=bound)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradients(actual, given), expected_gradients, rtol=1e-9, atol=0)


def test_permuting_boxes():
    given = scene(21, (5, 2), clash=True)
    order = torch.tensor([3, 0, 4, 2, 1])
    permuted = given._replace(
        boxes=[given.boxes[0][order], given.boxes[1]],
        classes=[given.classes[0][order], given.classes[1]],
    )
    assert_same(permuted, given, bag_size=5)


def test_permuting_anchors():
    given = scene(22)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    # Views of the same leaves: their gradients come back in the first order.
    logits, deltas = given.logits[:, order], given.deltas[:, order]
    losses = free_anchor_loss(logits, deltas, given.anchors[order], *given[3:], bag_size=5)
    expected = free_anchor_loss(*given, bag_size=5)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients(losses, given), gradients(expected, given))


def test_permuting_images():
    given = scene(23, (3, 0, 2))
    order = [2, 0, 1]
    losses = free_anchor_loss(
        given.logits[order],
        given.deltas[order],
        given.anchors,
        [given.boxes[n] for n in order],
        [given.classes[n] for n in order],
        bag_size=5,
    )
    expected = free_anchor_loss(*given, bag_size=5)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients(losses, given), gradients(expected, given))


def test_permuting_classes():
    given = scene(24, num_classes=4, clash=True)
    order = torch.tensor([2, 0, 3, 1])  # class k of the new logits is class order[k]
    logits, classes = given.logits[..., order], [order.argsort()[c] for c in given.classes]
    losses = free_anchor_loss(logits, *given[1:4], classes, bag_size=5)
    expected = free_anchor_loss(*given, bag_size=5)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients(losses, given), gradients(expected, given))


def test_translating_the_image():
    given = scene(25)
    shift = torch.tensor([64, -32, 64, -32])
    moved = given._replace(anchors=given.anchors + shift, boxes=[b + shift for b in given.boxes])
    assert_same(moved, given, bag_size=5)


def test_scaling_the_image():
    given = scene(26)
    scaled = given._replace(anchors=given.anchors * 3, boxes=[b * 3 for b in given.boxes])
    assert_same(scaled, given, bag_size=5)


def test_mirroring_the_image():
    """x -> 100 - x, and dx -> -dx."""
    given = scene(27)
    sign = torch.tensor([-1, 1, 1, 1])

    def mirror(boxes: Tensor) -> Tensor:
        x1, y1, x2, y2 = boxes.unbind(1)
        return torch.stack([100 - x2, y1, 100 - x1, y2], dim=1)

    boxes = [mirror(b) for b in given.boxes]
    losses = free_anchor_loss(
        given.logits, given.deltas * sign, mirror(given.anchors), boxes, given.classes, bag_size=5
    )
    expected = free_anchor_loss(*given, bag_size=5)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(gradients(losses, given), gradients(expected, given))


def test_noncontiguous_input():
    """As a head's maps (N, K, R) come, seen from behind."""
    given = scene(28)
    logits = given.logits.detach().transpose(1, 2).contiguous().requires_grad_()
    deltas = given.deltas.detach().transpose(0, 1).contiguous().requires_grad_()
    views = logits.transpose(1, 2), deltas.transpose(0, 1)
    assert not views[0].is_contiguous() and not views[1].is_contiguous()
    losses, expected = (
        free_anchor_loss(*pair, *given[2:], bag_size=5) for pair in (views, given[:2])
    )
    torch.testing.assert_close(losses, expected)
    of_logits, of_deltas = torch.autograd.grad(sum(losses.values()), (logits, deltas))
    actual = of_logits.transpose(1, 2), of_deltas.transpose(0, 1)
    torch.testing.assert_close(actual, gradients(expected, given))


# -- what is never done --------------------------------------------------------------------------


class Watch(TorchDispatchMode):
    """Notes the largest tensor that an operation returns, and what would wait for a device."""

    WAITING = {
        "_local_scalar_dense",
        "is_nonzero",
        "equal",
        "nonzero",
        "nonzero_numpy",
        "argwhere",
        "masked_select",
        "unique_consecutive",
        "unique_dim",
        "unique_dim_consecutive",
        "_unique",
        "_unique2",
        "bincount",
        "repeat_interleave",
    }
    INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.waiting: list[str] = []
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        by_mask = name in self.INDEXING and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in self.WAITING or by_mask:
            self.waiting.append(name)
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.numel())
        self.calls += 1
        return out


def test_watch_sees_what_it_looks_for():
    x = torch.arange(6.0)
    with Watch() as watch:
        x[2].item()
        x.nonzero()
        x[x > 2]
        x.masked_select(x > 2)
        x.unique()
        x[torch.tensor([0, 1])]
        x[:, None] * x
    assert watch.waiting == ["_local_scalar_dense", "nonzero", "index", "masked_select", "_unique2"]
    assert watch.largest == 36


@pytest.mark.parametrize("last_write", [False, True])
@pytest.mark.parametrize("counts", [(3, 2), (0, 3), (0, 0)])
def test_nothing_waits_for_the_device(counts, last_write):
    """Forwards, backwards, and backwards again."""
    given = scene(29, counts)
    settings = {"bag_size": 5, "last_write": last_write, "elements_at_once": 64}
    with Watch() as watch:
        losses = free_anchor_loss(*given, **settings)
        before_backward = watch.calls
        total = sum(losses.values())
        total.backward(retain_graph=True)
        total.backward()
    assert before_backward > 50 and watch.calls > before_backward + 20
    assert watch.waiting == []


def test_no_table_of_boxes_and_anchors():
    """300 boxes x 20,000 anchors: nothing of their product, 6,000,000, is ever made.

    The largest are BAGS_AT_ONCE rows of anchors, the last group of them filled up.
    """
    given = scene(30, (300,), anchors=300, num_classes=4)
    random = torch.Generator().manual_seed(0)
    anchors = given.anchors.repeat(67, 1)[:20000]
    anchors = anchors + torch.rand(anchors.shape, generator=random)
    logits = given.logits.detach().repeat(1, 67, 1)[:, :20000].requires_grad_()
    deltas = torch.randn(1, 20000, 4, generator=random, dtype=torch.float64).requires_grad_()
    given = given._replace(logits=logits, deltas=deltas, anchors=anchors).to(torch.float32)
    with Watch() as watch:
        losses = free_anchor_loss(*given, elements_at_once=2**14)
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    bound = BAGS_AT_ONCE * (20000 + GROUP)
    assert 4 * 20000 <= watch.largest <= bound < 300 * 20000 / 10


# -- wrong shapes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"deltas": torch.zeros(2, 39, 4)}, r"need box_deltas \(2, 40, 4\), got \(2, 39, 4\)"),
        ({"deltas": torch.zeros(1, 40, 4)}, r"box_deltas .*, got \(1, 40, 4\)"),
        ({"deltas": torch.zeros(2, 40, 3)}, r"got \(2, 40, 3\)"),
        ({"anchors": torch.zeros(41, 4)}, r"need anchors \(40, 4\), got \(41, 4\)"),
        ({"anchors": torch.zeros(2, 40, 4)}, r"anchors .*, got \(2, 40, 4\)"),
        ({"logits": torch.zeros(40, 3)}, r"cls_logits must be .*, got \(40, 3\)"),
        ({"boxes": [torch.zeros(3, 4)]}, "2 images need .*; got 1 and 2"),
        ({"classes": [torch.zeros(3).long()] * 3}, "2 images need .*; got 2 and 3"),
        ({"boxes": [torch.zeros(3, 4), torch.zeros(3, 4)]}, r"2 classes .*\(2, 4\); got \(3, 4\)"),
        ({"boxes": [torch.zeros(3, 5), torch.zeros(2, 4)]}, r"\(3, 4\); got \(3, 5\)"),
        ({"boxes": [torch.zeros(3, 4), torch.zeros(0)]}, r"\(2, 4\); got \(0,\)"),
    ],
)
def test_wrong_shapes(change, message):
    with pytest.raises(ValueError, match=message):
        free_anchor_loss(*scene(31)._replace(**change))


def test_no_image():
    nothing = Scene(torch.zeros(0, 40, 3), torch.zeros(0, 40, 4), torch.zeros(40, 4), [], [])
    with pytest.raises(ValueError, match=r"N > 0 images, got \(0, 40, 3\)"):
        free_anchor_loss(*nothing)


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.uint8])
def test_classes_of_another_type(dtype):
    given = scene(32)
    classes = [given.classes[0], given.classes[1].to(dtype)]
    with pytest.raises(ValueError, match=f"int64; got {dtype}"):
        free_anchor_loss(*given._replace(classes=classes))
