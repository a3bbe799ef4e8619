"""Anchors and points on the grid of every level."""

import copy

import pytest
import torch

from cvpods.configs import FCOSConfig, RetinaNetConfig
from cvpods.layers import ShapeSpec
from cvpods.modeling.anchor_generator import (
    AnchorGrid,
    BufferList,
    DefaultAnchorGenerator,
    PointGrid,
    ShiftGenerator,
    grid_points,
    make_cell_anchors,
)
from cvpods.structures import Boxes
from cvpods.utils.errors import ConfigError

STRIDES = [8, 16, 32, 64, 128]
SHAPES = [ShapeSpec(channels=4, stride=stride) for stride in STRIDES]


def features(*sizes, batch=2):
    return [torch.zeros(batch, 4, *size) for size in sizes]


FIVE = [(4, 6), (2, 3), (1, 2), (1, 1), (1, 1)]


# -- pure functions ------------------------------------------------------------------------------


def test_grid_points_row_by_row():
    """2 rows and 3 columns at stride 8: x runs fastest."""
    points = grid_points(2, 3, 8, 0.0)
    assert points.tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]
    assert points.dtype == torch.float32


def test_grid_points_with_an_offset():
    """Half a stride of 8 is 4 pixels."""
    assert grid_points(1, 2, 8, 0.5).tolist() == [[4, 4], [12, 4]]


def test_cell_anchors_by_hand():
    """Size 4, area 16. Ratio height / width 4: 2 wide, 8 high; ratio 1: 4 x 4; ratio 1/4: 8 x 2."""
    anchors = make_cell_anchors([4], [4, 1, 0.25])
    assert anchors.tolist() == [[-1, -4, 1, 4], [-2, -2, 2, 2], [-4, -1, 4, 1]]


def test_cell_anchors_are_size_major():
    anchors = make_cell_anchors([2, 4], [1, 4])
    assert anchors.tolist() == [[-1, -1, 1, 1], [-0.5, -2, 0.5, 2], [-2, -2, 2, 2], [-1, -4, 1, 4]]


def test_buffer_list():
    buffers = BufferList([torch.zeros(1), torch.ones(2)])
    assert len(buffers) == 2 and buffers[1].tolist() == buffers[-1].tolist() == [1, 1]
    assert [len(b) for b in buffers] == [1, 2] and list(buffers.state_dict()) == ["0", "1"]
    with pytest.raises(IndexError):
        buffers[2]
    assert list(BufferList([torch.zeros(1)], persistent=False).state_dict()) == []


# -- grids ---------------------------------------------------------------------------------------


def test_anchor_grid_by_hand():
    """A 1 x 2 map at stride 8, square anchors of sides 4 and 8 at (0, 0), then at (8, 0)."""
    grid = AnchorGrid(sizes=[[4, 8]], aspect_ratios=[[1.0]], strides=[8])
    (anchors,) = grid(features((1, 2)))
    assert anchors.tolist() == [[-2, -2, 2, 2], [-4, -4, 4, 4], [6, -2, 10, 2], [4, -4, 12, 4]]


def test_anchor_grid_offset():
    grid = AnchorGrid(sizes=[[4]], aspect_ratios=[[1.0]], strides=[8], offset=0.5)
    assert grid(features((1, 1)))[0].tolist() == [[2, 2, 6, 6]]


def test_one_list_serves_all_levels():
    grid = AnchorGrid(sizes=[[4]], aspect_ratios=[[1.0], [1.0, 2.0]], strides=[8, 16])
    assert grid.num_cell_anchors == [1, 2]
    assert [len(level) for level in grid(features((2, 3), (1, 2)))] == [6, 4]
    assert grid.cell_anchors[0].tolist() == grid.cell_anchors[1][:1].tolist()


@pytest.mark.parametrize("offset", [-0.1, 1.0])
def test_anchor_offset_range(offset):
    with pytest.raises(ConfigError, match=f"OFFSET .*{offset}"):
        AnchorGrid(sizes=[[4]], aspect_ratios=[[1.0]], strides=[8], offset=offset)


def test_lists_must_match_the_levels():
    with pytest.raises(ConfigError, match=r"SIZES .*\(3\); got 2"):
        AnchorGrid(sizes=[[4], [8]], aspect_ratios=[[1.0]], strides=[8, 16, 32])


def test_point_grid_by_hand():
    """Strides 8 and 16; with two points per location each point comes twice in a row."""
    grid = PointGrid(strides=[8, 16], num_shifts=2)
    fine, coarse = grid(features((1, 2), (1, 1)))
    assert fine.tolist() == [[0, 0], [0, 0], [8, 0], [8, 0]] and coarse.tolist() == [[0, 0]] * 2
    assert grid.num_cell_shifts == [2, 2]


def test_priors_are_float32_whatever_the_features_are():
    maps = [torch.zeros(1, 4, 1, 200, dtype=torch.bfloat16)]
    anchors = AnchorGrid(sizes=[[4]], aspect_ratios=[[1.0]], strides=[8])(maps)[0]
    points = PointGrid(strides=[8])(maps)[0]
    assert anchors.dtype == points.dtype == torch.float32
    assert points[-1].tolist() == [1592, 0] and anchors[-1].tolist() == [1590, -2, 1594, 2]


@pytest.mark.parametrize("persistent", [True, False])
def test_cell_anchors_in_the_state_dict(persistent):
    grid = AnchorGrid(sizes=[[4]], aspect_ratios=[[1.0]], strides=[8, 16], persistent=persistent)
    assert list(grid.state_dict()) == ["cell_anchors.0", "cell_anchors.1"] * persistent


# -- cvpods' forms -------------------------------------------------------------------------------


def test_default_anchor_generator():
    config = RetinaNetConfig()
    before = copy.deepcopy(config)
    generator = DefaultAnchorGenerator(config, SHAPES)
    result = generator(features(*FIVE))
    assert config == before
    assert generator.box_dim == 4 and generator.num_cell_anchors == [9] * 5
    assert len(result) == 2 and all(len(levels) == 5 for levels in result)
    assert all(isinstance(boxes, Boxes) for levels in result for boxes in levels)
    assert [boxes.tensor.shape for boxes in result[0]] == [(9 * h * w, 4) for h, w in FIVE]
    assert list(generator.state_dict()) == [f"cell_anchors.{level}" for level in range(5)]
    assert generator.cell_anchors[0].shape == (9, 4)


def test_default_anchor_generator_centres():
    """The default offset is 0: the anchors of the first location are centred at (0, 0)."""
    boxes = DefaultAnchorGenerator(RetinaNetConfig(), SHAPES)(features(*FIVE))[0][0]
    assert torch.allclose(boxes.get_centers()[:9], torch.zeros(9, 2), atol=1e-4)
    assert torch.allclose(boxes.get_centers()[9:18], torch.tensor([8.0, 0]), atol=1e-4)
    assert boxes.area()[:3].tolist() == pytest.approx([32**2] * 3, rel=1e-5)


def test_shift_generator():
    config = FCOSConfig()
    before = copy.deepcopy(config)
    generator = ShiftGenerator(config, SHAPES)
    result = generator(features(*FIVE, batch=3))
    assert config == before and generator.num_cell_shifts == [1] * 5
    assert len(result) == 3 and [p.shape for p in result[2]] == [(h * w, 2) for h, w in FIVE]
    assert result[0][1][:4].tolist() == [[0, 0], [16, 0], [32, 0], [0, 16]]
    assert list(generator.state_dict()) == []


def test_shift_generator_reads_its_keys():
    config = FCOSConfig()
    config.MODEL.SHIFT_GENERATOR.OFFSET = 0.5
    config.MODEL.SHIFT_GENERATOR.NUM_SHIFTS = 2
    generator = ShiftGenerator(config, SHAPES[:1])
    assert generator(features((1, 1)))[0][0].tolist() == [[4, 4], [4, 4]]
    assert generator.num_cell_shifts == [2]


def test_images_do_not_share_priors():
    anchors = DefaultAnchorGenerator(RetinaNetConfig(), SHAPES)(features(*FIVE))
    points = ShiftGenerator(FCOSConfig(), SHAPES)(features(*FIVE))
    anchors[0][0].scale(0, 0)
    points[0][1].zero_()
    assert anchors[1][0].tensor.abs().sum() > 0 and points[1][1].abs().sum() > 0


def test_whole_corners_by_hand():
    """torchvision's: size 32, ratio 0.5 is 45.25 x 22.63, half 22.63 x 11.31, rounded 23 x 11."""
    grid = AnchorGrid(sizes=[[32, 40]], aspect_ratios=[[0.5, 1.0]], strides=[8], whole_corners=True)
    assert grid.cell_anchors[0].tolist() == [
        [-23, -11, 23, 11],
        [-16, -16, 16, 16],
        [-28, -14, 28, 14],
        [-20, -20, 20, 20],
    ]


def test_shifted_centres():
    """All anchors half a pixel further right and down; those of the cell stay as they are."""
    arguments = {"sizes": [[16]], "aspect_ratios": [[1.0]], "strides": [8], "offset": 0.5}
    features = [torch.zeros(1, 1, 2, 3)]
    plain, moved = AnchorGrid(**arguments), AnchorGrid(**arguments, shift=0.5)
    assert torch.equal(plain.cell_anchors[0], moved.cell_anchors[0])
    assert torch.equal(moved.grid(features)[0], plain.grid(features)[0] + 0.5)


def test_files_without_anchors_load():
    """They are made, not learned; other frameworks' files hold none."""
    grid = AnchorGrid(sizes=[[16]], aspect_ratios=[[1.0]], strides=[8])
    before = grid.cell_anchors[0].clone()
    grid.load_state_dict({}, strict=True)
    assert torch.equal(grid.cell_anchors[0], before)
    grid.load_state_dict({"cell_anchors.0": before + 1}, strict=True)
    assert torch.equal(grid.cell_anchors[0], before + 1)
    hidden = AnchorGrid(sizes=[[16]], aspect_ratios=[[1.0]], strides=[8], persistent=False)
    hidden.load_state_dict({}, strict=True)
