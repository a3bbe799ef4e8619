"""AutoAssign's loss: by hand, against two references, gradients, edges, invariances, chunks."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cvpods_ext.kernels.pairs import Pairs, inside_pairs
from cvpods_ext.methods.auto_assign import definition
from cvpods_ext.methods.auto_assign.loss import auto_assign_loss, positive_loss
from tests.reference.auto_assign import (
    auto_assign_loss_loop,
    bag_loop,
    min_max,
)
from tests.reference.boxes import is_inside
from tests.seeds import each_seed

NAMES = ["loss_pos", "loss_neg", "loss_norm"]
NO_AREA = [[20, 10, 20, 40], [20, 10, 40, 10], [20, 20, 20, 20], [40, 10, 20, 30], [40, 30, 20, 10]]
NO_AREA_IDS = ["no width", "no height", "point", "left of itself", "inside out"]
NONE = torch.zeros(0, 4)
NO_CLASS = torch.zeros(0, dtype=torch.int64)
# No location of a scene lies inside.
TINY = torch.tensor([[41.0, 17, 45, 21]], dtype=torch.float64)


class Scene(NamedTuple):
    """The arguments of auto_assign_loss."""

    cls_logits: Tensor
    obj_logits: Tensor
    ltrb: Tensor
    points: Tensor
    strides: Tensor
    mu: Tensor
    sigma: Tensor
    boxes: list[Tensor]
    classes: list[Tensor]

    @property
    def leaves(self) -> list[Tensor]:
        return [self.cls_logits, self.obj_logits, self.ltrb, self.mu, self.sigma]

    def to(self, dtype: torch.dtype) -> Scene:
        tensors = [t.detach().to(dtype).requires_grad_(t.requires_grad) for t in self[:7]]
        return Scene(*tensors, [b.to(dtype) for b in self.boxes], self.classes)


def scene(
    seed: int = 0,
    counts: tuple[int, ...] = (3, 2),
    num_classes: int = 3,
    strides: tuple[int, ...] = (8, 16, 32),
    clash: bool = False,
) -> Scene:
    """Boxes on the locations of a 96 x 64 image, predicted boxes close to boxes; float64.

    With `clash`, all boxes of an image nearly coincide: those of one class share locations.
    """
    random = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    def corners(count: int) -> Tensor:
        low = rand(count, 2) * torch.tensor([56, 34])
        return torch.cat([low, low + 14 + rand(count, 2) * 30], dim=1)

    boxes = [corners(1) + 6 * rand(c, 4) if clash else corners(c) for c in counts]
    classes = [torch.randint(0, num_classes, (c,), generator=random) for c in counts]
    grid = [(x, y, s) for s in strides for y in range(0, 64, s) for x in range(0, 96, s)]
    x, y, stride = torch.tensor(grid, dtype=torch.float64).unbind(1)
    points = torch.stack([x, y], dim=1)
    ltrb = 20 * rand(len(counts), len(points), 4)
    for n, count in enumerate(counts):
        if count:
            box = boxes[n][torch.arange(len(points)) % count]
            wanted = torch.cat([points - box[:, :2], box[:, 2:] - points], dim=1).clamp(min=1)
            ltrb[n] = wanted * (0.7 + 0.6 * rand(len(points), 4))
    logits = [rand(len(counts), len(points), k) * 6 - 4 for k in (num_classes, 1)]
    mu, sigma = rand(num_classes, 2) - 0.5, 0.6 + rand(num_classes, 2)
    cls_logits, obj_logits, ltrb, mu, sigma = (
        t.requires_grad_() for t in (*logits, ltrb, mu, sigma)
    )
    return Scene(cls_logits, obj_logits, ltrb, points, stride, mu, sigma, boxes, classes)


def with_boxes(given: Scene, *boxes: Tensor, classes: tuple[int, ...] = (), n: int = 0) -> Scene:
    """The scene with other boxes in its n-th image."""
    others = torch.cat([b.to(given.points.dtype).view(-1, 4) for b in boxes])
    labels = torch.tensor(classes, dtype=torch.int64)
    return given._replace(
        boxes=[*given.boxes[:n], others, *given.boxes[n + 1 :]],
        classes=[*given.classes[:n], labels, *given.classes[n + 1 :]],
    )


def one_location(
    box: list[float],
    logit: float = 0.0,
    obj_logit: float = 0.0,
    point: tuple[float, float] = (8.0, 8.0),
    stride: float = 8.0,
) -> Scene:
    """One image, one box of the one class, one location, which predicts the box exactly."""
    x, y = point
    ltrb = [x - box[0], y - box[1], box[2] - x, box[3] - y]
    return Scene(
        torch.tensor([[[logit]]], requires_grad=True),
        torch.tensor([[[obj_logit]]], requires_grad=True),
        torch.tensor([[ltrb]], requires_grad=True),
        torch.tensor([point]),
        torch.tensor([stride]),
        torch.zeros(1, 2, requires_grad=True),
        torch.ones(1, 2, requires_grad=True),
        [torch.tensor([box])],
        [torch.zeros(1, dtype=torch.int64)],
    )


def gradients(losses: dict[str, Tensor], leaves: list[Tensor]) -> list[tuple[Tensor, ...]]:
    """Of every loss, with respect to all leaves."""
    return [
        torch.autograd.grad(losses[name], leaves, retain_graph=True, materialize_grads=True)
        for name in NAMES
    ]


def assert_same(actual: Scene, expected: Scene, rtol: float = 1e-9, **settings: Any) -> None:
    """Equal losses, and equal gradients in the leaves of `expected`."""
    results = []
    for given in (actual, expected):
        losses = auto_assign_loss(*given, **settings)
        results.append((losses, gradients(losses, expected.leaves)))
    torch.testing.assert_close(*results, rtol=rtol, atol=1e-12)


def assert_finite(losses: dict[str, Tensor], given: Scene) -> None:
    assert list(losses) == NAMES
    for loss in losses.values():
        assert loss.isfinite() and loss >= 0 and loss.shape == ()
    results = torch.autograd.grad(sum(losses.values()), given.leaves, retain_graph=True)
    for leaf, gradient in zip(given.leaves, results, strict=True):
        assert gradient.isfinite().all()
        assert gradient.dtype == leaf.dtype and gradient.shape == leaf.shape


def loop(given: Scene, **settings: Any) -> dict[str, float]:
    numbers = [t.tolist() for t in given[:7]]
    boxes, classes = ([t.tolist() for t in part] for part in given[7:])
    return auto_assign_loss_loop(*numbers, boxes, classes, **settings)


def assert_matches_loop(given: Scene, **settings: Any) -> None:
    losses = auto_assign_loss(*given, **settings)
    for name, value in loop(given, **settings).items():
        assert losses[name].item() == pytest.approx(value, rel=1e-9, abs=1e-12), name


def values(losses: dict[str, Tensor]) -> list[float]:
    return [losses[name].item() for name in NAMES]


# -- by hand -------------------------------------------------------------------------------------


def test_golden_bag():
    """P = .2, .6 and G = 1, .5: exp(3 P) G = 1.822119, 3.024824, w = .3759316, .6240684.

    sum w P = .4496274, -log = .7993361. And 1 / (1 - IoU) = 1, 2, 4 are 0, 1/3, 1 of their range.
    """
    assert bag_loop([0.2, 0.6], [1, 0.5]) == pytest.approx(0.7993361, abs=1e-7)
    assert min_max([1, 2, 4]) == pytest.approx([0, 1 / 3, 1])
    log_score = torch.tensor([0.2, 0.6], dtype=torch.float64).log()
    box, none = torch.tensor([1, 1]), torch.zeros(3, dtype=torch.int64)
    pairs = Pairs(box, box, torch.zeros(3, 4), none, none, 1, 2)
    log_g = torch.tensor([1, 0.5], dtype=torch.float64).log()
    losses = positive_loss(pairs, log_score, log_g).tolist()
    assert losses == [100, pytest.approx(0.7993361, abs=1e-7), 100]


def test_hand_case():
    """Box (0, 0, 16, 16) of class 1 of 2; locations (8, 8), (12, 8), (20, 8); stride 8; mu 0.

    Class logits (0, log 3), (log 3, 0), (0, 0), objectness log 3, 0, 0; sigma of class 1 (.5, 1).
    p = (.375, .5625), (.375, .25), (.25, .25)
    The first two lie inside, d = (0, 0), (.5, 0): G = 1, exp(-.25 / .5) = .606531

    predicted           IoU, GIoU   exp(-5 (1 - GIoU))   P_ij
    (0, 0, 16, 16)      1           1                    .5625
    (0, 0, 16, 12)      .75         .286505              .25 * .286505 = .071626

    exp(3 P) G = 5.405864, .751900; w = .877893, .122107; sum w P = .502561, -log = .688039
    loss_pos = .25 * .688039 / 1 = .172010

    1 / (1 - IoU) = 1e12, 4: A = 1 and, less than 1e-11, 0, of class 1.
    FL: class 0  FL(.375) twice, FL(.25):   .0660943 * 2 + .0179801
        class 1  FL(0), FL(.25) twice:      .0179801 * 2
    loss_neg = .75 * .186129 / 1.606531 = .086893
    loss_norm = .75 * 1 / 1.606531 = .466844
    """
    log3 = math.log(3)
    losses = auto_assign_loss(
        torch.tensor([[[0, log3], [log3, 0], [0, 0]]]),
        torch.tensor([[[log3], [0], [0]]]),
        torch.tensor([[[8.0, 8, 8, 8], [12, 8, 4, 4], [1, 1, 1, 1]]]),
        torch.tensor([[8.0, 8], [12, 8], [20, 8]]),
        torch.tensor([8.0, 8, 8]),
        torch.zeros(2, 2),
        torch.tensor([[1, 1], [0.5, 1]]),
        [torch.tensor([[0.0, 0, 16, 16]])],
        [torch.tensor([1])],
    )
    assert list(losses) == NAMES
    assert values(losses) == pytest.approx([0.172010, 0.086893, 0.466844], abs=2e-6)


def test_normalisers_by_hand():
    """Four images of the same location: 2, 1, 1 and no boxes, each predicted exactly, p = 1/4.

    Every G = 1: N_gt = 4, N_G = 4. w = 1, loss_pos = .25 * 4 * log 4 / 4.
    A = 1 in three images, FL(1/4) = .0179801 in the fourth: loss_neg = .75 * .0179801 / 4.
    n_gt / sum G = 1 in three of four images: loss_norm = .75 * 3 / 4.
    """
    given = one_location([0, 0, 16, 16])
    box, label = given.boxes[0], given.classes[0]
    batch = [t.expand(4, 1, -1) for t in given[:3]]
    boxes, classes = [box.repeat(2, 1), box, box, NONE], [label.repeat(2), label, label, NO_CLASS]
    losses = auto_assign_loss(*batch, *given[3:7], boxes, classes)
    expected = [0.25 * math.log(4), 0.75 * 0.0179801 / 4, 0.75 * 3 / 4]
    assert values(losses) == pytest.approx(expected, rel=1e-5)


def test_single_candidate():
    """w = 1 whatever G is, here exp(-1/8): loss_pos = .25 log(1 / p), of p = 1/4 log 4.

    f = 1: no negative. loss_norm = .75 exp(1/8). The gradient by the logits is -.25 (1 - 1/2); none
    by mu and sigma, but for loss_norm, where the one by mu is .75 exp(1/8) d/dmu = .75 exp(1/8) / 2
    downwards, and the one by sigma .75 exp(1/8) * -1/4.
    """
    given = one_location([0, 0, 24, 16])
    losses = auto_assign_loss(*given)
    norm = 0.75 * math.exp(1 / 8)
    assert values(losses) == pytest.approx([0.25 * math.log(4), 0, norm])
    of_pos, of_neg, of_norm = gradients(losses, given.leaves)
    assert [g.item() for g in of_pos[:2]] == pytest.approx([-0.125, -0.125])
    assert all(g.abs().max() == 0 for g in (*of_pos[3:], *of_neg))
    assert all(g.abs().max() == 0 for g in of_norm[:3])
    assert of_norm[3][0].tolist() == pytest.approx([norm / 2, 0])
    assert of_norm[4][0].tolist() == pytest.approx([-norm / 4, 0])


def test_perfect_prediction_is_near_zero():
    """Locations of a box predict it surely, all others predict nothing, surely."""
    given = scene(0, (2,))
    given = with_boxes(given, torch.tensor([[3.0, 3, 30, 40], [50, 10, 90, 60]]), classes=(2, 0))
    logits = torch.full_like(given.cls_logits, -20)
    ltrb = given.ltrb.detach().clone()
    for box, label in zip(given.boxes[0], (2, 0), strict=True):
        members = [is_inside(point, box.tolist()) for point in given.points.tolist()]
        logits[0, members, label] = 20
        wanted = torch.cat([given.points - box[:2], box[2:] - given.points], dim=1)
        ltrb[0, members] = wanted[members]
    objectness = torch.full_like(given.obj_logits, 20)
    losses = auto_assign_loss(logits, objectness, ltrb, *given[3:])
    assert 0 <= losses["loss_pos"] < 1e-7 and 0 <= losses["loss_neg"] < 1e-7
    wrong = auto_assign_loss(-logits, objectness, ltrb, *given[3:])
    assert wrong["loss_pos"] > 5 * 0.25 and wrong["loss_neg"] > 5


# -- against references --------------------------------------------------------------------------


@pytest.mark.parametrize("clash", [False, True], ids=["", "clash"])
@each_seed(20)
def test_matches_loop(seed, clash):
    """Half of the batches have an image without boxes."""
    counts = [(3, 2), (0, 4), (5, 0), (1,)][seed % 4]
    assert_matches_loop(scene(seed, counts, num_classes=2 + seed % 3, clash=clash))


@pytest.mark.parametrize("clash", [False, True], ids=["", "clash"])
@each_seed(20)
def test_matches_the_definition(seed, clash):
    """Of every loss by every input, in float64, where the plain formulas are good enough."""
    counts = [(3, 2), (0, 4), (5, 0), (1,)][seed % 4]
    given = scene(seed, counts, num_classes=2 + seed % 3, clash=clash)
    losses, expected = auto_assign_loss(*given), definition.auto_assign_loss(*given)
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=1e-12)
    sides = [gradients(side, given.leaves) for side in (losses, expected)]
    torch.testing.assert_close(*sides, rtol=1e-9, atol=1e-9)
    of_pos, of_neg, of_norm = sides[0]
    assert all(g.abs().max() > 1e-6 for g in (*of_pos, *of_neg[:2], *of_norm[3:]))
    assert all(g.abs().max() == 0 for g in (*of_neg[2:], *of_norm[:3]))


def test_matches_tensors_in_float32():
    given = scene(1, (4, 0, 3), clash=True).to(torch.float32)
    actual, expected = auto_assign_loss(*given), definition.auto_assign_loss(*given)
    assert all(loss.dtype == torch.float32 for loss in actual.values())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)
    sides = [gradients(side, given.leaves) for side in (actual, expected)]
    torch.testing.assert_close(*sides, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.7},
        {"alpha": 1.0},
        {"alpha": 0.0},
        {"gamma": 0.0},
        {"gamma": 1.0},
        {"gamma": 2.5},
        {"reg_weight": 0.0},
        {"reg_weight": 2.0},
        {"alpha": 0.5, "gamma": 1.5, "reg_weight": 0.3},
    ],
    ids=str,
)
def test_settings_match_the_loop(settings):
    given = scene(3)
    assert_matches_loop(given, **settings)
    acts_on = {"alpha": set(NAMES), "gamma": {"loss_neg"}, "reg_weight": {"loss_pos"}}
    default, other = auto_assign_loss(*given), auto_assign_loss(*given, **settings)
    changed = {name for name in NAMES if other[name] != default[name]}
    assert changed == set().union(*(acts_on[name] for name in settings))


def test_defaults_are_the_papers():
    given = scene(4)
    settings = {"alpha": 0.25, "gamma": 2.0, "reg_weight": 5.0, "average": lambda counts: counts}
    assert auto_assign_loss(*given) == auto_assign_loss(*given, **settings)


@pytest.mark.parametrize("num_classes", [1, 2, 91])
def test_number_of_classes(num_classes):
    assert_matches_loop(scene(5, num_classes=num_classes, strides=(16, 32)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("counts", "num_classes"), [((1,), 1), ((3, 0, 2), 4), ((0,), 2)])
def test_shapes(counts, num_classes, dtype):
    given = scene(6, counts, num_classes, strides=(16,)).to(dtype)
    losses = auto_assign_loss(*given)
    assert all(loss.dtype == dtype for loss in losses.values())
    assert_finite(losses, given)


# -- normalisers ---------------------------------------------------------------------------------


def test_average_is_given_the_counts_and_divides():
    """Once, (5 boxes, N_G), without gradient; 3 and 7 instead: 5 / 3 and N_G / 7 times the loss."""
    given = scene(7, (3, 2, 0))
    plain = auto_assign_loss(*given)
    counts = []

    def average(own: Tensor) -> Tensor:
        counts.append(own)
        return own.new_tensor([3, 7])

    losses = auto_assign_loss(*given, average=average)
    (own,) = counts
    assert own.shape == (2,) and not own.requires_grad
    assert own[0] == 5 and own[1] > 1
    assert losses["loss_pos"].item() == pytest.approx(plain["loss_pos"].item() * 5 / 3)
    expected = plain["loss_neg"].item() * own[1].item() / 7
    assert losses["loss_neg"].item() == pytest.approx(expected)
    assert losses["loss_norm"] == plain["loss_norm"]
    priors = one_location([0, 0, 24, 16])
    auto_assign_loss(*priors, average=average)
    assert counts[1].tolist() == pytest.approx([1, math.exp(-1 / 8)])


@pytest.mark.parametrize("few", [0.0, 0.5, 1.0])
def test_normalisers_are_at_least_one(few):
    """After the average over the ranks, where other ranks may have no boxes."""
    given = scene(8)
    ones = auto_assign_loss(*given, average=torch.ones_like)
    assert auto_assign_loss(*given, average=lambda counts: torch.full_like(counts, few)) == ones
    assert auto_assign_loss(*given) != ones


@pytest.mark.parametrize("counts", [(3, 0), (0, 3), (2, 0, 0, 3)])
def test_half_empty_batch(counts):
    """Sums of the images over common normalisers; loss_norm is a mean over all images."""
    given = scene(9, counts)
    losses = auto_assign_loss(*given)
    assert_finite(losses, given)
    own = []

    def ones(counts: Tensor) -> Tensor:
        own.append(counts)
        return torch.ones_like(counts)

    parts = []
    for n in range(len(counts)):
        image = (t[n : n + 1] for t in given[:3])
        alone = Scene(*image, *given[3:7], given.boxes[n : n + 1], given.classes[n : n + 1])
        parts.append(values(auto_assign_loss(*alone, average=ones)))
        assert counts[n] or (parts[-1][0], parts[-1][2]) == (0, 0)
        assert parts[-1][1] > 0
    pos, neg, norm = (sum(part) for part in zip(*parts, strict=True))
    num_gt, total_prior = sum(own).tolist()
    assert num_gt == sum(counts)
    expected = [pos / num_gt, neg / total_prior, norm / len(counts)]
    assert values(losses) == pytest.approx(expected)


# -- boxes: none, without location, without area, many -------------------------------------------


@pytest.mark.parametrize("images", [1, 3])
def test_no_boxes(images):
    """All is negative, over N_G = 1; the box and the prior learn nothing."""
    given = scene(10, (0,) * images)
    assert_matches_loop(given)
    losses = auto_assign_loss(*given)
    assert_finite(losses, given)
    assert losses["loss_pos"] == 0 and losses["loss_norm"] == 0 and losses["loss_neg"] > 0
    of_cls, of_obj, *others = torch.autograd.grad(sum(losses.values()), given.leaves)
    assert (of_cls > 0).all() and (of_obj > 0).all()
    assert all(gradient.abs().max() == 0 for gradient in others)
    assert all(loss.requires_grad for loss in losses.values())


@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_box_without_location_costs_a_constant(dtype, first):
    """100 alpha / N_gt. The others of the image keep their losses, but for N_gt and n_gt."""
    given = scene(11, (2, 2)).to(dtype)
    label = given.classes[0].tolist()
    both = [TINY, given.boxes[0]] if first else [given.boxes[0], TINY]
    more = with_boxes(given, *both, classes=(1, *label) if first else (*label, 1))
    losses, plain = auto_assign_loss(*more), auto_assign_loss(*given)
    assert_finite(losses, more)
    assert losses["loss_pos"].item() == pytest.approx(plain["loss_pos"].item() * 4 / 5 + 25 / 5)
    assert losses["loss_neg"].item() == pytest.approx(plain["loss_neg"].item())
    of_more, of_plain = (gradients(side, given.leaves)[0] for side in (losses, plain))
    torch.testing.assert_close(of_more, tuple(4 / 5 * g for g in of_plain))
    if dtype == torch.float64:
        assert_matches_loop(more)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_only_a_box_without_location(dtype):
    """loss_pos is a constant without gradient, and the image adds nothing to loss_norm."""
    given = with_boxes(scene(12, (1,)), TINY, classes=(1,)).to(dtype)
    losses = auto_assign_loss(*given)
    assert_finite(losses, given)
    assert losses["loss_pos"] == 25
    assert losses["loss_norm"].item() == 0
    of_pos, of_neg, of_norm = gradients(losses, given.leaves)
    assert all(gradient.abs().max() == 0 for gradient in (*of_pos, *of_neg[2:], *of_norm))
    none = auto_assign_loss(*with_boxes(given, NONE))
    assert losses["loss_neg"] == none["loss_neg"]


@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("box", NO_AREA, ids=NO_AREA_IDS)
def test_box_without_area_contains_nothing(box, first):
    """Also where locations lie on it: as a box without locations."""
    given = scene(13, (2, 1), clash=True)
    label = given.classes[0].tolist()
    both = [torch.tensor([box]), given.boxes[0]]
    more = with_boxes(
        given,
        *(both if first else both[::-1]),
        classes=(1, *label) if first else (*label, 1),
    )
    assert_matches_loop(more)
    losses, plain = auto_assign_loss(*more), auto_assign_loss(*given)
    assert_finite(losses, more)
    assert losses["loss_pos"].item() == pytest.approx(plain["loss_pos"].item() * 3 / 4 + 25 / 4)
    assert losses["loss_neg"].item() == pytest.approx(plain["loss_neg"].item())


def test_border_of_a_box_is_outside():
    """The sides of the box run through locations: a hair smaller, the same; a hair larger, more."""
    given = scene(14, (1,))
    box = torch.tensor([[16.0, 16, 48, 48]], dtype=torch.float64)
    inward = torch.tensor([1, 1, -1, -1]) * 1e-7
    norms = [
        auto_assign_loss(*with_boxes(given, box + shift, classes=(1,)))["loss_norm"].item()
        for shift in (0, inward, -inward)
    ]
    assert norms[1] == pytest.approx(norms[0], rel=1e-6) and norms[2] < 0.99 * norms[0]
    assert_matches_loop(with_boxes(given, box, classes=(1,)))


def test_hopeless_prior_keeps_its_gradient():
    """d = (0, 12): G = exp(-72), below the 1e-12 that the sum of a bag's weights is clamped to.

    -log(exp(3 P) G P / 1e-12) with P = 1/4: 72 - .75 + log 4 + log 1e-12 = 45.005264.
    mu of y gets -.25 * 12 of gradient. Plain formulas say the same.
    """
    given = one_location([0, 0, 16, 300], point=(8.0, 246.0))
    losses = auto_assign_loss(*given)
    expected = 72 - 0.75 + math.log(4) + math.log(1e-12)
    assert losses["loss_pos"].item() == pytest.approx(0.25 * expected, rel=1e-6)
    assert loop(given)["loss_pos"] == pytest.approx(0.25 * expected, rel=1e-6)
    of_pos = gradients(losses, given.leaves)[0]
    assert of_pos[3].tolist() == [[0, pytest.approx(-3)]]
    assert of_pos[4].tolist() == [[0, pytest.approx(-0.25 * 144)]]
    assert_finite(losses, given)


def test_thousand_boxes():
    random = torch.Generator().manual_seed(0)
    low = torch.rand(1000, 2, generator=random) * torch.tensor([80.0, 50])
    boxes = torch.cat([low, low + 9 + torch.rand(1000, 2, generator=random) * 30], dim=1)
    classes = torch.randint(0, 3, (1000,), generator=random).tolist()
    given = with_boxes(scene(15, (1, 1)), boxes, classes=tuple(classes)).to(torch.float32)
    losses = auto_assign_loss(*given)
    assert_finite(losses, given)
    expected = definition.auto_assign_loss(*given)
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)


def test_no_locations():
    given = scene(16, (2, 0), strides=(16,))
    given = given._replace(
        **{
            name: getattr(given, name)[:, :0].detach().requires_grad_()
            for name in ("cls_logits", "obj_logits", "ltrb")
        },
        points=torch.zeros(0, 2, dtype=torch.float64),
        strides=torch.zeros(0, dtype=torch.float64),
    )
    losses = auto_assign_loss(*given)
    assert_finite(losses, given)
    assert losses["loss_pos"] == 25 and losses["loss_neg"] == 0


# -- numbers at the edge -------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("obj_logit", [50.0, -50.0])
@pytest.mark.parametrize("logit", [50.0, -50.0])
def test_extreme_logits(logit, obj_logit, dtype, autocast):
    """Predictions in halves; locations, priors and boxes in float32."""
    given = scene(17, (3, 0)).to(torch.float32)
    predictions = [torch.full_like(given[0], logit), torch.full_like(given[1], obj_logit), given[2]]
    predictions = [t.detach().to(dtype).requires_grad_() for t in predictions]
    given = Scene(*predictions, *given[3:])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        losses = auto_assign_loss(*given)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert_finite(losses, given)


@pytest.mark.parametrize("logit", [1e4, -1e4, 16.7, 88.5, 104.0])
def test_logits_far_off_stay_finite(logit):
    given = scene(17).to(torch.float32)
    given = given._replace(cls_logits=torch.full_like(given.cls_logits, logit, requires_grad=True))
    assert_finite(auto_assign_loss(*given), given)


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e4])
def test_extreme_distances(distance):
    given = scene(18).to(torch.float32)
    given = given._replace(ltrb=torch.full_like(given.ltrb, distance, requires_grad=True))
    assert_finite(auto_assign_loss(*given), given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype):
    given = scene(19).to(torch.float32)
    halves = [t.detach().to(dtype) for t in given[:3]]
    actual = auto_assign_loss(*halves, *given[3:])
    assert actual == auto_assign_loss(*(t.float() for t in halves), *given[3:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert actual == auto_assign_loss(*halves, *given[3:])


@pytest.mark.parametrize("other", [torch.bfloat16, torch.float64])
def test_prior_and_boxes_of_another_type(other):
    """Both follow the predictions and the locations."""
    given = scene(19).to(torch.float32)
    mu, sigma, *boxes = (t.detach().to(other) for t in (given.mu, given.sigma, *given.boxes))
    mixed = given._replace(mu=mu.requires_grad_(), sigma=sigma.requires_grad_(), boxes=boxes)
    losses = auto_assign_loss(*mixed)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    assert losses == auto_assign_loss(*mixed.to(torch.float32))
    assert_finite(losses, mixed)


def test_float32_is_near_float64():
    """Losses and gradients at logits down to -40, where float32 products of scores underflow."""
    given = scene(20, (3, 2), clash=True)
    given = given._replace(
        cls_logits=(given.cls_logits - 36).detach().requires_grad_(),
        obj_logits=(given.obj_logits - 36).detach().requires_grad_(),
    )
    single = given.to(torch.float32)
    results = []
    for side in (given, single):
        losses = auto_assign_loss(*side)
        of_pos = gradients(losses, side.leaves)[0]
        results.append([losses["loss_pos"].double(), *(g.double() for g in of_pos)])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4)
    assert results[0][0] > 0.25 * 70


def test_hopeless_bag_costs_in_proportion():
    """No ceiling: a logit of -1000 at the one location costs 1000, and has its full gradient."""
    for logits in ({"logit": -1000.0}, {"obj_logit": -1000.0}):
        given = one_location([0, 0, 16, 16], **logits)
        losses = auto_assign_loss(*given)
        assert losses["loss_pos"].item() == pytest.approx(0.25 * (1000 + math.log(2)))
        of_cls, of_obj, *_ = torch.autograd.grad(losses["loss_pos"], given.leaves)
        hopeless = of_cls if "logit" in logits else of_obj
        assert hopeless.item() == pytest.approx(-0.25)


# -- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [2**19, 7], ids=["at once", "chunks"])
@pytest.mark.parametrize("gamma", [1.5, 2.0])
def test_grad_of_logits(gamma, chunk):
    given = scene(21, (2, 0, 1), num_classes=2, strides=(24,), clash=True)

    def losses(*logits: Tensor) -> tuple[Tensor, ...]:
        losses = auto_assign_loss(*logits, *given[2:], gamma=gamma, pairs_at_once=chunk)
        return tuple(losses.values())

    assert torch.autograd.gradcheck(losses, given[:2], fast_mode=True)


@pytest.mark.parametrize("chunk", [2**19, 7], ids=["at once", "chunks"])
def test_grad_of_boxes_and_prior(chunk):
    """Not of loss_neg, whose A and N_G are constants by definition."""
    given = scene(22, (2, 0, 1), num_classes=2, strides=(24,), clash=True)

    def losses(ltrb: Tensor, mu: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        changed = given._replace(ltrb=ltrb, mu=mu, sigma=sigma)
        result = auto_assign_loss(*changed, pairs_at_once=chunk)
        return result["loss_pos"], result["loss_norm"]

    inputs = (given.ltrb, given.mu, given.sigma)
    assert torch.autograd.gradcheck(losses, inputs, fast_mode=True)


@pytest.mark.parametrize("seed", range(5))
def test_loss_norm_enlarges_sigma(seed):
    """Downhill is a larger sigma, of every class that has a box; of the others, no push."""
    given = scene(seed, (3, 2, 0), num_classes=7)
    (gradient,) = torch.autograd.grad(auto_assign_loss(*given)["loss_norm"], given.sigma)
    present = torch.cat(given.classes).unique()
    assert (gradient <= 0).all() and (gradient[present] < 0).all()
    assert gradient.count_nonzero() == 2 * len(present)


def test_backward_twice():
    """The gradients that backward gives away are neither reused nor written to."""
    for bound in (2**19, 7):
        given = scene(23)
        total = sum(auto_assign_loss(*given, pairs_at_once=bound).values())
        kept, copies = [], []
        for _ in range(3):
            for leaf in given.leaves:
                leaf.grad = None
            total.backward(retain_graph=True)
            kept.append([leaf.grad for leaf in given.leaves])
            copies.append([gradient.clone() for gradient in kept[-1]])
        assert all(gradient.abs().sum() > 0 for gradient in copies[0])
        for other in (*kept, *copies[1:]):
            torch.testing.assert_close(other, copies[0], rtol=0, atol=0)


def test_only_what_asks_gets_a_gradient():
    given = scene(24)
    losses = auto_assign_loss(*given)
    expected = torch.autograd.grad(sum(losses.values()), given.leaves)
    for k, name in enumerate(["cls_logits", "obj_logits", "ltrb", "mu", "sigma"]):
        alone = Scene(*(t.detach() for t in given[:7]), *given[7:])
        leaf = getattr(alone, name).requires_grad_()
        total = sum(auto_assign_loss(*alone).values())
        torch.testing.assert_close(torch.autograd.grad(total, leaf), expected[k : k + 1])
    with torch.no_grad():
        without = auto_assign_loss(*given)
    assert without == losses and not any(loss.requires_grad for loss in without.values())


def test_inputs_are_left_alone():
    given = scene(25, clash=True)
    tensors = [*given[:7], *given.boxes, *given.classes]
    before = [t.detach().clone() for t in tensors]
    versions = [t._version for t in tensors]
    assert_finite(auto_assign_loss(*given), given)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))
    assert [t._version for t in tensors] == versions


# -- invariances ---------------------------------------------------------------------------------


def test_permuting_images():
    given = scene(26, (3, 0, 2))
    order = [2, 0, 1]
    permuted = Scene(
        *(t[order] for t in given[:3]),
        *given[3:7],
        *([part[n] for n in order] for part in given[7:]),
    )
    assert_same(permuted, given)


def test_permuting_locations():
    given = scene(27)
    order = torch.randperm(len(given.points), generator=torch.Generator().manual_seed(0))
    predictions = (t[:, order] for t in given[:3])
    permuted = Scene(*predictions, given.points[order], given.strides[order], *given[5:])
    assert_same(permuted, given)


@pytest.mark.parametrize("pixels", [(8, 0), (-40, 13), (1000, 1000)])
def test_translation_by_whole_pixels(pixels):
    given = scene(28)
    shift = torch.tensor(pixels, dtype=torch.float64)
    moved = given._replace(
        points=given.points + shift, boxes=[b + shift.repeat(2) for b in given.boxes]
    )
    assert_same(moved, given)


@pytest.mark.parametrize("scale", [0.25, 3.0])
def test_scaling_of_all_pixels(scale):
    given = scene(29)
    scaled = given._replace(
        ltrb=given.ltrb * scale,
        points=given.points * scale,
        strides=given.strides * scale,
        boxes=[b * scale for b in given.boxes],
    )
    assert_same(scaled, given)
    without_strides = auto_assign_loss(*scaled._replace(strides=given.strides))
    assert without_strides["loss_norm"] != auto_assign_loss(*given)["loss_norm"]


def test_flip():
    """Left and right, of boxes, predictions and mu."""
    given = scene(30)
    sign = torch.tensor([-1.0, 1], dtype=torch.float64)
    flipped = given._replace(
        ltrb=given.ltrb[..., [2, 1, 0, 3]],
        points=given.points * sign,
        mu=given.mu * sign,
        boxes=[b[:, [2, 1, 0, 3]] * sign.repeat(2) for b in given.boxes],
    )
    assert_same(flipped, given)


def test_transposition():
    """x and y change places: of points, distances, mu, sigma and boxes."""
    given = scene(31)
    sides = [1, 0, 3, 2]
    transposed = given._replace(
        ltrb=given.ltrb[..., sides],
        points=given.points.flip(1),
        mu=given.mu.flip(1),
        sigma=given.sigma.flip(1),
        boxes=[b[:, sides] for b in given.boxes],
    )
    assert_same(transposed, given)


def test_permuting_classes():
    given = scene(32, clash=True)
    order = torch.tensor([2, 0, 1])
    permuted = given._replace(
        cls_logits=given.cls_logits[..., order],
        mu=given.mu[order],
        sigma=given.sigma[order],
        classes=[order.argsort()[c] for c in given.classes],
    )
    assert_same(permuted, given)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_permuting_boxes_of_different_classes(order):
    given = scene(33, (3, 1), clash=True)
    given = given._replace(classes=[torch.tensor([2, 0, 1]), given.classes[1]])
    order = list(order)
    permuted = given._replace(
        boxes=[given.boxes[0][order], given.boxes[1]],
        classes=[given.classes[0][order], given.classes[1]],
    )
    assert_same(permuted, given)


def test_the_last_box_of_a_class_counts():
    """Two boxes share locations: exchanged, loss_neg changes - unless their classes differ."""
    boxes = torch.tensor([[10.0, 10, 50, 50], [30, 20, 80, 60]])
    for labels, equal in (((1, 1), False), ((1, 2), True)):
        given = with_boxes(scene(34, (2,)), boxes, classes=labels)
        flipped = with_boxes(given, boxes.flip(0), classes=labels[::-1])
        one, other = (values(auto_assign_loss(*side)) for side in (given, flipped))
        assert one[0] == pytest.approx(other[0]) and one[2] == pytest.approx(other[2])
        assert (one[1] == pytest.approx(other[1], rel=1e-3)) == equal
        assert_matches_loop(given)
        assert_matches_loop(flipped)


# -- chunks and slices ---------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1, 7, 40, 100])
@pytest.mark.parametrize("empty", ["none", "first", "middle", "last", "all"])
def test_chunks_change_nothing(empty, bound):
    """Also with boxes without pairs, and images without boxes, at any place among the others."""
    given = scene(35, (3, 0, 2), clash=True)
    first, second, third = given.boxes[0]
    boxes, classes = {
        "none": ([first, second, third], (0, 1, 0)),
        "first": ([TINY, TINY, first, second], (0, 1, 0, 2)),
        "middle": ([first, TINY, TINY, second], (0, 1, 0, 2)),
        "last": ([first, second, TINY, TINY], (0, 2, 1, 1)),
        "all": ([TINY, TINY], (0, 1)),
    }[empty]
    given = with_boxes(given, *boxes, classes=classes)
    if empty in ("last", "all"):
        given = with_boxes(given, TINY, classes=(2,), n=2)
    expected = auto_assign_loss(*given)
    expected_gradients = gradients(expected, given.leaves)
    actual = auto_assign_loss(*given, pairs_at_once=bound)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)
    sides = (gradients(actual, given.leaves), expected_gradients)
    torch.testing.assert_close(*sides, rtol=1e-9, atol=1e-12)


def test_chunks_without_a_gradient():
    given = scene(36)
    expected = auto_assign_loss(*given)
    with torch.no_grad():
        losses = auto_assign_loss(*given, pairs_at_once=7)
    torch.testing.assert_close(losses, {name: loss.detach() for name, loss in expected.items()})
    halves = [t.detach().bfloat16().requires_grad_() for t in given[:3]]
    given = Scene(*halves, *given.to(torch.float32)[3:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = auto_assign_loss(*given, pairs_at_once=7)
    assert_finite(losses, given)


@pytest.mark.parametrize("bound", [1, 100, 2**10])
def test_slices_change_nothing(bound):
    given = scene(37, (4, 0, 2), clash=True)
    expected = auto_assign_loss(*given)
    expected_gradients = gradients(expected, given.leaves)
    actual = auto_assign_loss(*given, elements_at_once=bound)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=0)
    sides = (gradients(actual, given.leaves), expected_gradients)
    torch.testing.assert_close(*sides, rtol=1e-9, atol=1e-12)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor, and of the largest of floats, of any result."""

    elements = floats = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
                if tensor.is_floating_point():
                    self.floats = max(self.floats, tensor.numel())
        return result


def test_memory_does_not_grow_with_boxes_times_locations():
    """200 boxes, 126 locations, 5 to 35 of them in a box: two indices to a pair, and no table.

    Chunks and slices of 512: the largest tensor of floats has four numbers to a pair of a chunk.
    """
    random = torch.Generator().manual_seed(0)
    low = torch.rand(200, 2, generator=random) * torch.tensor([50, 24])
    boxes = torch.cat([low, low + 20 + torch.rand(200, 2, generator=random) * 20], dim=1)
    given = scene(38, (1,), num_classes=4)
    given = with_boxes(given, boxes, classes=(0, 1, 2, 3) * 50).to(torch.float32)
    num_pairs = len(inside_pairs(given.points, given.boxes[0], given.classes[0]).box)
    assert 2**11 < num_pairs < 200 * len(given.points) / 4
    with Largest() as largest:
        losses = auto_assign_loss(*given, pairs_at_once=2**9, elements_at_once=2**9)
        assert_finite(losses, given)
    assert largest.elements <= 2 * num_pairs
    assert given.cls_logits.numel() <= largest.floats <= 4 * 2**9


def test_chunks_keep_only_their_inputs_for_the_gradient():
    """Floats that the graph keeps: several to a pair; in chunks, fewer than there are pairs."""
    given = scene(38, (9,))
    given = with_boxes(given, *[given.boxes[0]] * 9, classes=(0, 1, 2) * 27)
    num_pairs = len(inside_pairs(given.points, given.boxes[0], given.classes[0]).box)
    inputs = {tensor.data_ptr() for tensor in given[:7]}
    kept = []

    def count(tensor: Tensor) -> Tensor:
        if tensor.is_floating_point() and tensor.data_ptr() not in inputs:
            kept.append(tensor.numel())
        return tensor

    for bound, in_chunks in ((2**19, False), (2**6, True)):
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            losses = auto_assign_loss(*given, pairs_at_once=bound)
        assert (sum(kept) < num_pairs) == in_chunks
        assert_finite(losses, given)


# -- errors --------------------------------------------------------------------------------------


def message_of(given: Scene) -> str:
    with pytest.raises(ValueError) as error:
        auto_assign_loss(*given)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "needed"),
    [
        ("obj_logits", torch.zeros(2, 30, 2), "obj_logits (2, 30, 1), got (2, 30, 2)"),
        ("obj_logits", torch.zeros(2, 30), "obj_logits (2, 30, 1), got (2, 30)"),
        ("ltrb", torch.zeros(2, 29, 4), "ltrb (2, 30, 4), got (2, 29, 4)"),
        ("ltrb", torch.zeros(1, 30, 4), "ltrb (2, 30, 4), got (1, 30, 4)"),
        ("points", torch.zeros(30, 3), "points (30, 2), got (30, 3)"),
        ("strides", torch.ones(29), "strides (30,), got (29,)"),
        ("strides", torch.ones(30, 1), "strides (30,), got (30, 1)"),
        ("mu", torch.zeros(80, 2), "need mu (3, 2), got (80, 2)"),
        ("sigma", torch.zeros(3, 1), "need sigma"),
        ("sigma", torch.zeros(80, 2), "need sigma"),
    ],
)
def test_shapes_that_do_not_go_together(name, value, needed):
    given = scene(39, strides=(16, 32))
    message = message_of(given._replace(**{name: value}))
    assert message.startswith("cls_logits (2, 30, 3) need ") and needed in message


@pytest.mark.parametrize("shape", [(0, 30, 3), (30, 3), (2, 30, 3, 1)], ids=str)
def test_no_image(shape):
    given = scene(39, strides=(16, 32))._replace(cls_logits=torch.zeros(shape))
    expected = f"cls_logits must be (N, R, K) of N > 0 images, got {shape}."
    assert message_of(given) == expected


def test_targets_that_do_not_go_together():
    given = scene(39, strides=(16, 32))
    one_image = given._replace(boxes=given.boxes[:1])
    assert message_of(one_image) == ("2 images need as many gt_boxes and gt_classes; got 1 and 2.")
    one_image = given._replace(classes=given.classes[:1])
    assert message_of(one_image) == ("2 images need as many gt_boxes and gt_classes; got 2 and 1.")
    floats = given._replace(classes=[c.float() for c in given.classes])
    assert message_of(floats) == "gt_classes must be int64; got torch.float32."
    int32 = given._replace(classes=[given.classes[0], given.classes[1].int()])
    assert message_of(int32) == "gt_classes must be int64; got torch.int32."
    column = given._replace(classes=[c[:, None] for c in given.classes])
    assert message_of(column) == "gt_classes must be (M,); got (3, 1)."
    fewer = given._replace(boxes=[given.boxes[0][:2], given.boxes[1]])
    assert message_of(fewer) == "3 classes need boxes (3, 4); got (2, 4)."
    flat = given._replace(boxes=[given.boxes[0], given.boxes[1][:, :3]])
    assert message_of(flat) == "2 classes need boxes (2, 4); got (2, 3)."
    none = given._replace(boxes=[torch.zeros(0), given.boxes[1]], classes=[NO_CLASS] * 2)
    assert message_of(none) == "0 classes need boxes (0, 4); got (0,)."


def test_precisions_may_mix():
    """Predictions of float32 and float64 are computed in float64, whichever is which."""
    given = scene(40)
    expected = auto_assign_loss(*given)
    for name in ("cls_logits", "obj_logits", "ltrb"):
        rounded = getattr(given, name).float()
        losses = auto_assign_loss(*given._replace(**{name: rounded}))
        wide = auto_assign_loss(*given._replace(**{name: rounded.double()}))
        torch.testing.assert_close(losses, wide, rtol=1e-12, atol=0)
        torch.testing.assert_close(losses, expected, rtol=1e-5, atol=0)
