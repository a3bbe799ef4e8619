"""Element-wise losses against their formulas in plain Python numbers."""

import math

import pytest
import torch

from cvpods.modeling.losses import (
    iou_loss,
    sigmoid_focal_loss,
    sigmoid_focal_loss_jit,
    smooth_l1_loss,
)

TYPES = ["iou", "linear_iou", "giou"]


def random_pairs(count=20, seed=0, dtype=torch.float32):
    """Boxes (N, 4) that overlap their partners at least a little."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(2):
        low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 10
        size = 12 + torch.rand(count, 2, generator=generator, dtype=torch.float64) * 20
        pairs.append(torch.cat([low, low + size], 1).to(dtype))
    return pairs


def random_distances(count=20, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(count, 4, generator=generator, dtype=torch.float64) * 20 + 1).to(dtype)
        for _ in range(2)
    ]


def as_corners(distances, point=(100.0, 200.0)):
    x, y = point
    left, top, right, bottom = distances.unbind(-1)
    return torch.stack([x - left, y - top, x + right, y + bottom], -1)


def iou_loss_of(a, b, loss_type):
    """One pair, as the papers write it."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - width * height
    iou = width * height / union
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return {
        "iou": -math.log(iou) if iou else math.inf,
        "linear_iou": 1 - iou,
        "giou": 1 - (iou - (hull - union) / hull),
    }[loss_type]


# -- IoU losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss_type", "expected"), [("iou", math.log(7)), ("linear_iou", 6 / 7), ("giou", 68 / 63)]
)
def test_iou_loss_by_hand(loss_type, expected):
    """(0, 0, 2, 2) and (1, 1, 3, 3): intersection 1, union 7, hull 9.

    IoU 1/7; GIoU 1/7 - (9 - 7) / 9 = -5/63, its loss 68/63.
    """
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
    assert iou_loss(a, b, loss_type=loss_type).tolist() == pytest.approx([expected])


@pytest.mark.parametrize("loss_type", TYPES)
def test_iou_loss_matches_the_formula(loss_type):
    a, b = random_pairs()
    expected = [iou_loss_of(x, y, loss_type) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert iou_loss(a, b, loss_type=loss_type).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss_type", TYPES)
def test_equal_boxes_have_no_loss(loss_type):
    a, _ = random_pairs()
    assert torch.allclose(iou_loss(a, a, loss_type=loss_type), torch.zeros(20), atol=1e-6)


def test_boxes_apart():
    """Unit boxes at both ends of a 3 x 1 hull: IoU 0, GIoU -1/3; -log is cut at float32's eps."""
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    eps = torch.finfo(torch.float32).eps
    assert iou_loss(a, b).item() == pytest.approx(-math.log(eps), rel=1e-5)
    assert iou_loss(a, b, loss_type="linear_iou").item() == 1
    assert iou_loss(a, b, loss_type="giou").item() == pytest.approx(4 / 3)


def test_smooth_adds_one():
    """Intersection 1 + 1 over union 7 + 1."""
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 1, 3, 3]])
    assert iou_loss(a, b, smooth=True).item() == pytest.approx(math.log(4))
    assert iou_loss(a, b, loss_type="linear_iou", smooth=True).item() == pytest.approx(0.75)


@pytest.mark.parametrize("loss_type", TYPES)
def test_ltrb_equals_xyxy(loss_type):
    a, b = random_distances()
    corners = iou_loss(as_corners(a), as_corners(b), loss_type=loss_type)
    distances = iou_loss(a, b, box_mode="ltrb", loss_type=loss_type)
    assert torch.allclose(distances, corners, rtol=1e-3, atol=1e-5)


def test_shapes_broadcast():
    a, b = random_pairs()
    assert iou_loss(a.view(4, 5, 4), b.view(4, 5, 4)).shape == (4, 5)
    table = iou_loss(a[:, None], b)
    assert table.shape == (20, 20) and torch.allclose(table.diag(), iou_loss(a, b))


@pytest.mark.parametrize("loss_type", TYPES)
def test_weights_and_reductions(loss_type):
    a, b = random_pairs(3)
    loss, weight = iou_loss(a, b, loss_type=loss_type), torch.tensor([1.0, 0.0, 3.0])
    one, _, three = loss.tolist()

    def reduced(reduction, **kwargs):
        return iou_loss(a, b, loss_type=loss_type, reduction=reduction, **kwargs).tolist()

    assert reduced("none", weight=weight) == pytest.approx([one, 0, 3 * three])
    assert reduced("sum") == pytest.approx(sum(loss.tolist()))
    assert reduced("sum", weight=weight) == pytest.approx(one + 3 * three)
    assert reduced("mean") == pytest.approx(sum(loss.tolist()) / 3)
    assert reduced("mean", weight=weight) == pytest.approx((one + 3 * three) / 4)
    assert reduced("mean", weight=torch.zeros(3)) == 0


@pytest.mark.parametrize("loss_type", TYPES)
@pytest.mark.parametrize("box_mode", ["xyxy", "ltrb"])
def test_iou_loss_gradcheck(box_mode, loss_type):
    make = {"xyxy": random_pairs, "ltrb": random_distances}[box_mode]
    a, b = make(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: iou_loss(x, b, box_mode=box_mode, loss_type=loss_type), a.requires_grad_()
    )


@pytest.mark.parametrize("loss_type", TYPES)
@pytest.mark.parametrize(
    "boxes",
    [
        ([[0.0, 0, 0, 0]], [[0.0, 0, 0, 0]]),
        ([[0.0, 0, 0, 0]], [[0.0, 0, 5, 5]]),
        ([[5.0, 5, 1, 1]], [[0.0, 0, 5, 5]]),
        ([[0.0, 0, 1, 1]], [[9.0, 9, 10, 10]]),
        ([[-1e5, -1e5, 1e5, 1e5]], [[0.0, 0, 1, 1]]),
    ],
    ids=["both empty", "empty", "inverted", "apart", "huge"],
)
def test_degenerate_boxes_stay_finite(boxes, loss_type):
    a, b = (torch.tensor(box) for box in boxes)
    loss = iou_loss(a.requires_grad_(), b, loss_type=loss_type)
    loss.sum().backward()
    assert loss.isfinite().all() and a.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"loss_type": "diou"}, "'diou'"),
        ({"box_mode": "xywh"}, "'xywh'"),
        ({"reduction": "max"}, "'max'"),
    ],
)
def test_iou_loss_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        iou_loss(*random_pairs(), **kwargs)


# -- focal loss ----------------------------------------------------------------------------------


def focal_of(logit, target, alpha, gamma):
    """Eq. 5: -alpha_t (1 - p_t)^gamma log(p_t)."""
    p = 1 / (1 + math.exp(-logit))
    p_t = p if target else 1 - p
    alpha_t = 1.0 if alpha < 0 else (alpha if target else 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * math.log(p_t)


@pytest.mark.parametrize("alpha", [0.25, 1.0, 0.0, -1, -2.0])
@pytest.mark.parametrize("gamma", [2.0, 0.0, 1.5])
def test_focal_loss_matches_the_formula(gamma, alpha):
    logits = torch.linspace(-6, 6, 13).repeat(2)
    targets = torch.arange(26) >= 13
    expected = [
        focal_of(x, t, alpha, gamma) for x, t in zip(logits.tolist(), targets.tolist(), strict=True)
    ]
    for kind in (targets, targets.float(), targets.long()):
        loss = sigmoid_focal_loss_jit(logits, kind, alpha, gamma)
        assert loss.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-7)


def test_focal_loss_by_hand():
    """Logit 0 is p = 1/2: 0.25 * (1/2)^2 * log 2 for an object, 0.75 * ... for background."""
    loss = sigmoid_focal_loss_jit(torch.zeros(2), torch.tensor([1.0, 0.0]), 0.25, 2.0)
    assert loss.tolist() == pytest.approx([math.log(2) / 16, 3 * math.log(2) / 16])


def test_focal_loss_defaults_and_reductions():
    logits, targets = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    loss = sigmoid_focal_loss_jit(logits, targets)
    assert loss.tolist() == pytest.approx([focal_of(0, 1, -1, 2), focal_of(1, 0, -1, 2)])
    total = sum(loss.tolist())
    assert sigmoid_focal_loss(logits, targets, reduction="sum").item() == pytest.approx(total)
    assert sigmoid_focal_loss(logits, targets, reduction="mean").item() == pytest.approx(total / 2)
    with pytest.raises(ValueError, match="max"):
        sigmoid_focal_loss(logits, targets, reduction="max")


@pytest.mark.parametrize("logit", [50.0, -50.0, 16.7, 6.4, 200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_focal_loss_of_extreme_logits_is_finite(dtype, logit):
    """A certain mistake costs |logit|; a certain hit nothing."""
    logits = torch.tensor([logit, logit], dtype=dtype, requires_grad=True)
    loss = sigmoid_focal_loss_jit(logits, torch.tensor([1.0, 0.0]), 0.25, 2.0)
    loss.sum().backward()
    assert loss.dtype == torch.float32 and loss.isfinite().all() and logits.grad.isfinite().all()
    if abs(logit) >= 50:
        mistake, weight = (1, 0.75) if logit > 0 else (0, 0.25)
        assert loss[mistake].item() == pytest.approx(weight * abs(logit))
        assert loss[1 - mistake].item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("alpha", [0.25, -1])
def test_focal_loss_gradcheck(alpha):
    logits = torch.linspace(-4, 4, 10, dtype=torch.float64, requires_grad=True)
    targets = (torch.arange(10) % 2).double()
    assert torch.autograd.gradcheck(
        lambda x: sigmoid_focal_loss_jit(x, targets, alpha, 2.0), logits
    )


# -- smooth L1 -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (1.0, [0.0, 0.125, 0.5, 1.5]),
        (0.5, [0.0, 0.25, 0.75, 1.75]),
        (0.0, [0.0, 0.5, 1.0, 2.0]),
        (9e-6, [0.0, 0.5, 1.0, 2.0]),
    ],
)
def test_smooth_l1_by_hand(beta, expected):
    """Errors 0, -0.5, 1, 2. beta 1: e^2 / 2 below 1, then |e| - 1/2; beta 0.5: e^2, |e| - 1/4."""
    error = torch.tensor([0.0, -0.5, 1.0, 2.0])
    target = torch.full((4,), 3.0)
    loss = smooth_l1_loss(target + error, target, beta)
    assert loss.tolist() == pytest.approx(expected)
    assert smooth_l1_loss(target + error, target, beta, "sum").item() == pytest.approx(
        sum(expected)
    )
    mean = smooth_l1_loss(target + error, target, beta, reduction="mean").item()
    assert mean == pytest.approx(sum(expected) / 4)


def test_smooth_l1_size_average_divides_by_the_length():
    """Two rows of two: errors 1 each, L1, sum 4, over 2 rows."""
    ones, zeros = torch.ones(2, 2), torch.zeros(2, 2)
    assert smooth_l1_loss(ones, zeros, 0.0, "sum", size_average=True).item() == 2


@pytest.mark.parametrize("beta", [1.0, 0.1])
def test_smooth_l1_gradcheck(beta):
    errors = torch.tensor([-2.0, -0.4, 0.03, 0.7, 3.0], dtype=torch.float64, requires_grad=True)
    target = torch.zeros(5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: smooth_l1_loss(x, target, beta), errors)


# -- nothing to learn from -----------------------------------------------------------------------

EMPTY = {
    "iou": lambda x, r: iou_loss(x, torch.zeros(0, 4), reduction=r),
    "weighted giou": lambda x, r: iou_loss(
        x, torch.zeros(0, 4), torch.zeros(0), loss_type="giou", reduction=r
    ),
    "focal": lambda x, r: sigmoid_focal_loss_jit(x, torch.zeros(0, 4), 0.25, 2.0, r),
    "smooth l1": lambda x, r: smooth_l1_loss(x, torch.zeros(0, 4), 0.1, r),
    "l1": lambda x, r: smooth_l1_loss(x, torch.zeros(0, 4), 0.0, r),
}


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("name", list(EMPTY))
def test_empty_input_has_loss_zero_and_a_gradient(name, reduction):
    x = torch.zeros(0, 4, requires_grad=True)
    loss = EMPTY[name](x, reduction)
    loss.backward()
    assert loss.item() == 0 and x.grad.shape == (0, 4)


@pytest.mark.parametrize("name", list(EMPTY))
def test_empty_input_without_reduction(name):
    assert EMPTY[name](torch.zeros(0, 4), "none").numel() == 0
