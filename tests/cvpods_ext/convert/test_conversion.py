"""Names of other frameworks: tables by hand, unused and missing tensors, the way there and back."""

import random

import pytest
import torch

from cvpods.checkpoint import Checkpointer, load_file, load_weights
from cvpods.tools.experiment import open_experiment
from cvpods.utils.errors import CheckpointError
from cvpods_ext.configs.frameworks import ARITHMETIC
from cvpods_ext.convert.conversion import convert
from cvpods_ext.convert.heads import reorder_anchors
from cvpods_ext.convert.layouts import LAYOUTS, recognise
from cvpods_ext.convert.network import expected_shapes
from cvpods_ext.convert.rename import Rename
from cvpods_ext.convert.to_mmdet import to_mmdet
from tests.load_script import ROOT

# Small detectors with trained-like (random) weights: (experiment, method of mmdetection).
SMALL = {
    "atss.res18.shapes": "atss",
    "atss.dcnv2.res18.shapes": "atss",
    "free_anchor.res18.shapes": "free_anchor",
    "retinanet.res18.shapes": "retinanet",
    "auto_assign.res18.shapes": "auto_assign",
}
MADE = ("anchor_generator.", "loss_normalizer")


def model_of(name, seed=0, **values):
    config, build_model = open_experiment(ROOT / "playground" / name, device="cpu")
    config.override(values)
    torch.manual_seed(seed)
    return build_model(config)


def weights_of(name, seed=0, zero_biases=False):
    """Return random tensors of an experiment's model, also those that start at 0."""
    weights = model_of(name).state_dict()
    generator = torch.Generator().manual_seed(seed)
    for key, value in weights.items():
        if value.is_floating_point() and not key.startswith(MADE):
            value.copy_(torch.randn(value.shape, generator=generator))
        parts = key.split(".")
        is_tower = len(parts) > 3 and parts[1].endswith("_subnet") and int(parts[2]) % 3 == 0
        if zero_biases and is_tower and parts[-1] == "bias" and parts[-2] != "offset":
            value.zero_()
    return weights


# -- patterns --------------------------------------------------------------------------------------


def test_patterns_by_hand():
    rename = Rename("res2.#.conv1.norm.*", "layer1.#.bn1.*")
    assert rename.to_ours("layer1.12.bn1.running_mean") == "res2.12.conv1.norm.running_mean"
    assert rename.to_theirs("res2.0.conv1.norm.weight") == "layer1.0.bn1.weight"
    for other in ("layer1.x.bn1.weight", "layer2.0.bn1.weight", "a.layer1.0.bn1.weight", "layer1"):
        assert rename.to_ours(other) is None


def test_dots_are_dots():
    assert Rename("a.b", "c.d").to_ours("cxd") is None


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "cvpods"])
@pytest.mark.parametrize("norm", [False, True])
def test_tables_go_both_ways(name, norm):
    """Renaming back and forth is the identity: no name of a table occurs twice."""
    layout = LAYOUTS[name]
    methods = ["retinanet", "fcos"] + (["atss", "auto_assign"] if name == "mmdet" else [])
    for method in methods:
        table = layout.rules(method, norm)
        for rule in table:
            ours = rule.ours.replace("#", "3").replace("*", "weight")
            first = next(t for r in table if (t := r.to_theirs(ours)))
            assert next(o for r in table if (o := r.to_ours(first))) == ours


# -- layouts ---------------------------------------------------------------------------------------

BODY, OURS = "module.backbone.body.", "backbone.bottom_up."
MASKRCNN_BENCHMARK = {
    f"{BODY}stem.conv1.weight": f"{OURS}stem.conv1.weight",
    f"{BODY}stem.bn1.running_var": f"{OURS}stem.conv1.norm.running_var",
    f"{BODY}layer1.0.conv1.weight": f"{OURS}res2.0.conv1.weight",
    f"{BODY}layer4.2.bn3.bias": f"{OURS}res5.2.conv3.norm.bias",
    f"{BODY}layer2.0.downsample.0.weight": f"{OURS}res3.0.shortcut.weight",
    f"{BODY}layer2.0.downsample.1.bias": f"{OURS}res3.0.shortcut.norm.bias",
    f"{BODY}layer3.1.conv2.offset.weight": f"{OURS}res4.1.conv2_offset.weight",
    f"{BODY}layer3.1.conv2.conv.weight": f"{OURS}res4.1.conv2.weight",
    "module.backbone.fpn.fpn_inner2.weight": "backbone.fpn_lateral3.weight",
    "module.backbone.fpn.fpn_layer4.bias": "backbone.fpn_output5.bias",
    "module.backbone.fpn.top_blocks.p6.weight": "backbone.top_block.p6.weight",
    "module.rpn.head.cls_tower.0.weight": "head.cls_subnet.0.weight",
    "module.rpn.head.cls_tower.1.weight": "head.cls_subnet.1.weight",
    "module.rpn.head.bbox_tower.9.offset.bias": "head.bbox_subnet.9.offset.bias",
    "module.rpn.head.bbox_tower.9.conv.weight": "head.bbox_subnet.9.conv.weight",
    "module.rpn.head.cls_logits.weight": "head.cls_score.weight",
    "module.rpn.head.bbox_pred.bias": "head.bbox_pred.bias",
    "module.rpn.head.centerness.weight": "head.centerness.weight",
    "module.rpn.head.scales.4.scale": "head.scales.4.scale",
}
DETECTRON2 = {
    "backbone.bottom_up.res2.0.conv1.norm.weight": "backbone.bottom_up.res2.0.conv1.norm.weight",
    "backbone.fpn_lateral4.weight": "backbone.fpn_lateral4.weight",
    "backbone.top_block.p7.bias": "backbone.top_block.p7.bias",
    "head.cls_subnet.0.weight": "head.cls_subnet.0.weight",
    "head.cls_subnet.1.weight": "head.cls_subnet.1.weight",
    "head.bbox_subnet.9.bias": "head.bbox_subnet.9.bias",
    "head.cls_score.weight": "head.cls_score.weight",
    "head.ctrness.weight": "head.centerness.weight",
}


@pytest.mark.parametrize(
    "layout, names", [("maskrcnn_benchmark", MASKRCNN_BENCHMARK), ("detectron2", DETECTRON2)]
)
def test_names_by_hand(layout, names):
    """Rename tensors that are named as in the files of the authors of ATSS and FCOS."""
    weights = {name: torch.full((1,), float(i)) for i, name in enumerate(names)}
    result = convert(weights)
    assert result.layout == layout and not result.unused
    for i, ours in enumerate(names.values()):
        assert result.weights[ours].item() == i


def test_towers_without_norms():
    """RetinaNet's indices are 0, 2, 4, 6 in all frameworks except mmdetection (0, 1, 2, 3)."""
    theirs = {f"bbox_head.cls_convs.{i}.conv.weight": torch.zeros(1) for i in range(4)}
    assert set(convert(theirs).weights) == {f"head.cls_subnet.{2 * i}.weight" for i in range(4)}
    theirs = {f"rpn.head.cls_tower.{2 * i}.weight": torch.zeros(1) for i in range(4)}
    assert set(convert(theirs).weights) == {f"head.cls_subnet.{2 * i}.weight" for i in range(4)}


def test_what_is_not_learned_is_dropped():
    weights = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "anchor_generator.cell_anchors.0": torch.zeros(9, 4),
        "head.cls_score.weight": torch.zeros(1),
    }
    result = convert(weights)
    assert set(result.dropped) == {"pixel_mean", "anchor_generator.cell_anchors.0"}
    assert set(result.weights) == {"head.cls_score.weight"}


@pytest.mark.parametrize(
    "names, layout",
    [
        (["bbox_head.atss_cls.weight"], "mmdet"),
        (["neck.lateral_convs.0.conv.weight"], "mmdet"),
        (["rpn.head.cls_tower.0.weight"], "maskrcnn_benchmark"),
        (["head.classification_head.conv.0.weight"], "torchvision"),
        (["pixel_mean", "backbone.bottom_up.stem.conv1.weight"], "detectron2"),
        (["backbone.bottom_up.stem.conv1.weight", "mu"], "cvpods"),
        (["conv1.weight", "layer1.0.conv1.weight"], None),
        ([], None),
    ],
)
def test_recognition(names, layout):
    found = recognise(names)
    assert (found and found.name) == layout


def test_a_wrong_name_of_the_source():
    weights = weights_of("atss.res18.shapes")
    with pytest.raises(CheckpointError, match="not weights of mmdetection.*backbone.bottom_up"):
        convert(weights, "mmdet")
    with pytest.raises(CheckpointError, match="auto, mmdet, maskrcnn_benchmark"):
        convert(weights, "yolo")


@pytest.mark.parametrize("weights", [{}, {"encoder.weight": torch.zeros(1)}])
def test_files_of_nothing_known(weights):
    with pytest.raises(CheckpointError, match="not recognised"):
        convert(weights)


def test_a_backbone_alone():
    """A backbone may have torchvision's names or ours; its classifier is dropped."""
    backbone = model_of("atss.res18.shapes").backbone.bottom_up.state_dict()
    result = convert({**backbone, "fc.weight": torch.zeros(1)})
    assert result.layout == "backbone" and result.complete and result.dropped == ["fc.weight"]
    assert set(result.weights) == set(backbone)
    assert convert({**backbone, "other": torch.zeros(2, 3)}).unused == {"other": (2, 3)}


# -- the order of anchors --------------------------------------------------------------------------


def test_order_of_anchors_by_hand():
    """Reorder 9 anchors of 2 classes.

    Ordered by ratio, the channels of (ratio 1, size 2) are 2 * 5 and 2 * 5 + 1; ordered by size,
    they are 2 * 7 and 2 * 7 + 1.
    """
    weights = {}
    for part, channels in (("cls_score", 18), ("bbox_pred", 36)):
        weights[f"head.{part}.weight"] = torch.arange(channels)[:, None, None, None].float()
        weights[f"head.{part}.bias"] = torch.arange(channels).float()
    before = {name: value.clone() for name, value in weights.items()}
    assert reorder_anchors(weights, to_ratio_major=False)
    assert weights["head.cls_score.bias"][14:16].tolist() == [10, 11]
    assert weights["head.bbox_pred.weight"][28:32].flatten().tolist() == [20, 21, 22, 23]
    reorder_anchors(weights, to_ratio_major=True)
    assert all(torch.equal(weights[name], before[name]) for name in before)


def test_other_numbers_of_anchors():
    single = {"head.bbox_pred.weight": torch.zeros(4, 1, 3, 3)}
    assert not reorder_anchors(single, to_ratio_major=True)
    with pytest.raises(CheckpointError, match="6 anchors"):
        reorder_anchors({"head.bbox_pred.weight": torch.zeros(24, 1, 3, 3)}, to_ratio_major=True)


# -- there and back --------------------------------------------------------------------------------


@pytest.mark.parametrize("zero_biases", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_to_mmdet_and_back(name, zero_biases):
    """All learned tensors come back bit for bit, and the result loads strictly."""
    weights = weights_of(name, zero_biases=zero_biases)
    there = to_mmdet(weights, SMALL[name])
    assert there.complete
    assert not any(key.startswith(("head.", "backbone.bottom_up", "mu")) for key in there.weights)
    back = convert(there.weights)
    assert back.layout == "mmdet" and back.complete and back.checked
    learned = {key for key in weights if not key.startswith(MADE)}
    assert set(back.weights) == learned
    for key in learned:
        assert torch.equal(back.weights[key], weights[key]), key
    model = model_of(name, seed=1)
    assert load_weights(model, back.weights, strict=True).describe() == ""


def test_biases_that_mmdetection_does_without():
    """Biases of 0 are left out. Others are written; for ATSS, a note tells of their loss."""
    zero = to_mmdet(weights_of("atss.res18.shapes", zero_biases=True), "atss")
    assert not any(k.startswith("bbox_head") and k.endswith("conv.bias") for k in zero.weights)
    assert len([name for name in zero.dropped if name.endswith("(0)")]) == 4 and not zero.notes
    other = to_mmdet(weights_of("atss.res18.shapes"), "atss")
    assert len([n for n in other.notes if "ATSSHead has no such bias" in n]) == 4


@pytest.mark.parametrize("method", ["feature_align", "yolo", ""])
def test_methods_that_mmdetection_does_not_have(method):
    with pytest.raises(CheckpointError, match="retinanet, free_anchor, fcos, atss, auto_assign"):
        to_mmdet(weights_of("atss.res18.shapes"), method)


def test_weights_of_another_method():
    with pytest.raises(CheckpointError, match="not weights of auto_assign, but of fcos"):
        to_mmdet(weights_of("atss.res18.shapes"), "auto_assign")


# -- what is left over, what is missing ------------------------------------------------------------


def test_left_over_and_missing():
    """The report lists unused and missing tensors with their shapes."""
    weights = to_mmdet(weights_of("atss.res18.shapes"), "atss").weights
    del weights["neck.fpn_convs.0.conv.bias"]
    weights["bbox_head.extra.weight"] = torch.zeros(2, 3)
    result = convert(weights)
    assert not result.complete
    assert result.unused == {"bbox_head.extra.weight": (2, 3)}
    assert result.missing == {"backbone.fpn_output3.bias": (64,)}
    report = result.describe()
    for line in ("bbox_head.extra.weight (2, 3)", "backbone.fpn_output3.bias (64,)"):
        assert line in report
    assert "bbox_head.atss_cls.weight -> head.cls_score.weight (6, 64, 3, 3)" in report
    assert "->" not in result.describe(every=False)


def test_a_network_of_another_shape():
    """A tensor of another shape is unused and missing: 6 classes in the file, 80 in the network."""
    weights = weights_of("atss.res18.shapes")
    states = model_of("atss.res18.shapes", **{"MODEL.ATSS.NUM_CLASSES": 80}).state_dict()
    result = convert(weights, shapes={k: tuple(v.shape) for k, v in states.items()})
    assert result.unused["head.cls_score.weight"] == (6, 64, 3, 3)
    assert result.missing["head.cls_score.weight"] == (80, 64, 3, 3)
    assert set(result.missing) == {"head.cls_score.weight", "head.cls_score.bias"}


@pytest.mark.parametrize(
    "name", [*SMALL, "atss.dcnv2.res50.1x", "free_anchor.resx101_32x4d.1x.mmdet"]
)
def test_the_network_is_read_off_the_weights(name):
    config, build_model = open_experiment(ROOT / "playground" / name, device="cpu")
    with torch.device("meta"):
        states = build_model(config).state_dict()
    skipped = (*MADE,)
    expected = {k: tuple(v.shape) for k, v in states.items() if not k.startswith(skipped)}
    found = expected_shapes(states)
    assert found is not None
    counters = "num_batches_tracked"
    assert {k: v for k, v in found.items() if not k.startswith(skipped) and counters not in k} == {
        k: v for k, v in expected.items() if counters not in k
    }


@pytest.mark.parametrize("name", ["atss.mobilenetv2.bccd", "feature_align.res18.shapes"])
def test_networks_that_are_not_known(name):
    """Weights of an unknown network are converted; the report says that they were not checked."""
    result = convert(weights_of(name))
    assert not result.checked and not result.missing and "not known" not in result.describe(False)
    assert "the network is unknown" in result.describe(False)


# -- reading ---------------------------------------------------------------------------------------


def test_files_are_converted_as_they_are_read(tmp_path):
    """A file of ATSS from maskrcnn-benchmark gets our names and states what it expects."""
    weights = weights_of("atss.res18.shapes")
    table = LAYOUTS["maskrcnn_benchmark"].rules("fcos", True)
    theirs = {
        f"module.{next(t for r in table if (t := r.to_theirs(name)))}": value
        for name, value in weights.items()
    }
    torch.save({"model": theirs, "iteration": 90000}, tmp_path / "x.pth")
    content = load_file(tmp_path / "x.pth")
    assert set(content["model"]) == set(weights)
    assert all(torch.equal(content["model"][name], weights[name]) for name in weights)
    arithmetic = dict(ARITHMETIC["maskrcnn_benchmark"]["ATSS"])
    del arithmetic["MODEL.FPN.BLOCK_IN_FEATURES"]  # the shape of P6 says it
    assert content["expects"] == {"MODEL": ["ATSS"], **arithmetic}


def test_detectron2s_pixels_are_expected(tmp_path):
    weights = {
        **weights_of("retinanet.res18.shapes"),
        "pixel_mean": torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1),
        "pixel_std": torch.ones(3, 1, 1),
    }
    torch.save({"model": weights}, tmp_path / "x.pth")
    content = load_file(tmp_path / "x.pth")
    assert content["expects"]["INPUT.FORMAT"] == "BGR"
    assert content["expects"]["MODEL.PIXEL_MEAN"] == pytest.approx([103.53, 116.28, 123.675])
    assert "pixel_mean" not in content["model"]


@pytest.mark.parametrize("wrapper", ["module.", "module.module.", "model.", "_orig_mod."])
def test_wrapped_models(tmp_path, wrapper):
    """Prefixes of DistributedDataParallel, Lightning and torch.compile are removed."""
    weights = weights_of("atss.res18.shapes")
    there = to_mmdet(weights, "atss").weights
    for named in (weights, there):
        torch.save({wrapper + k: v for k, v in named.items()}, tmp_path / "x.pth")
        model = model_of("atss.res18.shapes", seed=1)
        Checkpointer(model).load(tmp_path / "x.pth", strict=True)
        assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_averaged_weights_are_converted_too(tmp_path):
    weights = weights_of("atss.res18.shapes")
    there = to_mmdet(weights, "atss").weights
    content = {"model": there, "ema": {name: value + 1 for name, value in there.items()}}
    torch.save(content, tmp_path / "x.pth")
    model = model_of("atss.res18.shapes")
    Checkpointer(model).load(tmp_path / "x.pth", strict=True, use_ema=True)
    assert torch.equal(model.head.cls_score.bias, weights["head.cls_score.bias"] + 1)


@pytest.mark.parametrize(
    "name",
    [
        "neck.lateral_convs.3.conv.weight",
        "rpn_head.rpn_conv.weight",
        "roi_head.bbox_head.fc_cls.weight",
    ],
)
def test_detectors_of_two_stages(tmp_path, name):
    """Refuse a pyramid from P2, which has other levels under the same names, also on reading."""
    weights = {**to_mmdet(weights_of("atss.res18.shapes"), "atss").weights, name: torch.zeros(1)}
    with pytest.raises(CheckpointError, match=f"{name} belongs to a pyramid that starts at P2"):
        convert(weights)
    torch.save({"state_dict": weights}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="does not have such detectors"):
        load_file(tmp_path / "x.pth")


PARTS = ["neck.lateral_convs.1.", "neck.fpn_convs.3.", "bbox_head.atss_reg."]


@pytest.mark.parametrize("part", PARTS)
def test_whole_parts_that_are_missing(part):
    """Without a whole part, the network is unknown; the report names --dir."""
    weights = to_mmdet(weights_of("atss.res18.shapes"), "atss").weights
    result = convert({k: v for k, v in weights.items() if not k.startswith(part)})
    assert not result.complete
    assert "--dir" in result.describe() or result.missing or result.unused


def test_detectron2_by_its_name():
    """Without pixel means, detectron2's files have cvpods' names; `source` tells them apart."""
    weights = weights_of("retinanet.res18.shapes")
    assert convert(weights).layout == "cvpods"
    assert convert(weights, "detectron2").layout == "detectron2"


def test_mutated_files_give_clear_errors():
    """Convert 60 files of each framework with tensors removed, renamed or of other shapes."""
    generator = random.Random(0)
    ours = {k: v for k, v in weights_of("free_anchor.res18.shapes").items() if k[:4] != "anch"}
    sources = {"mmdet": to_mmdet(ours, "free_anchor").weights, "cvpods": ours}
    for name in ("maskrcnn_benchmark", "torchvision"):
        table = LAYOUTS[name].rules("retinanet", True)
        sources[name] = {
            next(t for rule in table if (t := rule.to_theirs(key))): value
            for key, value in ours.items()
        }
    outcomes = {"converted": 0, "refused": 0}
    for weights in sources.values():
        for _ in range(60):
            mutated = dict(weights)
            for key in generator.sample(list(weights), generator.randint(1, 6)):
                value = mutated.pop(key)
                change = generator.choice(["gone", "renamed", "shape", "scalar"])
                if change == "renamed":
                    mutated[key.replace(generator.choice(key), "x")] = value
                elif change == "shape":
                    mutated[key] = torch.zeros([generator.randint(0, 12) for _ in range(4)])
                elif change == "scalar":
                    mutated[key] = torch.zeros(())
            try:
                convert(mutated)
                outcomes["converted"] += 1
            except CheckpointError:
                outcomes["refused"] += 1
    assert sum(outcomes.values()) == 240 and min(outcomes.values()) > 5, outcomes
