"""Class score and quality, by hand: s = 0.81, q = 0.25 -> s q = 0.2025, sqrt = 0.45."""

import pytest
import torch

from cvpods.configs import FCOSConfig
from cvpods.modeling.meta_arch import FCOSDetector
from cvpods.modeling.meta_arch.scores import SCORE_TYPES, check_score_type, combine_scores
from cvpods.structures import Boxes
from cvpods.utils.errors import ConfigError
from cvpods_ext.methods.atss import ATSS, ATSSConfig
from cvpods_ext.methods.auto_assign import AutoAssign, AutoAssignConfig
from cvpods_ext.methods.feature_align import FeatureAlign, FeatureAlignConfig
from tests.cvpods.modeling.test_dense_detectors import CHANNELS, backbone

BY_HAND = {
    "sqrt": (0.81, 0.45, 0.45),
    "sqrt_all": (0.45, 0.45, 0.45),
    "product": (0.2025, 0.2025, 0.2025),
    "class_first": (0.81, 0.81, 0.2025),
}


@pytest.mark.parametrize("score_type", SCORE_TYPES)
def test_by_hand(score_type):
    scores = combine_scores(score_type, torch.tensor([[0.81]]), torch.tensor([[0.25]]))
    found = (scores.threshold.item(), scores.ranking.item(), scores.final.item())
    assert found == pytest.approx(BY_HAND[score_type])


@pytest.mark.parametrize("score_type", SCORE_TYPES)
def test_shapes(score_type):
    """Quality (R, 1) counts for all classes (R, K); a level may have 0 locations."""
    for rows in (4, 0):
        scores = combine_scores(score_type, torch.rand(rows, 3), torch.rand(rows, 1))
        assert {tuple(part.shape) for part in scores} == {(rows, 3)}


def test_unknown_type():
    with pytest.raises(ConfigError, match=r"MODEL\.ATSS\.SCORE_TYPE must be one of .*'mean'"):
        check_score_type("mean", "ATSS")


def detector(config_class, group, make, **values):
    config = config_class()
    config.MODEL.FPN.OUT_CHANNELS = CHANNELS
    keys = {"NUM_CLASSES": 1, "NUM_CONVS": 1, **values}
    if group == "FEATURE_ALIGN":
        keys |= {"USE_DCN_IN_TOWER": False, "ATTENTION.ENABLED": False}
    config.override({f"MODEL.{group}.{key}": value for key, value in keys.items()})
    return make.from_config(config, backbone())


METHODS = [
    (FCOSConfig, "FCOS", FCOSDetector, "centerness"),
    (ATSSConfig, "ATSS", ATSS, "centerness"),
    (AutoAssignConfig, "AUTO_ASSIGN", AutoAssign, "obj_score"),
    (FeatureAlignConfig, "FEATURE_ALIGN", FeatureAlign, "obj_score"),
]


def found_in(model, quality, classes, qualities):
    """Detections at locations 0, 1 of an 8 x 8 map, whose boxes do not overlap."""
    count = 64
    outputs = {
        "cls_logits": torch.full((1, count, 1), -20.0),
        "box_deltas": torch.full((1, count, 4), 0.2),
        quality: torch.zeros(1, count, 1),
    }
    for place, (one, other) in enumerate(zip(classes, qualities, strict=True)):
        outputs["cls_logits"][0, 9 * place] = torch.logit(torch.tensor(one))
        outputs[quality][0, 9 * place] = torch.logit(torch.tensor(other))
    (found,) = model.inference(outputs, model.priors([torch.zeros(1, 1, 8, 8)]), [(64, 64)])
    assert isinstance(found.pred_boxes, Boxes)
    return found


@pytest.mark.parametrize("config_class, group, make, quality", METHODS)
@pytest.mark.parametrize("score_type", SCORE_TYPES)
def test_detectors(monkeypatch, config_class, group, make, quality, score_type):
    """Threshold 0.3. s, q = 0.81, 0.25: passes unless the product counts. One candidate a level:
    of (0.5, 0.9) and (0.6, 0.5), the class score prefers the second, all else the first."""
    model = detector(
        config_class, group, make, SCORE_TYPE=score_type, SCORE_THRESH_TEST=0.3, IN_FEATURES=["p3"]
    )
    assert model.score_type == score_type
    found = found_in(model, quality, [0.81], [0.25])
    expected = BY_HAND[score_type]
    assert found.scores.tolist() == ([] if expected[0] < 0.3 else [pytest.approx(expected[2])])
    model.topk_candidates = 1
    found = found_in(model, quality, [0.5, 0.6], [0.9, 0.5])
    product = 0.3 if score_type == "class_first" else 0.45
    final = product if score_type in ("product", "class_first") else product**0.5
    assert found.scores.tolist() == [pytest.approx(final)]


@pytest.mark.parametrize("config_class, group, make, quality", METHODS)
def test_unknown_types_are_refused(config_class, group, make, quality):
    with pytest.raises(ConfigError, match="SCORE_TYPE must be one of"):
        detector(config_class, group, make, SCORE_TYPE="mean")


@pytest.mark.parametrize("config_class, group, make, quality", METHODS[2:])
def test_cap_and_clip_of_auto_assign(config_class, group, make, quality):
    """A level of 2 x 2 locations and a cap of 9: at most 4 candidates, or 8 of its 2 classes."""
    for capped, count in ((True, 4), (False, 8)):
        values = {"CAP_AT_LOCATIONS": capped, "TOPK_CANDIDATES_TEST": 9, "NUM_CLASSES": 2}
        model = detector(config_class, group, make, IN_FEATURES=["p3"], **values)
        outputs = {
            "cls_logits": torch.full((1, 4, 2), 3.0),
            "box_deltas": torch.full((1, 4, 4), 0.3),
            quality: torch.full((1, 4, 1), 3.0),
        }
        priors = model.priors([torch.zeros(1, 1, 2, 2)])
        (found,) = model.candidates(outputs, priors, [(16, 16)], model.topk_candidates)
        assert len(found) == count
    for clip in (False, True):
        model = detector(config_class, group, make, IN_FEATURES=["p3"], CLIP_BEFORE_NMS=clip)
        (found,) = model.candidates(
            {
                name: value[..., :1] if name == "cls_logits" else value
                for name, value in outputs.items()
            },
            priors,
            [(16, 16)],
            9,
        )
        assert (found.pred_boxes.tensor.min() >= 0).item() is clip
