"""Boxes, BoxMode and the functions on pairs of boxes."""

import numpy as np
import pytest
import torch

from cvpods.structures import Boxes, BoxMode, matched_boxlist_iou, pairwise_ioa, pairwise_iou
from cvpods.structures.boxes import (
    box_cxcywh_to_xyxy,
    box_xyxy_to_cxcywh,
    generalized_box_iou,
    masks_to_boxes,
)

XYXY, XYWH = BoxMode.XYXY_ABS, BoxMode.XYWH_ABS


# -- BoxMode -------------------------------------------------------------------------------------


def test_box_mode_numbers():
    assert [int(mode) for mode in BoxMode] == [0, 1, 2, 3, 4]
    assert BoxMode(4) is BoxMode.XYWHA_ABS


@pytest.mark.parametrize(
    ("from_mode", "to_mode", "expected"),
    [(XYXY, XYWH, (1, 2, 4, 6)), (XYWH, XYXY, (1, 2, 6, 10)), (XYXY, XYXY, (1, 2, 5, 8))],
)
@pytest.mark.parametrize("kind", [list, tuple])
def test_convert_one_box(kind, from_mode, to_mode, expected):
    """(1, 2, 5, 8): as corners, 4 wide and 6 high; as corner and size, it ends at (6, 10)."""
    converted = BoxMode.convert(kind((1, 2, 5, 8)), from_mode, to_mode)
    assert type(converted) is kind and converted == kind(expected)


@pytest.mark.parametrize(("from_mode", "to_mode"), [(XYXY, XYWH), (XYWH, XYXY), (0, 1)])
@pytest.mark.parametrize("kind", [np.array, torch.tensor], ids=["ndarray", "tensor"])
def test_convert_many_boxes(kind, from_mode, to_mode):
    boxes = kind([[1.0, 2.0, 5.0, 8.0], [0.0, 0.0, 3.0, 4.0]])
    converted = BoxMode.convert(boxes, from_mode, to_mode)
    expected = [[1, 2, 4, 6], [0, 0, 3, 4]] if from_mode == XYXY else [[1, 2, 6, 10], [0, 0, 3, 4]]
    assert type(converted) is type(boxes) and converted.dtype == boxes.dtype
    assert converted.tolist() == expected
    assert boxes.tolist() == [[1, 2, 5, 8], [0, 0, 3, 4]]
    assert BoxMode.convert(converted, to_mode, from_mode).tolist() == boxes.tolist()


@pytest.mark.parametrize("kind", [np.zeros, torch.zeros])
def test_convert_no_boxes(kind):
    assert BoxMode.convert(kind((0, 4)), XYXY, XYWH).shape == (0, 4)


@pytest.mark.parametrize("mode", [BoxMode.XYXY_REL, BoxMode.XYWH_REL, BoxMode.XYWHA_ABS])
def test_convert_of_other_modes(mode):
    with pytest.raises(NotImplementedError, match=mode.name):
        BoxMode.convert([1, 2, 3, 4], mode, XYXY)


def test_convert_needs_four_numbers():
    with pytest.raises(ValueError, match="4 numbers; got 3"):
        BoxMode.convert([1, 2, 3], XYXY, XYWH)


# -- Boxes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        [[1, 2, 3, 4]],
        torch.tensor([[1, 2, 3, 4]]),
        torch.tensor([[1, 2, 3, 4]], dtype=torch.float64),
        torch.tensor([[1, 2, 3, 4]], dtype=torch.bfloat16),
        np.array([[1, 2, 3, 4]]),
    ],
)
def test_boxes_are_float32(data):
    boxes = Boxes(data)
    assert boxes.tensor.dtype == torch.float32 and boxes.tensor.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize("data", [[], torch.zeros(0), torch.zeros(0, 4), np.zeros((0, 4))])
def test_empty_boxes(data):
    boxes = Boxes(data)
    assert boxes.tensor.shape == (0, 4) and len(boxes) == 0
    assert boxes.area().shape == boxes.nonempty().shape == boxes.inside_box((5, 5)).shape == (0,)
    assert boxes.get_centers().shape == (0, 2)
    assert boxes.nonempty().dtype == boxes.inside_box((5, 5)).dtype == torch.bool
    boxes.clip((5, 5))
    boxes.scale(2, 2)
    assert list(boxes) == [] and len(Boxes.cat([boxes, boxes])) == 0
    assert len(boxes[boxes.nonempty()]) == 0


@pytest.mark.parametrize("shape", [(4,), (2, 5), (1, 1, 4)])
def test_boxes_of_wrong_shape(shape):
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        Boxes(torch.zeros(shape))


def some_boxes():
    return Boxes([[0, 0, 2, 3], [1, 1, 5, 2], [4, 4, 4, 8]])


def test_area_and_centers():
    """2 x 3 = 6; 4 x 1 = 4; 0 x 4 = 0."""
    assert some_boxes().area().tolist() == [6, 4, 0]
    assert some_boxes().get_centers().tolist() == [[1, 1.5], [3, 1.5], [4, 6]]


def test_clone_and_to_are_boxes():
    boxes = some_boxes()
    clone = boxes.clone()
    clone.tensor[0] = 9
    assert boxes.tensor[0].tolist() == [0, 0, 2, 3]
    moved = boxes.to("cpu")
    assert isinstance(moved, Boxes) and moved.device == boxes.device == torch.device("cpu")


def test_clip_is_in_place():
    """Into height 4, width 6: x in [0, 6], y in [0, 4]."""
    boxes = Boxes([[-1, -2, 3, 9], [5, 1, 9, 2], [7, 5, 8, 6]])
    assert boxes.clip((4, 6)) is None
    assert boxes.tensor.tolist() == [[0, 0, 3, 4], [5, 1, 6, 2], [6, 4, 6, 4]]


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_clip_refuses_what_is_not_finite(bad):
    with pytest.raises(AssertionError, match="infinite or NaN"):
        Boxes([[0, 0, bad, 1]]).clip((4, 4))


def test_nonempty():
    """Sides 2 x 3, 4 x 1 and 0 x 4; the threshold itself is too small."""
    assert some_boxes().nonempty().tolist() == [True, True, False]
    assert some_boxes().nonempty(threshold=1).tolist() == [True, False, False]
    assert Boxes([[3, 3, 1, 1]]).nonempty().tolist() == [False]


def test_inside_box():
    boxes = Boxes([[0, 0, 4, 3], [-1, 0, 2, 2], [0, 0, 6, 2], [0, 0, 2, 4]])
    assert boxes.inside_box((4, 6)).tolist() == [True, False, False, False]
    assert boxes.inside_box((4, 6), boundary_threshold=1).tolist() == [True] * 4


def test_scale_is_in_place():
    boxes = some_boxes()
    assert boxes.scale(2, 10) is None
    assert boxes.tensor[1].tolist() == [2, 10, 10, 20]


def test_cat():
    joined = Boxes.cat([some_boxes(), Boxes([]), Boxes([[9, 9, 9, 9]])])
    assert len(joined) == 4 and joined.tensor[3].tolist() == [9] * 4
    assert Boxes.cat([]).tensor.shape == (0, 4)


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (0, [0]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([2, 0, 0]), [2, 0, 0]),
        (torch.tensor([], dtype=torch.int64), []),
    ],
)
def test_indexing_gives_boxes(index, rows):
    picked = some_boxes()[index]
    assert isinstance(picked, Boxes)
    assert torch.equal(picked.tensor, some_boxes().tensor[rows])


def test_index_out_of_range():
    with pytest.raises(IndexError):
        some_boxes()[3]


def test_iteration_gives_rows():
    rows = list(some_boxes())
    assert len(rows) == 3 and rows[1].tolist() == [1, 1, 5, 2]


def test_repr_shows_the_numbers():
    assert repr(Boxes([[1, 2, 3, 4]])) == "Boxes(tensor([[1., 2., 3., 4.]]))"


# -- pairs ---------------------------------------------------------------------------------------

FIRST = [[0, 0, 2, 2], [1, 1, 3, 3]]
SECOND = [[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6]]


def test_pairwise_iou_hand_case():
    """All boxes but the last have area 4.

    First box (0, 0, 2, 2) with
        (0, 0, 2, 2): the same                                          1
        (1, 0, 3, 2): intersection 1 x 2 = 2, union 4 + 4 - 2 = 6       1/3
        (5, 5, 6, 6): apart                                             0
    Second box (1, 1, 3, 3) with
        (0, 0, 2, 2): intersection 1 x 1 = 1, union 4 + 4 - 1 = 7       1/7
        (1, 0, 3, 2): intersection 2 x 1 = 2, union 6                   1/3
        (5, 5, 6, 6): apart                                             0
    """
    iou = pairwise_iou(Boxes(FIRST), Boxes(SECOND))
    assert torch.allclose(iou, torch.tensor([[1, 1 / 3, 0], [1 / 7, 1 / 3, 0]]))


def test_touching_boxes_do_not_overlap():
    assert pairwise_iou(Boxes([[0, 0, 1, 1]]), Boxes([[1, 0, 2, 1]])).item() == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([[1, 1, 1, 1]], [[1, 1, 1, 1]]),
        ([[1, 1, 1, 5]], [[1, 1, 1, 5]]),
        ([[1, 1, 1, 5]], [[0, 0, 9, 9]]),
    ],
)
def test_zero_area_gives_zero(first, second):
    assert pairwise_iou(Boxes(first), Boxes(second)).tolist() == [[0]]
    assert matched_boxlist_iou(Boxes(first), Boxes(second)).tolist() == [0]


@pytest.mark.parametrize(("n", "m"), [(0, 3), (2, 0), (0, 0), (2, 3)])
def test_pairwise_shapes(n, m):
    first, second = Boxes(FIRST[:n]), Boxes(SECOND[:m])
    assert pairwise_iou(first, second).shape == (n, m)
    assert pairwise_ioa(first, second).shape == (n, m)


def test_pairwise_ioa_hand_case():
    """(0, 0, 2, 2) covers half of (1, 0, 3, 2) and all of (0, 0, 1, 1)."""
    gt, boxes = Boxes([[0, 0, 2, 2], [0, 0, 4, 4]]), Boxes([[1, 0, 3, 2], [0, 0, 1, 1]])
    assert pairwise_ioa(gt, boxes).tolist() == [[0.5, 1], [1, 1]]
    assert pairwise_ioa(gt, boxes, torch.tensor([-1, 3])).tolist() == [[0.5, 1], [0, 0]]
    assert pairwise_ioa(gt, boxes, torch.tensor([-1, 3]), 3).tolist() == [[0, 0], [1, 1]]


def test_pairwise_ioa_with_a_box_without_area():
    assert pairwise_ioa(Boxes([[0, 0, 2, 2]]), Boxes([[1, 1, 1, 1]])).tolist() == [[0]]


def test_matched_iou_is_the_diagonal():
    first, second = Boxes(FIRST), Boxes(SECOND[:2])
    assert torch.allclose(matched_boxlist_iou(first, second), pairwise_iou(first, second).diag())
    with pytest.raises(ValueError, match="2 and 3"):
        matched_boxlist_iou(first, Boxes(SECOND))


def test_center_and_size():
    corners = torch.tensor([[1.0, 2.0, 5.0, 8.0]])
    assert box_xyxy_to_cxcywh(corners).tolist() == [[3, 5, 4, 6]]
    assert torch.equal(box_cxcywh_to_xyxy(box_xyxy_to_cxcywh(corners)), corners)
    assert box_cxcywh_to_xyxy(torch.zeros(2, 0, 4)).shape == (2, 0, 4)


def test_generalized_iou_of_boxes_apart():
    """Unit boxes at both ends of a 3 x 1 hull: 0 - (3 - 2) / 3."""
    boxes = torch.tensor([[0.0, 0, 1, 1], [2, 0, 3, 1]])
    assert generalized_box_iou(boxes[:1], boxes[1:]).item() == pytest.approx(-1 / 3)


def test_masks_to_boxes():
    mask = torch.zeros(1, 5, 6)
    mask[0, 1:3, 2:5] = 1
    assert masks_to_boxes(mask).tolist() == [[2, 1, 4, 2]]
