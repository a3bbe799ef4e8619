"""Pairs of a box and a location inside it: by hand, against a slow loop, in chunks, at the edge."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cvpods_ext.kernels import pairs as module
from cvpods_ext.kernels.pairs import Pairs, chunks, in_chunks, inside_pairs, join
from tests.reference.boxes import is_inside

GT = torch.tensor([[0.0, 0, 10, 10]])
ROW = torch.tensor([[2.0, 5], [4, 5], [6, 5], [8, 5]])
NO_AREA = [[5, 2, 5, 8], [2, 5, 8, 5], [5, 5, 5, 5], [8, 2, 2, 8], [8, 8, 2, 2]]
NO_AREA_IDS = ["no width", "no height", "point", "left of itself", "inside out"]


def list_pairs(points: Tensor, boxes: Tensor, elements: int | None = None) -> Pairs:
    """Pairs of boxes of class 0."""
    return inside_pairs(points, boxes, torch.zeros(len(boxes), dtype=torch.int64), elements)


def of_sizes(*sizes: int) -> Pairs:
    """Pairs of boxes with so many locations, numbered from 100 on; all of one image."""
    count = len(sizes)
    return Pairs(
        torch.arange(count).repeat_interleave(torch.tensor(sizes, dtype=torch.int64)),
        torch.arange(sum(sizes)) + 100,
        torch.arange(4.0 * count).view(count, 4),
        torch.arange(count),
        torch.zeros(count, dtype=torch.int64),
        1,
        120,
    )


def as_set(pairs: Pairs) -> set[tuple[int, int]]:
    listed = list(zip(pairs.box.tolist(), pairs.location.tolist(), strict=True))
    assert len(set(listed)) == len(listed)
    return set(listed)


def grid_and_boxes(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """63 locations on a grid of whole numbers, boxes of quarters."""
    random = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(7.0), torch.arange(9.0), indexing="ij")
    low = torch.randint(0, 120, (count, 2), generator=random) / 4
    size = torch.randint(1, 160, (count, 2), generator=random) / 4
    points = torch.stack([x, y], dim=-1).view(-1, 2).double() * 8
    return points, torch.cat([low, low + size], dim=1).double()


# -- pairs ---------------------------------------------------------------------------------------


def test_pairs_by_hand():
    """Box after box, locations in order; the second box contains nothing."""
    boxes = torch.tensor([[3.0, 0, 7, 10], [0, 0, 1, 1], [5, 4, 20, 6]])
    pairs = list_pairs(ROW, boxes)
    assert pairs.box.tolist() == [0, 0, 2, 2] and pairs.location.tolist() == [1, 2, 2, 3]
    assert pairs.box.dtype == pairs.location.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_border_is_outside(dtype):
    """The four sides of (2, 3, 8, 7), a corner, and the nearest numbers on their inner side."""
    sides = [[2, 5], [8, 5], [5, 3], [5, 7], [2, 3], [8, 7]]
    points = torch.tensor(sides, dtype=dtype)
    box = torch.tensor([[2, 3, 8, 7]], dtype=dtype)
    assert as_set(list_pairs(points, box)) == set()
    inner = torch.nextafter(points, torch.tensor([5, 5], dtype=dtype))
    assert as_set(list_pairs(inner, box)) == {(0, j) for j in range(6)}


@pytest.mark.parametrize("box", NO_AREA, ids=NO_AREA_IDS)
def test_box_without_area_contains_nothing(box):
    points = torch.tensor([[5.0, 5], [5, 4], [4, 5], [2, 2]])
    assert as_set(list_pairs(points, torch.tensor([box], dtype=torch.float32))) == set()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)], ids=str)
def test_no_pairs(shape):
    boxes = GT.repeat(shape[0], 1)
    points = torch.ones(shape[1], 2)
    pairs = list_pairs(points, boxes)
    assert pairs.box.shape == pairs.location.shape == (0,)
    assert pairs.box.dtype == pairs.location.dtype == torch.int64


@pytest.mark.parametrize("bound", [None, 1, 63, 64, 200])
def test_pairs_match_the_loop_in_any_slices(bound):
    """63 locations: slices of one box, one, one and three."""
    for seed in range(3):
        points, boxes = grid_and_boxes(seed, count=8)
        expected = [
            (i, j)
            for i, box in enumerate(boxes.tolist())
            for j, point in enumerate(points.tolist())
            if is_inside(point, box)
        ]
        pairs = list_pairs(points, boxes, bound)
        assert list(zip(pairs.box.tolist(), pairs.location.tolist(), strict=True)) == expected


def test_join_numbers_boxes_through_and_names_images():
    """Two boxes, an image without boxes, and one box: boxes 0, 1 and 2 of images 0, 0 and 2."""
    boxes = torch.tensor([[3.0, 0, 7, 10], [5, 4, 20, 6]])
    images = [
        inside_pairs(ROW, boxes, torch.tensor([7, 8])),
        inside_pairs(ROW, boxes[:0], torch.zeros(0, dtype=torch.int64)),
        inside_pairs(ROW, GT, torch.tensor([9])),
    ]
    pairs = join(images)
    assert pairs.box.tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert pairs.location.tolist() == [1, 2, 2, 3, 0, 1, 2, 3]
    assert torch.equal(pairs.boxes, torch.cat([boxes, GT]))
    assert pairs.classes.tolist() == [7, 8, 9] and pairs.image.tolist() == [0, 0, 2]
    assert pairs.num_images == 3 and pairs.num_locations == 4


def test_values_of_pairs_by_hand():
    """The pairs of the test above, outputs (3 images, 4 locations, 2 classes) = 0, 1, 2, ..."""
    pairs = Pairs(
        torch.tensor([0, 0, 1]),
        torch.tensor([1, 2, 3]),
        torch.zeros(2, 4),
        torch.tensor([1, 0]),
        torch.tensor([0, 2]),
        3,
        4,
    )
    outputs = torch.arange(24.0).view(3, 4, 2)
    assert pairs.per_output(outputs).tolist() == [[2, 3], [4, 5], [22, 23]]
    assert pairs.per_class_output(outputs).tolist() == [3, 5, 22]
    assert pairs.per_box(torch.tensor([10, 20])).tolist() == [10, 10, 20]
    assert pairs.per_location(torch.arange(4) * 10).tolist() == [10, 20, 30]
    values = torch.tensor([1.0, 3.0, 5.0])
    assert pairs.sum(values).tolist() == [4, 5]
    assert pairs.logsumexp(values.log()).exp().tolist() == pytest.approx([4, 5])
    assert pairs.min_max(values).tolist() == pytest.approx([0, 1, 1])
    assert pairs.sum_per_image(values).tolist() == [4, 0, 5]


# -- chunks --------------------------------------------------------------------------------------


def test_chunks_by_hand():
    """Boxes of 0, 2, 2, 6, 0, 2, 1 and 1 pairs: as many as fit, boxes counted from the first.

    Four at once: the box of six is alone. One at once: every box is.
    """
    pairs = of_sizes(0, 2, 2, 6, 0, 2, 1, 1)
    for bound, expected in (
        (14, [(0, 8)]),
        (13, [(0, 7), (7, 8)]),
        (12, [(0, 6), (6, 8)]),
        (6, [(0, 3), (3, 5), (5, 8)]),
        (4, [(0, 3), (3, 4), (4, 8)]),
        (1, [(i, i + 1) for i in range(8)]),
    ):
        parts = list(chunks(pairs, bound))
        assert len(parts) == len(expected)
        for part, (first, stop) in zip(parts, expected, strict=True):
            own = (pairs.box >= first) & (pairs.box < stop)
            assert part.box.tolist() == (pairs.box[own] - first).tolist()
            assert part.location.tolist() == pairs.location[own].tolist()
            for name in ("boxes", "classes", "image"):
                assert torch.equal(getattr(part, name), getattr(pairs, name)[first:stop])
            assert part.num_images == pairs.num_images
            assert part.num_locations == pairs.num_locations


@pytest.mark.parametrize("bound", [1, 3])
def test_chunks_of_empty_boxes(bound):
    """First and last; without any pair, or any box, there is one chunk all the same."""
    parts = list(chunks(of_sizes(0, 0, 4, 0, 0), bound))
    assert [(len(part.boxes), len(part.box)) for part in parts] == [(2, 0), (1, 4), (2, 0)]
    for none in (of_sizes(), of_sizes(0, 0, 0, 0)):
        (part,) = chunks(none, bound)
        assert part is none


@pytest.mark.parametrize("bound", [1, 4, 6, 13, 14])
def test_results_and_gradients_add_up_over_chunks(bound):
    """A function of pairs and of a parameter; with several chunks each is computed twice."""
    pairs = of_sizes(0, 2, 2, 6, 0, 2, 1, 1)
    parameter = torch.arange(120.0, dtype=torch.float64).requires_grad_()
    sizes = []

    def sums(part: Pairs, parameter: Tensor, power: int) -> tuple[Tensor, Tensor]:
        sizes.append(len(part.box))
        values = part.per_location(parameter).sin() ** power
        return part.logsumexp(values).sum(), part.sum_per_image(values)

    expected = sums(pairs, parameter, 2)
    (slope,) = torch.autograd.grad(expected[0] + 3 * expected[1].sum(), parameter)
    sizes.clear()
    actual = in_chunks(sums, [pairs], parameter, 2, at_once=bound)
    torch.testing.assert_close(actual, expected)
    count = len(list(chunks(pairs, bound)))
    assert len(sizes) == count
    loss = actual[0] + 3 * actual[1].sum()
    torch.testing.assert_close(torch.autograd.grad(loss, parameter), (slope,))
    assert len(sizes) == (1 if count == 1 else 2 * count) and sum(sizes) in (14, 28)
    with torch.no_grad():
        torch.testing.assert_close(in_chunks(sums, [pairs], parameter, 2, at_once=bound), actual)


def test_in_chunks_joins_the_images():
    """Boxes of three images, two pairs at once: sums per image as without chunks."""
    images = [of_sizes(0, 2, 3), of_sizes(), of_sizes(1, 4)]
    values = torch.rand(120, dtype=torch.float64)

    def sums(part: Pairs, values: Tensor) -> tuple[Tensor]:
        return (part.sum_per_image(part.per_location(values)),)

    (actual,) = in_chunks(sums, images, values, at_once=2)
    expected = [values[100:105].sum(), torch.zeros(()).double(), values[100:105].sum()]
    torch.testing.assert_close(actual, torch.stack(expected))


def test_in_chunks_bounds_what_is_kept():
    """Between forward and backward, a chunk keeps its inputs: nothing of the pairs' size."""
    pairs = of_sizes(*[1000] * 8)
    parameter = torch.rand(9000, requires_grad=True)

    def sums(part: Pairs, parameter: Tensor) -> tuple[Tensor]:
        return (part.per_location(parameter).exp().sin().sum(),)

    for at_once, chunked in ((10**9, False), (1000, True)):
        saved = []

        def note(tensor: Tensor, saved: list = saved) -> Tensor:
            saved.append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            in_chunks(sums, [pairs], parameter, at_once=at_once)
        assert any(shape == (8000,) for shape in saved) is not chunked
        assert not chunked or not any(shape == (1000,) for shape in saved)


def test_default_chunk():
    assert module.PAIRS_AT_ONCE == 2**19
