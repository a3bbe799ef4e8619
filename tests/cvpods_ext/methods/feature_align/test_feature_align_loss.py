"""FeatureAlign's loss: printed numbers, against a slow reference, gradients, extremes, switches."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from cvpods_ext.kernels.pairs import Pairs
from cvpods_ext.methods.auto_assign.loss import (
    auto_assign_loss,
    log_positive_weights,
    positive_loss,
)
from cvpods_ext.methods.feature_align import definition
from cvpods_ext.methods.feature_align import loss as module
from cvpods_ext.methods.feature_align.loss import (
    feature_align_loss,
    log_filtered_score,
    misalignment_score,
    quality,
)
from tests.reference.feature_align import feature_align_loss_loop
from tests.seeds import each_seed

NAMES = ["loss_pos", "loss_neg", "loss_quality"]
# Levels of 6 x 4, 3 x 2 and 2 x 1 locations on 48 x 32 pixels.
GRIDS = {8: (6, 4), 16: (3, 2), 32: (2, 1)}
SIZES = [24, 6, 2]
LOCATIONS = 32


class Scene(NamedTuple):
    """The arguments of feature_align_loss, in its order."""

    cls_logits: Tensor
    obj_logits: Tensor
    ltrb: Tensor
    points: Tensor
    strides: Tensor
    level_sizes: list[int]
    mu: Tensor
    sigma: Tensor
    boxes: list[Tensor]
    classes: list[Tensor]

    @property
    def leaves(self) -> dict[str, Tensor]:
        names = ("cls_logits", "obj_logits", "ltrb", "mu", "sigma")
        return {name: getattr(self, name) for name in names}

    def to(self, dtype: torch.dtype, predictions: torch.dtype | None = None) -> Scene:
        """Of a copy; predictions may be of a type of their own, as under autocast."""
        fields = {}
        for name, value in self._asdict().items():
            own = predictions if name in ("cls_logits", "obj_logits", "ltrb") else None
            if isinstance(value, Tensor):
                fields[name] = value.detach().to(own or dtype)
        fields["boxes"] = [boxes.to(dtype) for boxes in self.boxes]
        return leaves_of(self._replace(**fields))


def leaves_of(given: Scene) -> Scene:
    return given._replace(**{k: v.detach().requires_grad_() for k, v in given.leaves.items()})


def scene(seed: int = 0, counts: tuple[int, ...] = (3, 2), num_classes: int = 3) -> Scene:
    """Random boxes and predictions, every second of which lies close to a box; float64."""
    random = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random, dtype=torch.float64)

    points = [
        [stride * (x + 0.5), stride * (y + 0.5)]
        for stride, (width, height) in GRIDS.items()
        for y in range(height)
        for x in range(width)
    ]
    points = torch.tensor(points, dtype=torch.float64)
    strides = torch.tensor(list(GRIDS), dtype=torch.float64)
    strides = strides.repeat_interleave(torch.tensor(SIZES))
    boxes = []
    for count in counts:
        low = rand(count, 2) * torch.tensor([24.0, 12])
        boxes.append(torch.cat([low, low + 11 + rand(count, 2) * 18], dim=1))
    classes = [torch.randint(0, num_classes, (count,), generator=random) for count in counts]
    ltrb = 1 + rand(len(counts), LOCATIONS, 4) * 20
    for n, count in enumerate(counts):
        for j in range(0, LOCATIONS if count else 0, 2):
            box = boxes[n][j // 2 % count]
            wanted = torch.cat([points[j] - box[:2], box[2:] - points[j]])
            ltrb[n, j] = wanted.clamp(min=1) * (0.6 + 0.8 * rand(4))
    shape = (len(GRIDS), num_classes, 2)
    return leaves_of(
        Scene(
            rand(len(counts), LOCATIONS, num_classes) * 6 - 4,
            rand(len(counts), LOCATIONS, 1) * 6 - 2,
            ltrb,
            points,
            strides,
            SIZES,
            rand(shape) - 0.5,
            0.5 + rand(shape) * 1.5,
            boxes,
            classes,
        )
    )


def shared_prior(given: Scene) -> Scene:
    """The first level's mu and sigma on all levels."""
    same = {name: getattr(given, name)[:1].expand_as(given.mu) for name in ("mu", "sigma")}
    return leaves_of(given._replace(**same))


def gradients(loss: Tensor, given: Scene) -> dict[str, Tensor]:
    leaves = given.leaves
    found = torch.autograd.grad(
        loss, leaves.values(), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def assert_same(actual: dict, expected: dict, one: Scene, other: Scene, rtol: float = 1e-9) -> None:
    """Equal losses, and equal gradients of each of them."""
    assert list(actual) == list(expected)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-12)
    for name in actual:
        found, wanted = gradients(actual[name], one), gradients(expected[name], other)
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=1e-12)


def assert_finite(losses: dict[str, Tensor], given: Scene) -> None:
    assert list(losses) == NAMES
    for loss in losses.values():
        assert loss.isfinite() and loss >= 0 and loss.shape == ()
    for name, gradient in gradients(sum(losses.values()), given).items():
        leaf = getattr(given, name)
        assert gradient.isfinite().all() and gradient.shape == leaf.shape, name
        assert gradient.dtype == leaf.dtype


# -- the printed numbers -------------------------------------------------------------------------


def double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Two locations inside one box: Pc .4 and .8, Pb .5 and .3, G 1 and .5.
ZERO = torch.tensor([0])
PAIRS = Pairs(torch.tensor([0, 0]), torch.tensor([0, 1]), torch.zeros(1, 4), ZERO, ZERO, 1, 2)
LOG_PC, LOG_PB = double(0.4, 0.8).log(), double(0.5, 0.3).log()
LOG_G = double(1, 0.5).log()


def test_scores_by_hand():
    """Sa = .4 * .5, .8 * .3; gaps .1 and .5: Sm = 2 / 1.99, 2 / 1.75; x = .2 * .995, .24 * .875."""
    score = misalignment_score(double(0.4, 0.8), double(0.5, 0.3))
    assert score.tolist() == pytest.approx([1.0050251, 1.1428571], abs=1e-7)
    x = log_filtered_score(LOG_PC, LOG_PB).exp()
    assert x.tolist() == pytest.approx([0.199, 0.21])


def test_bag_by_hand():
    """exp(.597) = 1.8166617 and exp(.63) / 2 = .9388053 are .6592935 and .3407066 of their sum.

    Bag .6592935 * .199 + .3407066 * .21 = .2027478, -log 1.5957926.
    """
    log_x = log_filtered_score(LOG_PC, LOG_PB)
    w = log_positive_weights(PAIRS, log_x, LOG_G).exp()
    assert w.tolist() == pytest.approx([0.6592935, 0.3407066], abs=1e-7)
    loss = positive_loss(PAIRS, log_x, LOG_G)
    assert loss.tolist() == pytest.approx([1.5957926], abs=1e-7)
    assert loss.neg().exp().item() == pytest.approx(0.2027478, abs=1e-7)


def test_quality_by_hand():
    """exp(.2) and exp(.24) become q = 2.0e-11 and 1; with G 1 and .5 roots 4.5e-6 and .7071068."""
    log_sa = LOG_PC + LOG_PB
    roots = quality(PAIRS, log_sa, LOG_G)
    q = (roots.square() / double(1, 0.5)).tolist()
    assert q == pytest.approx([2.0e-11, 1], rel=0.01)
    assert roots.sum().item() == pytest.approx(0.7071113, abs=1e-7)
    # No quality: of two equal scores both are the best. q G is kept above 1e-12.
    equal = quality(PAIRS, double(0, 0), LOG_G)
    assert equal.tolist() == pytest.approx([1, math.sqrt(0.5)])
    far = quality(PAIRS, log_sa, double(-1000, -1000))
    assert far.tolist() == pytest.approx([1e-6, 1e-6])


def golden_scene(dtype: torch.dtype = torch.float64) -> Scene:
    """A box (0, 0, 40, 40), of its two locations one in the centre; stride 8, one class.

    G: the second is sqrt(2 log 2) strides to the right, G = 1/2. Predicted boxes lack a strip at
    the bottom, so that GIoU = IoU = 1 + log(Pb) / 5: .8613706 and .7592054 of 40 pixels.
    Pc = .8 * .5 and .9 * 8 / 9. A third location lies on the box's side, so outside.
    """
    heights = [40 * (1 + math.log(pb) / 5) for pb in (0.5, 0.3)]
    aside = 20 + 8 * math.sqrt(2 * math.log(2))
    return leaves_of(
        Scene(
            double(0.8, 0.9, 1e-9).view(1, 3, 1).logit(),
            double(0.5, 8 / 9, 1e-9).view(1, 3, 1).logit(),
            torch.stack(
                [
                    double(20, 20, 20, heights[0] - 20),
                    double(aside, 20, 40 - aside, heights[1] - 20),
                    double(1, 1, 1, 1),
                ]
            )[None],
            torch.stack([double(20, 20), double(aside, 20), double(40, 20)]),
            double(8, 8, 8),
            [3],
            torch.zeros(1, 1, 2, dtype=torch.float64),
            torch.ones(1, 1, 2, dtype=torch.float64),
            [double(0, 0, 40, 40).view(1, 4)],
            [torch.tensor([0])],
        )
    )


def test_losses_by_hand():
    """loss_pos = .25 * 1.5957926, loss_quality = .75 * 1 / (.7071113 + 1e-6) = 1.0606520.

    A goes from 1 to 0 with 1 / (1 - IoU): 1 at the first location, 0 at the second.
    loss_neg = .75 FL(.8) / max(1, 1.5) = .5 * .64 log 5 = .5150201.
    """
    losses = feature_align_loss(*golden_scene())
    assert losses["loss_pos"].item() == pytest.approx(0.25 * 1.5957926, abs=1e-7)
    assert losses["loss_quality"].item() == pytest.approx(1.0606520, abs=2e-7)
    assert losses["loss_neg"].item() == pytest.approx(0.32 * math.log(5), abs=1e-7)
    single = feature_align_loss(*golden_scene().to(torch.float32))
    torch.testing.assert_close(
        {k: v.double() for k, v in single.items()}, losses, rtol=1e-5, atol=0
    )


def test_switches_by_hand():
    """Unfiltered: weights of .2 and .24 with G 1 and .5, exp(.6) and exp(.72) / 2.

    1.8221188, 1.0272166: bag (.2 * 1.8221188 + .24 * 1.0272166) / 2.8493354 = .2144204.
    Unweighted: loss_quality = .75 / (1 + .5).
    """
    given = golden_scene()
    losses = feature_align_loss(*given, feature_filter=False, quality_weight=False)
    assert losses["loss_pos"].item() == pytest.approx(-0.25 * math.log(0.2144204), abs=1e-7)
    assert losses["loss_quality"].item() == pytest.approx(0.5)


def test_misalignment_score_table():
    table = {0: 1, 0.25: 1.0322581, 0.5: 1.1428571, 0.75: 1.3913043, 1: 2}
    gap = double(*table)
    for start in (0.0, 0.3):
        score = misalignment_score(gap + start, torch.full_like(gap, start))
        assert score.tolist() == pytest.approx(list(table.values()), abs=1e-7)


def test_misalignment_score_is_symmetric_and_filters():
    """x <= Sa, equal where the scores are; x = Pc Pb (1 - (Pc - Pb)^2 / 2)."""
    steps = torch.linspace(0.01, 1, 34, dtype=torch.float64)
    pc, pb = (grid.flatten() for grid in torch.meshgrid(steps, steps, indexing="ij"))
    score = misalignment_score(pc, pb)
    assert torch.equal(score, misalignment_score(pb, pc))
    assert (score >= 1).all() and (score <= 2).all() and score.shape == pc.shape
    x, joint = log_filtered_score(pc.log(), pb.log()), pc.log() + pb.log()
    assert torch.equal(x < joint, pc != pb)
    assert torch.equal(x[pc == pb], joint[pc == pb])
    torch.testing.assert_close(x.exp(), pc * pb * (1 - (pc - pb) ** 2 / 2))


# -- against the reference, and against AutoAssign -----------------------------------------------


@each_seed(20)
def test_matches_loop(seed):
    """Values and gradients of all losses; every second seed with settings of its own."""
    given = scene(seed, [(3, 2), (2, 0), (4,)][seed % 3])
    settings: dict[str, Any] = {}
    if seed % 2:
        settings = {"alpha": 0.4, "gamma": 1.5, "reg_weight": 3.0}
    if seed % 5 == 4:
        settings |= {"feature_filter": seed % 2 == 0, "quality_weight": False}
    actual = feature_align_loss(*given, **settings)
    expected = feature_align_loss_loop(*given, **settings)
    assert_same(actual, expected, given, given)
    assert all(gradients(actual["loss_pos"], given)[k].abs().sum() > 0 for k in given.leaves)
    assert_same(actual, definition.feature_align_loss(*given, **settings), given, given)


def test_defaults():
    given = scene(20)
    settings = {"alpha": 0.25, "gamma": 2.0, "reg_weight": 5.0}
    switches = {"feature_filter": True, "quality_weight": True}
    assert feature_align_loss(*given) == feature_align_loss(*given, **settings, **switches)


@pytest.mark.parametrize("seed", range(5))
def test_is_auto_assign_without_its_parts(seed):
    """One prior for all levels, no filter, no quality; loss_quality is then loss_norm."""
    given = shared_prior(scene(seed, (3, 0, 2)))
    actual = feature_align_loss(*given, feature_filter=False, quality_weight=False)
    mu, sigma = (t[0].detach().requires_grad_() for t in (given.mu, given.sigma))
    places = (given.points, given.strides)
    expected = auto_assign_loss(
        *given[:3], *places, mu, sigma, given.boxes, given.classes, reg_weight=5.0
    )
    assert list(expected) == ["loss_pos", "loss_neg", "loss_norm"]
    for one, other in zip(actual.values(), expected.values(), strict=True):
        assert one.item() == pytest.approx(other.item(), rel=1e-6)
    found = gradients(sum(actual.values()), given)
    leaves = (*given[:3], mu, sigma)
    wanted = torch.autograd.grad(sum(expected.values()), leaves)
    summed = [t.sum(dim=0) if name in ("mu", "sigma") else t for name, t in found.items()]
    torch.testing.assert_close(summed, list(wanted))


@pytest.mark.parametrize("filtered", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_each_switch_changes_its_own_loss(filtered, weighted):
    given = scene(21)
    full = feature_align_loss(*given)
    losses = feature_align_loss(*given, feature_filter=filtered, quality_weight=weighted)
    assert (losses["loss_pos"] == full["loss_pos"]).item() is filtered
    assert (losses["loss_quality"] == full["loss_quality"]).item() is weighted
    assert losses["loss_neg"] == full["loss_neg"]
    # What is misaligned scores less.
    assert filtered or losses["loss_pos"] < full["loss_pos"]


def test_filter_moves_confidence_towards_the_box_score():
    """An aligned pair: filtered and unfiltered losses have the same gradient, but the weight's.

    One location alone in its box, Pc = .9: with Pb = .9 both losses are -log(.81) / 4 and have
    equal gradients; with Pb < .9 the filter pushes the class logit less up.
    """
    given = golden_scene()
    one = [torch.tensor([[10.0, 10, 25, 30]], dtype=torch.float64)]
    for pb, equal in ((0.9, True), (0.5, False)):
        height = 20 * (1 + math.log(pb) / 5)
        ltrb = given.ltrb.detach().clone()
        ltrb[0, 0] = double(10, 10, 5, height - 10)
        logits = [t.detach().clone() for t in given[:2]]
        logits[0][0, 0], logits[1][0, 0] = math.log(9), 50.0
        near = leaves_of(
            given._replace(boxes=one, ltrb=ltrb, cls_logits=logits[0], obj_logits=logits[1])
        )
        on, off = (
            gradients(feature_align_loss(*near, feature_filter=value)["loss_pos"], near)
            for value in (True, False)
        )
        slopes = on["cls_logits"][0, 0].item(), off["cls_logits"][0, 0].item()
        assert slopes[1] == pytest.approx(-0.25 * 0.1)
        assert slopes[0] == pytest.approx(slopes[1]) if equal else slopes[0] > slopes[1] + 0.005


# -- the quality distributions -------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
def test_loss_quality_moves_the_distributions_alone(weighted):
    given = scene(22)
    loss = feature_align_loss(*given, quality_weight=weighted)["loss_quality"]
    for name, gradient in gradients(loss, given).items():
        assert (gradient.abs().sum() > 0).item() is (name in ("mu", "sigma")), name
    # Wider is cheaper.
    assert gradients(loss, given)["sigma"].sum() < 0


def test_loss_neg_moves_the_logits_alone():
    given = scene(22)
    loss = feature_align_loss(*given)["loss_neg"]
    for name, gradient in gradients(loss, given).items():
        assert (gradient.abs().sum() > 0).item() is name.endswith("logits"), name


def test_levels_have_their_own_distribution():
    """Three levels with a location each, in the centre of the box, all predictions the same.

    G_l = exp(-mu_l^2 / (2 sigma_l^2)): mu_x = 1, 2, 3 and sigma 1, 2, 1 give exp(-1/2) twice, and
    exp(-4.5). Without quality weighting .75 / (2 exp(-1/2) + exp(-4.5)); the second class of each
    level is not asked.
    """
    mu = torch.full((3, 2, 2), 9.0, dtype=torch.float64)
    sigma = torch.full((3, 2, 2), 0.1, dtype=torch.float64)
    mu[:, 0, 0], mu[:, 0, 1] = double(1, 2, 3), 0
    sigma[:, 0, 0] = double(1, 2, 1)
    given = leaves_of(
        Scene(
            torch.zeros(1, 3, 2, dtype=torch.float64),
            torch.zeros(1, 3, 1, dtype=torch.float64),
            torch.full((1, 3, 4), 10.0, dtype=torch.float64),
            torch.full((3, 2), 20.0, dtype=torch.float64),
            double(8, 16, 32),
            [1, 1, 1],
            mu,
            sigma,
            [double(10, 10, 30, 30).view(1, 4)],
            [torch.tensor([0])],
        )
    )
    loss = feature_align_loss(*given, quality_weight=False)["loss_quality"]
    assert loss.item() == pytest.approx(0.75 / (2 * math.exp(-0.5) + math.exp(-4.5)))
    # All scores are equal, so q = 1.
    loss = feature_align_loss(*given)["loss_quality"]
    assert loss.item() == pytest.approx(0.75 / (2 * math.exp(-0.25) + math.exp(-2.25) + 1e-6))


@pytest.mark.parametrize("level", range(3))
def test_distributions_act_on_their_level_and_class(level):
    """Class 0 has a box in which all levels but the last lie; class 2 has none."""
    given = scene(23, (1,))
    given = given._replace(boxes=[double(1, 1, 15, 23).view(1, 4)], classes=[torch.tensor([0])])
    plain = feature_align_loss(*given, quality_weight=False)
    for name in ("mu", "sigma"):
        value = getattr(given, name).detach().clone()
        value[level, 0] += 0.25
        moved = feature_align_loss(*given._replace(**{name: value}), quality_weight=False)
        for loss in NAMES:
            assert (moved[loss] == plain[loss]).item() is (level == 2), (name, loss)
        value = getattr(given, name).detach().clone()
        value[:, 1:] += 0.25
        assert plain == feature_align_loss(*given._replace(**{name: value}), quality_weight=False)
    gradient = gradients(sum(feature_align_loss(*given).values()), given)
    for name in ("mu", "sigma"):
        assert (gradient[name][level, 0] != 0).all().item() is (level < 2)
        assert (gradient[name][:, 1:] == 0).all()


def test_level_without_locations():
    """A level of no location changes nothing, wherever it is; its distribution gets gradient 0."""
    given = scene(24)
    sizes = [24, 0, 6, 2]
    mu, sigma = (torch.cat([t[:1], t.detach()[:1] + 3, t[1:]]) for t in (given.mu, given.sigma))
    more = leaves_of(given._replace(level_sizes=sizes, mu=mu, sigma=sigma))
    assert feature_align_loss(*more) == feature_align_loss(*given)
    assert gradients(sum(feature_align_loss(*more).values()), more)["mu"][1].abs().sum() == 0


# -- gradients -----------------------------------------------------------------------------------


def tiny() -> Scene:
    """The last 8 locations only: 6 of stride 16, 2 of stride 32."""
    given = scene(25, (2,), num_classes=2)
    parts = {name: getattr(given, name)[:, 24:] for name in ("cls_logits", "obj_logits", "ltrb")}
    places = {name: getattr(given, name)[24:] for name in ("points", "strides")}
    priors = {name: getattr(given, name)[1:] for name in ("mu", "sigma")}
    return leaves_of(given._replace(**parts, **places, **priors, level_sizes=[6, 2]))


@pytest.mark.parametrize(
    ("loss", "names", "feature_filter"),
    [
        ("loss_pos", ["cls_logits", "obj_logits", "ltrb", "mu", "sigma"], True),
        ("loss_pos", ["cls_logits", "obj_logits", "ltrb", "mu", "sigma"], False),
        ("loss_neg", ["cls_logits", "obj_logits"], True),
        ("loss_quality", ["mu", "sigma"], True),
    ],
)
def test_grad(loss, names, feature_filter):
    """By what each loss moves: q, A and the sum of G are constants."""
    given = tiny()

    def function(*values: Tensor) -> Tensor:
        inputs = given._replace(**dict(zip(names, values, strict=True)))
        return feature_align_loss(*inputs, feature_filter=feature_filter)[loss]

    inputs = tuple(getattr(given, name) for name in names)
    assert torch.autograd.gradcheck(function, inputs)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(function(*inputs), inputs))


def test_without_gradient():
    given = scene(26)
    with torch.no_grad():
        losses = feature_align_loss(*given)
    assert losses == feature_align_loss(*given)
    assert not any(loss.requires_grad for loss in losses.values())


def test_inputs_are_left_alone():
    given = scene(27)
    tensors = [t for t in given if isinstance(t, Tensor)] + given.boxes + given.classes
    before = [t.detach().clone() for t in tensors]
    gradients(sum(feature_align_loss(*given).values()), given)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


# -- the normalisers -----------------------------------------------------------------------------


def test_counts_are_averaged():
    """average sees (N_gt, N_G) without gradient; its answer divides, but never by less than 1."""
    given = scene(28)
    seen = []

    def average(counts: Tensor) -> Tensor:
        seen.append(counts)
        return 4 * counts

    plain, quarter = feature_align_loss(*given), feature_align_loss(*given, average=average)
    (counts,) = seen
    assert counts.shape == (2,) and not counts.requires_grad
    assert counts[0] == 5 and counts[1] > 1
    for name, factor in zip(NAMES, (4, 4, 1), strict=True):
        assert plain[name].item() == pytest.approx(factor * quarter[name].item()), name
    few = feature_align_loss(*given, average=lambda counts: counts * 0)
    assert few["loss_pos"].item() == pytest.approx(5 * plain["loss_pos"].item())
    assert few["loss_neg"].item() == pytest.approx(counts[1].item() * plain["loss_neg"].item())


def test_loss_quality_is_a_mean_over_images():
    """Of each image alone; one without boxes counts as 0."""
    given = scene(29, (3, 0, 2))
    alone = []
    for n in range(3):
        one = given._replace(
            **{k: getattr(given, k)[n : n + 1] for k in ("cls_logits", "obj_logits", "ltrb")},
            boxes=given.boxes[n : n + 1],
            classes=given.classes[n : n + 1],
        )
        alone.append(feature_align_loss(*one)["loss_quality"].item())
    assert alone[1] == 0 and alone[0] > 0 and alone[2] > 0
    loss = feature_align_loss(*given)["loss_quality"].item()
    assert loss == pytest.approx(sum(alone) / 3)


def test_permuting_boxes():
    """Three boxes of three classes."""
    given = scene(30, (3, 3))
    given = given._replace(classes=[torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])])
    order = torch.tensor([2, 0, 1])
    moved = given._replace(
        boxes=[b[order] for b in given.boxes], classes=[c[order] for c in given.classes]
    )
    assert_same(feature_align_loss(*moved), feature_align_loss(*given), given, given)


# -- boxes: none, without locations, without area, many ------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("images", [1, 2])
def test_no_boxes(images, dtype):
    """All is background; every input still has a gradient."""
    given = scene(31, (0,) * images).to(dtype)
    losses = feature_align_loss(*given)
    assert_finite(losses, given)
    assert losses["loss_pos"] == losses["loss_quality"] == 0 < losses["loss_neg"]
    assert all(loss.dtype == dtype for loss in losses.values())
    sum(losses.values()).backward()
    assert given.mu.grad is not None and given.sigma.grad is not None
    double_scene = given.to(torch.float64)
    expected = feature_align_loss_loop(*double_scene)["loss_neg"].item()
    assert losses["loss_neg"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("counts", [(0, 3), (3, 0), (0, 2, 0)])
def test_half_empty_batch(counts):
    given = scene(32, counts)
    losses = feature_align_loss(*given)
    assert_same(losses, feature_align_loss_loop(*given), given, given)
    single = given.to(torch.float32)
    assert_finite(feature_align_loss(*single), single)


OUTSIDE = {
    "between locations": [5.0, 5, 7.5, 11],
    "right of one": [4, 2, 7.5, 6],
    "left of one": [1, 2, 4, 6],
    "below one": [2, 4, 6, 7.5],
    "above one": [2, 1, 6, 4],
    "beyond all": [500, 500, 600, 600],
    "no width": [20, 5, 20, 25],
    "no height": [5, 20, 40, 20],
    "point": [20, 20, 20, 20],
    "inside out": [40, 25, 5, 5],
}


@pytest.mark.parametrize("where", [0, 2])
@pytest.mark.parametrize("box", OUTSIDE.values(), ids=OUTSIDE)
def test_box_without_location(box, where):
    """It costs .25 * 100 / N_gt, and counts among the boxes; no gradient comes from it.

    The second of two images has no boxes: loss_quality is that of the first, and 3 boxes are half
    as many again as 2.
    """
    given = scene(33, (2, 0))
    boxes, classes = given.boxes[0], given.classes[0]
    extra, label = double(*box).view(1, 4), torch.tensor([1])
    more = given._replace(
        boxes=[torch.cat([boxes[:where], extra, boxes[where:]]), given.boxes[1]],
        classes=[torch.cat([classes[:where], label, classes[where:]]), given.classes[1]],
    )
    actual, plain = feature_align_loss(*more), feature_align_loss(*given)
    expected = {
        "loss_pos": (2 * plain["loss_pos"] + 25) / 3,
        "loss_neg": plain["loss_neg"],
        "loss_quality": 1.5 * plain["loss_quality"],
    }
    assert_same(actual, expected, given, given)


@pytest.mark.parametrize("box", OUTSIDE.values(), ids=OUTSIDE)
def test_only_a_box_without_location(box):
    """loss_pos is 25; there is no prior to spread, so loss_quality is 0. Neither moves anything."""
    given = scene(34, (0,)).to(torch.float32)
    given = given._replace(boxes=[torch.tensor([box])], classes=[torch.tensor([1])])
    losses = feature_align_loss(*given)
    assert_finite(losses, given)
    assert losses["loss_pos"].item() == pytest.approx(25)
    assert losses["loss_quality"] == 0
    for name in ("loss_pos", "loss_quality"):
        assert all(g.abs().sum() == 0 for g in gradients(losses[name], given).values())


def test_one_location_inside():
    """Its weight is 1, its q is 1: loss_pos = -log(x) / 4, loss_quality = .75 / (sqrt(G) + 1e-6).

    Location 0 at (4, 4): d = (.125, -.125) strides from the centre (3, 5), mu 0, sigma 1.
    A is 1 there, too: the class of the box has no negative.
    """
    given = scene(35, (0,), num_classes=1)
    box = double(0, 0, 6, 10)
    ltrb = torch.ones_like(given.ltrb)
    ltrb[0, 0] = double(4, 4, 2, 6)
    logits = torch.full_like(given.cls_logits, -60.0)
    logits[0, 0], obj = math.log(3), torch.full_like(given.obj_logits, 60.0)
    mu, sigma = torch.zeros_like(given.mu), torch.ones_like(given.sigma)
    given = leaves_of(
        given._replace(
            boxes=[box.view(1, 4)],
            classes=[torch.tensor([0])],
            ltrb=ltrb,
            cls_logits=logits,
            obj_logits=obj,
            mu=mu,
            sigma=sigma,
        )
    )
    losses = feature_align_loss(*given)
    # Pc = 3/4, Pb = 1: x = .75 * (1 - 1 / 32).
    expected = -0.25 * math.log(0.75 * 31 / 32)
    assert losses["loss_pos"].item() == pytest.approx(expected)
    root = math.exp(-0.5 * 0.125**2)
    assert losses["loss_quality"].item() == pytest.approx(0.75 / (root + 1e-6))
    assert losses["loss_neg"].item() == pytest.approx(0, abs=1e-12)
    assert_finite(losses, given)


def test_a_thousand_boxes():
    given = scene(36, (1000, 3)).to(torch.float32)
    losses = feature_align_loss(*given)
    assert_finite(losses, given)
    assert losses["loss_pos"] > 0 and losses["loss_quality"] > 0


def test_no_locations():
    given = scene(37, (2,)).to(torch.float32)
    nothing = leaves_of(
        given._replace(
            **{k: getattr(given, k)[:, :0] for k in ("cls_logits", "obj_logits", "ltrb")},
            points=torch.zeros(0, 2),
            strides=torch.zeros(0),
            level_sizes=[0, 0, 0],
        )
    )
    losses = feature_align_loss(*nothing)
    assert_finite(losses, nothing)
    assert losses["loss_pos"].item() == 25 and losses["loss_neg"] == 0


# -- numbers at the edge -------------------------------------------------------------------------


@pytest.mark.parametrize("autocast", [False, True], ids=["", "autocast"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("obj", [50.0, -50.0])
@pytest.mark.parametrize("cls", [50.0, -50.0])
def test_extreme_logits(cls, obj, dtype, autocast):
    given = scene(38)
    given = given._replace(
        cls_logits=torch.full_like(given.cls_logits, cls),
        obj_logits=torch.full_like(given.obj_logits, obj),
    ).to(torch.float32, dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        losses = feature_align_loss(*given)
        assert all(loss.dtype == torch.float32 for loss in losses.values())
        assert_finite(losses, given)


@pytest.mark.parametrize("ltrb", [0.0, 1e-4, 1e4])
def test_extreme_boxes(ltrb):
    """Boxes without an area, or a hundred times as large as the image."""
    given = scene(39)
    given = given._replace(ltrb=torch.full_like(given.ltrb, ltrb)).to(torch.float32)
    assert_finite(feature_align_loss(*given), given)


@pytest.mark.parametrize("sigma", [0.0, 1e-3, -1.0, 1e3])
@pytest.mark.parametrize("mu", [0.0, 100.0])
def test_extreme_distributions(mu, sigma):
    """A sigma that has been trained to nothing, or a mean out of reach; sigma has no sign."""
    given = scene(40).to(torch.float32)
    given = leaves_of(
        given._replace(mu=torch.full_like(given.mu, mu), sigma=torch.full_like(given.sigma, sigma))
    )
    losses = feature_align_loss(*given)
    assert_finite(losses, given)
    if sigma == -1.0:
        assert losses == feature_align_loss(*given._replace(sigma=-given.sigma))


def test_hopeless_score_has_a_gradient():
    """No ceiling of 100: the lower, the dearer; and the gradient leads up."""
    given = scene(41, (1,)).to(torch.float32)
    costs = []
    for logit in (-50.0, -100.0, -200.0):
        logits = torch.full_like(given.cls_logits, logit)
        hopeless = leaves_of(given._replace(cls_logits=logits))
        loss = feature_align_loss(*hopeless)["loss_pos"]
        slope = gradients(loss, hopeless)["cls_logits"].sum().item()
        assert slope == pytest.approx(-0.25, rel=1e-3)
        costs.append(loss.item())
    assert costs[1] - costs[0] == pytest.approx(0.25 * 50, rel=1e-3)
    assert costs[2] - costs[1] == pytest.approx(0.25 * 100, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype):
    given = scene(42).to(torch.float32, dtype)
    single = given._replace(**{k: v.float() for k, v in given.leaves.items()})
    assert feature_align_loss(*given) == feature_align_loss(*single)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert feature_align_loss(*given) == feature_align_loss(*single)


# -- parts of a batch ----------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1, 7, 40])
@pytest.mark.parametrize("counts", [(3, 2), (0, 2, 0, 4), (0, 0)])
def test_chunks_change_nothing(counts, bound, monkeypatch):
    """Losses and gradients; no part has more pairs than allowed, but for a single box."""
    given = scene(43, counts)
    expected = feature_align_loss(*given)
    seen, box_sums = [], module.box_sums

    def watch(pairs, *args):
        seen.append((len(pairs.box), len(pairs.boxes)))
        return box_sums(pairs, *args)

    monkeypatch.setattr(module, "box_sums", watch)
    actual = feature_align_loss(*given, pairs_at_once=bound)
    assert sum(boxes for _, boxes in seen) == sum(counts)
    assert all(pairs <= bound or boxes == 1 for pairs, boxes in seen)
    assert_same(actual, expected, given, given)


def test_chunks_with_a_box_without_location():
    given = scene(44, (4,))
    given.boxes[0][1] = double(20, 20, 20, 20)
    expected = feature_align_loss(*given)
    actual = feature_align_loss(*given, pairs_at_once=3)
    assert_same(actual, expected, given, given)


# -- wrong shapes --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level_sizes": [24, 6]}, r"need mu \(2, 3, 2\), got \(3, 3, 2\)"),
        ({"level_sizes": [24, 6, 3]}, r"\[24, 6, 3\] must sum to the 32 points"),
        ({"level_sizes": [24, 8]}, r"need mu \(2, 3, 2\), got \(3, 3, 2\)"),
        ({"mu": torch.zeros(2, 3, 2)}, r"need mu \(3, 3, 2\), got \(2, 3, 2\)"),
        ({"mu": torch.zeros(3, 4, 2)}, r"need mu \(3, 3, 2\), got \(3, 4, 2\)"),
        ({"sigma": torch.zeros(2, 3, 2)}, r"need sigma \(3, 3, 2\), got \(2, 3, 2\)"),
        ({"sigma": torch.zeros(3, 2)}, r"need sigma \(3, 3, 2\), got \(3, 2\)"),
        ({"points": torch.zeros(31, 2)}, r"need points \(32, 2\), got \(31, 2\)"),
        ({"points": torch.zeros(32, 3)}, r"need points \(32, 2\), got \(32, 3\)"),
        ({"strides": torch.zeros(31)}, r"need strides \(32,\), got \(31,\)"),
        ({"obj_logits": torch.zeros(2, 32, 3)}, r"need obj_logits \(2, 32, 1\), got \(2, 32, 3\)"),
        ({"ltrb": torch.zeros(2, 31, 4)}, r"need ltrb \(2, 32, 4\), got \(2, 31, 4\)"),
        ({"cls_logits": torch.zeros(32, 3)}, r"\(N, R, K\) of N > 0 images, got \(32, 3\)"),
        ({"cls_logits": torch.zeros(0, 32, 3)}, r"N > 0 images, got \(0, 32, 3\)"),
        ({"boxes": [torch.zeros(3, 4)]}, "2 images need .*; got 1 and 2"),
        ({"classes": [torch.zeros(3).long()] * 3}, "2 images need .*; got 2 and 3"),
        ({"boxes": [torch.zeros(3, 4)] * 2}, r"2 classes .*\(2, 4\); got \(3, 4\)"),
        ({"boxes": [torch.zeros(3, 5), torch.zeros(2, 4)]}, r"\(3, 4\); got \(3, 5\)"),
        ({"classes": [torch.zeros(3), torch.zeros(2)]}, "int64; got torch.float32"),
    ],
)
def test_wrong_shapes(change, message):
    with pytest.raises(ValueError, match=message):
        feature_align_loss(*scene(45)._replace(**change))
