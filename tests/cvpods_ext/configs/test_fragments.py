"""Fragments compose with every method's class and say what their names say."""

from __future__ import annotations

import pytest
import torch

from cvpods.configs import RetinaNetConfig
from cvpods.configs.config_dict import flatten
from cvpods.engine.scaling import plan_batches
from cvpods.layers import DeformConv, ModulatedDeformConv
from cvpods.modeling.backbone import build_resnet_fpn_p3_p7
from cvpods.utils.errors import ConfigError
from cvpods_ext.configs import compose
from cvpods_ext.configs import fragments as f
from cvpods_ext.configs.frameworks import mmdetection
from cvpods_ext.methods.atss import ATSS, ATSSConfig
from cvpods_ext.methods.free_anchor import FreeAnchorConfig


def test_like_copies_whole_groups_and_single_keys():
    config = compose(RetinaNetConfig, f.like(FreeAnchorConfig, "SOLVER", "MODEL.PIXEL_MEAN"))
    assert config.SOLVER == FreeAnchorConfig().SOLVER
    assert config.MODEL.PIXEL_MEAN == FreeAnchorConfig().MODEL.PIXEL_MEAN
    assert config.MODEL.ANCHOR_GENERATOR == RetinaNetConfig().MODEL.ANCHOR_GENERATOR


def test_like_takes_no_key_that_only_begins_alike():
    assert set(f.like(FreeAnchorConfig, "MODEL.PIXEL")) == set()


def test_octave_anchors():
    """20 * 2^(1/3) = 25.198, 20 * 2^(2/3) = 31.748."""
    (sizes,) = f.octave_anchors([20])["MODEL.ANCHOR_GENERATOR.SIZES"]
    assert sizes == pytest.approx([20, 25.198421, 31.748021])


@pytest.mark.parametrize(("scales", "expected"), [(f.MS_640_800, 6), (f.MS_480_960, 16)])
def test_multi_scale_training_has_the_published_number_of_sizes(scales, expected):
    config = compose(FreeAnchorConfig, scales)
    (_, resize), _ = config.INPUT.AUG.TRAIN_PIPELINES
    edges = resize["short_edge_length"]
    assert len(edges) == expected
    assert {b - a for a, b in zip(edges, edges[1:], strict=False)} == {32}
    assert resize["max_size"] == 1333
    assert config.INPUT.AUG.TEST_PIPELINES[0][1]["short_edge_length"] == 800


def test_mmdetection_is_as_its_recipe_says():
    recipe = mmdetection("FREE_ANCHOR", "torchvision://resnet50")
    config = compose(FreeAnchorConfig, f.RES50, f.SCHEDULE_1X, recipe)
    schedule, optimizer = config.SOLVER.LR_SCHEDULER, config.SOLVER.OPTIMIZER
    assert (schedule.WARMUP_METHOD, schedule.WARMUP_ITERS) == ("linear", 500)
    assert schedule.WARMUP_FACTOR == 1e-3
    assert (optimizer.BASE_LR, optimizer.MOMENTUM, optimizer.BIAS_LR_FACTOR) == (0.01, 0.9, 1.0)
    assert (optimizer.WEIGHT_DECAY, optimizer.WEIGHT_DECAY_NORM) == (1e-4, 1e-4)
    assert optimizer.WEIGHT_DECAY_BIAS is None
    clip = config.SOLVER.CLIP_GRADIENTS
    assert (clip.ENABLED, clip.CLIP_TYPE, clip.CLIP_VALUE) == (True, "full_model", 35.0)
    assert config.MODEL.FREE_ANCHOR.PRIOR_PROB == 0.01
    assert config.MODEL.FPN.BLOCK_IN_FEATURES == "res5"


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_every_number_of_gpus_makes_the_same_passes(world_size):
    """A step is 8 passes of 2 images each: 8 GPUs once, 4 GPUs twice, 1 GPU eight times.

    So the losses' normalisers, which are per pass, agree too.
    """
    config = compose(FreeAnchorConfig, f.COCO_2017, f.RES50, f.SCALE_800, f.SCHEDULE_1X)
    plan = plan_batches(config, world_size)
    passes = [tuple(part) for rank in range(world_size) for part in plan.ranges(rank)]
    assert passes == [(2 * i, 2 * i + 1) for i in range(8)]
    assert config.SOLVER.LR_SCHEDULER.MAX_ITER == 90_000
    assert config.SOLVER.OPTIMIZER.BASE_LR == 0.01


# -- deformable convolutions -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "switches"),
    [
        (["res3", "res4", "res5"], [False, True, True, True]),
        (["res5", "res4"], [False, False, True, True]),
        (["res2"], [True, False, False, False]),
        ([], [False, False, False, False]),
    ],
)
def test_dcnv2_says_where(stages, switches):
    """These three keys and no other; switches are in the order of res2, res3, res4, res5."""
    plain = dict(flatten(compose(ATSSConfig, f.RES50)))
    values = dict(flatten(compose(ATSSConfig, f.RES50, f.dcnv2(*stages))))
    assert values["MODEL.RESNETS.DEFORM_ON_PER_STAGE"] == switches
    assert values["MODEL.RESNETS.DEFORM_MODULATED"] is True
    assert values["MODEL.ATSS.USE_DCN_IN_TOWER"] is True
    changed = {key for key in values if values[key] != plain[key]}
    assert changed <= set(f.dcnv2(*stages)) and len(f.dcnv2(*stages)) == 3
    assert plain["MODEL.RESNETS.DEFORM_ON_PER_STAGE"] == [False] * 4
    assert plain["MODEL.ATSS.USE_DCN_IN_TOWER"] is False


@pytest.mark.parametrize("stages", [["res6"], ["res3", "c4"], ["stem"], ["RES3"], ["res3,res4"]])
def test_dcnv2_refuses_unknown_stages(stages):
    with pytest.raises(ConfigError, match=rf"'res2', 'res3'.*\['{stages[-1]}'\]"):
        f.dcnv2(*stages)


def test_dcnv2_of_another_method():
    """A key of its own namespace; compose() refuses it where the method has no such key."""
    fragment = f.dcnv2("res3", method="FREE_ANCHOR")
    assert fragment["MODEL.FREE_ANCHOR.USE_DCN_IN_TOWER"] is True
    assert not any(key.startswith("MODEL.ATSS") for key in fragment)
    with pytest.raises(ConfigError, match="MODEL.FREE_ANCHOR.USE_DCN_IN_TOWER"):
        compose(FreeAnchorConfig, f.RES50, fragment)


def test_dcnv2_builds_what_it_says():
    """ResNet-50, res4 and res5: 6 + 3 blocks and two towers."""
    config = compose(ATSSConfig, f.RES50, f.dcnv2("res4", "res5"))
    with torch.device("meta"):
        model = ATSS.from_config(config, backbone=build_resnet_fpn_p3_p7(config))
    deforming = {name: m for name, m in model.named_modules() if isinstance(m, DeformConv)}
    assert set(deforming) == {
        *(f"backbone.bottom_up.res4.{i}.conv2" for i in range(6)),
        *(f"backbone.bottom_up.res5.{i}.conv2" for i in range(3)),
        "head.cls_subnet.9.conv",
        "head.bbox_subnet.9.conv",
    }
    assert {type(m) for m in deforming.values()} == {ModulatedDeformConv}
    assert {m.deformable_groups for m in deforming.values()} == {1}
