"""torchvision's RetinaNet and FCOS, converted: the same detections on the same pixels."""

import pytest
import torch
from torchvision.models import detection

from cvpods.checkpoint import load_weights
from cvpods.checkpoint.catalog import IMAGENET_RGB
from cvpods.configs import FCOSConfig, RetinaNetConfig
from cvpods.modeling.backbone import build_resnet_fpn_p3_p7
from cvpods.modeling.meta_arch import FCOSDetector, RetinaNetDetector
from cvpods_ext.configs.frameworks import ARITHMETIC
from cvpods_ext.convert.conversion import convert
from cvpods_ext.convert.heads import UNUSED_IDS

HEIGHT, WIDTH = 128, 160
CATEGORIES = [index for index in range(91) if index not in UNUSED_IDS]
# name -> (config class, detector, group, P6 from)
MODELS = {
    "retinanet_resnet50_fpn": (RetinaNetConfig, RetinaNetDetector, "RETINANET", "p5"),
    "retinanet_resnet50_fpn_v2": (RetinaNetConfig, RetinaNetDetector, "RETINANET", "res5"),
    "fcos_resnet50_fpn": (FCOSConfig, FCOSDetector, "FCOS", "p5"),
}
THRESHOLD, MANY = 0.5, 100_000


def theirs(name):
    """Return torchvision's model with random weights that give some high scores."""
    torch.manual_seed(0)
    size = {"min_size": HEIGHT, "max_size": WIDTH}
    caps = {"score_thresh": THRESHOLD, "topk_candidates": MANY, "detections_per_img": MANY}
    make = getattr(detection, name)
    model = make(weights=None, weights_backbone=None, **size, **caps)
    for key, value in model.named_parameters():
        if key.endswith("bn3.weight"):  # residual branches that do not pile up
            value.data.fill_(0.2)
        elif key.endswith(("bbox_reg.weight", "bbox_ctrness.weight")):
            value.data.mul_(5)
    model.eval()
    with torch.no_grad():  # logits of spread 1, so that no score is 1; the 300th at the threshold
        levels = list(model.backbone(model.transform([image() / 255])[0].tensors).values())
        logits, last = model.head(levels)["cls_logits"], model.head.classification_head.cls_logits
        last.weight /= logits.std()
        last.bias /= logits.std()
        last.bias -= (logits / logits.std()).flatten().topk(300).values[-1]
    return model


def image():
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (3, HEIGHT, WIDTH), generator=generator)


def ours(name, weights):
    config_class, detector, group, top = MODELS[name]
    config = config_class()
    config.override({**IMAGENET_RGB, **ARITHMETIC["torchvision"][group]})
    config.override(
        {
            "MODEL.RESNETS.DEPTH": 50,
            "MODEL.RESNETS.STRIDE_IN_1X1": False,
            "MODEL.RESNETS.NORM": "BN",
            "MODEL.FPN.BLOCK_IN_FEATURES": top,
            f"MODEL.{group}.SCORE_THRESH_TEST": THRESHOLD,
            f"MODEL.{group}.TOPK_CANDIDATES_TEST": MANY,
            f"MODEL.{group}.NMS_THRESH_TEST": 0.6 if group == "FCOS" else 0.5,
            "TEST.DETECTIONS_PER_IMAGE": MANY,
        }
    )
    if group == "RETINANET":
        config.MODEL.RETINANET.NORM = "GN" if name.endswith("v2") else ""
    model = detector.from_config(config, build_resnet_fpn_p3_p7(config))
    load_weights(model, weights, strict=True)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_same_detections(name):
    model = theirs(name)
    conversion = convert(model.state_dict())
    assert conversion.layout == "torchvision" and conversion.complete and conversion.checked
    with torch.no_grad():
        (expected,) = model([image() / 255])
        (found,) = ours(name, conversion.weights)([{"image": image().to(torch.uint8)}])
    found = found["instances"]
    # Those of theirs that are categories, in our numbering; empty boxes are left out here.
    number = {category: index for index, category in enumerate(CATEGORIES)}
    width, height = (expected["boxes"][:, 2:] - expected["boxes"][:, :2]).unbind(1)
    labels, full = expected["labels"].tolist(), ((width > 0) & (height > 0)).tolist()
    rows = [i for i, label in enumerate(labels) if label in number and full[i]]
    labels = [number[expected["labels"][i].item()] for i in rows]
    assert 100 < len(rows) < 1000
    order = found.scores.argsort(descending=True, stable=True)
    torch.testing.assert_close(found.scores[order], expected["scores"][rows], rtol=1e-4, atol=1e-5)
    # Box by box; those of equal scores come in either order.
    mine = rows_of(found.pred_boxes.tensor, found.scores, found.pred_classes)
    yours = rows_of(expected["boxes"][rows], expected["scores"][rows], torch.tensor(labels))
    distances = torch.cdist(mine, yours, compute_mode="donot_use_mm_for_euclid_dist")
    assert max(distances.amin(0).max(), distances.amin(1).max()) < 0.02


def rows_of(boxes, scores, classes):
    """Return rows (N, 6) of box, 1000 * score and 1000 * class, so that other classes are far."""
    return torch.cat([boxes, 1000 * scores[:, None], 1000.0 * classes[:, None]], dim=1)


def test_classes_are_cocos_categories():
    assert len(CATEGORIES) == 80
    meta = detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    assert [i for i, name in enumerate(meta) if name not in ("__background__", "N/A")] == CATEGORIES
