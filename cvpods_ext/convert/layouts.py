"""Names that other frameworks give to the tensors of the same networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from cvpods_ext.convert.rename import Rename, modules, resnet

# Largest number of convolutions in a tower.
MAX_CONVS = 8
LEVELS = (3, 4, 5)
OURS = "backbone.bottom_up."


@dataclass(frozen=True)
class Layout:
    """Names of one framework.

    Args:
        name: value of `pods_convert --from`.
        title: name of the framework in messages.
        signs: prefixes that only this layout's names have.
        rules: function from (method, norm) to a table of names; `norm` is True if the towers have
            norms.
        method: function from all names to the method, which the names of the head reveal.
        dropped: prefixes of tensors that are not learned.
        two_stage: prefixes that only two-stage detectors have.
        ratio_major: the anchors of a location are ordered by ratio, then size; in this project by
            size, then ratio.
    """

    name: str
    title: str
    signs: tuple[str, ...]
    rules: Callable[[str, bool], list[Rename]]
    method: Callable[[Iterable[str]], str]
    dropped: tuple[str, ...] = ()
    two_stage: tuple[str, ...] = ()
    ratio_major: bool = False


def _towers(theirs: Callable[[str, int], tuple[str, str]], norm: bool) -> list[Rename]:
    """Return the table of both towers.

    Args:
        theirs: function from (tower, i) to their names of the i-th convolution and norm.
    """
    step = 3 if norm else 2  # convolution, (norm,) relu
    table = []
    for tower in ("cls", "bbox"):
        for i in range(MAX_CONVS):
            conv, its_norm = theirs(tower, i)
            table.append(Rename(f"head.{tower}_subnet.{step * i}.*", f"{conv}.*"))
            if norm:
                table.append(Rename(f"head.{tower}_subnet.{step * i + 1}.*", f"{its_norm}.*"))
    return table


def _sequence(name: str, norm: bool) -> Callable[[str, int], tuple[str, str]]:
    """Return their names of towers that are one torch.nn.Sequential each, as ours are.

    Args:
        name: pattern of a tower's name, for example "head.{}_subnet".
    """
    step = 3 if norm else 2
    return lambda tower, i: (
        f"{name.format(tower)}.{step * i}",
        f"{name.format(tower)}.{step * i + 1}",
    )


def _fpn(lateral: list[str], output: list[str], p6: str, p7: str) -> list[Rename]:
    ours = [f"backbone.fpn_{part}{k}" for part in ("lateral", "output") for k in LEVELS]
    ours += ["backbone.top_block.p6", "backbone.top_block.p7"]
    return modules(ours, [*lateral, *output, p6, p7])


# -- mmdetection 3 ---------------------------------------------------------------------------------

# Methods that mmdetection has, with the method whose tensors have the same names here.
MMDET_METHODS = {
    "retinanet": "retinanet",
    "free_anchor": "retinanet",
    "fcos": "fcos",
    "atss": "fcos",
    "auto_assign": "auto_assign",
}
_MMDET_PREDICTORS = {
    "retinanet": ("retina_cls", "retina_reg", None),
    "free_anchor": ("retina_cls", "retina_reg", None),
    "fcos": ("conv_cls", "conv_reg", "conv_centerness"),
    "atss": ("atss_cls", "atss_reg", "atss_centerness"),
    "auto_assign": ("conv_cls", "conv_reg", "conv_centerness"),
}


def _mmdet_tower(tower: str, i: int) -> tuple[str, str]:
    side = "cls" if tower == "cls" else "reg"
    return f"bbox_head.{side}_convs.{i}.conv", f"bbox_head.{side}_convs.{i}.gn"


def _mmdet_rules(method: str, norm: bool) -> list[Rename]:
    table = resnet(OURS, "backbone.") + _towers(_mmdet_tower, norm)
    neck = [f"neck.lateral_convs.{i}.conv" for i in range(3)]
    outputs = [f"neck.fpn_convs.{i}.conv" for i in range(5)]
    table += _fpn(neck, outputs[:3], *outputs[3:])
    cls, box, quality = _MMDET_PREDICTORS[method]
    predictors = [f"bbox_head.{cls}", f"bbox_head.{box}"]
    table += modules(["head.cls_score", "head.bbox_pred"], predictors)
    if quality:
        ours = "obj_score" if method == "auto_assign" else "centerness"
        table.append(Rename(f"head.{ours}.*", f"bbox_head.{quality}.*"))
        table.append(Rename("head.scales.#.scale", "bbox_head.scales.#.scale"))
    if method == "auto_assign":
        table.append(Rename("mu", "bbox_head.center_prior.mean"))
        table.append(Rename("sigma", "bbox_head.center_prior.sigma"))
    return table


def _mmdet_method(names: Iterable[str]) -> str:
    names = set(names)
    if "bbox_head.center_prior.mean" in names:
        return "auto_assign"
    if "bbox_head.atss_cls.weight" in names:
        return "atss"
    return "fcos" if "bbox_head.conv_centerness.weight" in names else "retinanet"


MMDET = Layout(
    "mmdet",
    "mmdetection",
    ("bbox_head.", "neck.lateral_convs."),
    _mmdet_rules,
    _mmdet_method,
    dropped=("backbone.fc.", "data_preprocessor.", "ema_"),
    two_stage=("neck.lateral_convs.3.", "rpn_head.", "roi_head."),
    ratio_major=True,
)


# -- maskrcnn-benchmark: the code of the authors of FreeAnchor, ATSS and FCOS ----------------------


def _mrcnn_rules(method: str, norm: bool) -> list[Rename]:
    body = "backbone.body."
    deformable = [
        Rename(f"{OURS}res{s}.#.conv2.weight", f"{body}layer{s - 1}.#.conv2.conv.weight")
        for s in range(2, 6)
    ]
    table = resnet(OURS, body, stem="stem.", offset="conv2.offset") + deformable
    fpn = "backbone.fpn."
    inner, layer = ([f"{fpn}fpn_{kind}{i}" for i in (2, 3, 4)] for kind in ("inner", "layer"))
    table += _fpn(inner, layer, f"{fpn}top_blocks.p6", f"{fpn}top_blocks.p7")
    table += _towers(_sequence("rpn.head.{}_tower", norm), norm)
    ours = ["head.cls_score", "head.bbox_pred", "head.centerness"]
    table += modules(ours, ["rpn.head.cls_logits", "rpn.head.bbox_pred", "rpn.head.centerness"])
    table.append(Rename("head.scales.#.scale", "rpn.head.scales.#.scale"))
    return table


def _by_quality(name: str, names: Iterable[str]) -> str:
    """Return "fcos" if the third predictor of FCOS and ATSS, `name`, is present."""
    return "fcos" if name in set(names) else "retinanet"


MASKRCNN_BENCHMARK = Layout(
    "maskrcnn_benchmark",
    "maskrcnn-benchmark",
    ("rpn.head.cls_tower.", "backbone.body.stem.", "backbone.fpn.fpn_inner"),
    _mrcnn_rules,
    partial(_by_quality, "rpn.head.centerness.weight"),
    dropped=("rpn.anchor_generator.",),
    two_stage=("backbone.fpn.fpn_inner1.", "roi_heads."),
    ratio_major=True,
)


# -- detectron2 ------------------------------------------------------------------------------------


def _detectron2_rules(method: str, norm: bool) -> list[Rename]:
    """Return a table in which only the centerness has another name than in cvpods."""
    table = [Rename(f"{name}.*", f"{name}.*") for name in ("backbone", "head.scales")]
    table += _towers(_sequence("head.{}_subnet", norm), norm)
    ours = ["head.cls_score", "head.bbox_pred", "head.centerness"]
    return table + modules(ours, ["head.cls_score", "head.bbox_pred", "head.ctrness"])


DETECTRON2 = Layout(
    "detectron2",
    "detectron2",
    ("pixel_mean", "head.ctrness."),
    _detectron2_rules,
    partial(_by_quality, "head.ctrness.weight"),
    dropped=("pixel_mean", "pixel_std", "anchor_generator."),
    two_stage=("backbone.fpn_lateral2.", "proposal_generator.", "roi_heads."),
)


# -- torchvision's detectors -----------------------------------------------------------------------


def _torchvision_rules(method: str, norm: bool) -> list[Rename]:
    sides = {"cls": "head.classification_head", "bbox": "head.regression_head"}

    def tower(name: str, i: int) -> tuple[str, str]:
        if method == "fcos":
            return f"{sides[name]}.conv.{3 * i}", f"{sides[name]}.conv.{3 * i + 1}"
        return f"{sides[name]}.conv.{i}.0", f"{sides[name]}.conv.{i}.1"

    fpn = "backbone.fpn."
    inner, layer = ([f"{fpn}{kind}_blocks.{i}.0" for i in range(3)] for kind in ("inner", "layer"))
    table = resnet(OURS, "backbone.body.")
    table += _fpn(inner, layer, f"{fpn}extra_blocks.p6", f"{fpn}extra_blocks.p7")
    table += _towers(tower, norm)
    ours = ["head.cls_score", "head.bbox_pred", "head.centerness"]
    theirs = [f"{sides['cls']}.cls_logits"]
    theirs += [f"{sides['bbox']}.bbox_reg", f"{sides['bbox']}.bbox_ctrness"]
    return table + modules(ours, theirs)


TORCHVISION = Layout(
    "torchvision",
    "torchvision",
    ("head.classification_head.", "backbone.fpn.inner_blocks."),
    _torchvision_rules,
    partial(_by_quality, "head.regression_head.bbox_ctrness.weight"),
    two_stage=("backbone.fpn.inner_blocks.3.", "rpn.", "roi_heads."),
    ratio_major=True,
)

# -- this project, and cvpods ----------------------------------------------------------------------


def _own_rules(method: str, norm: bool) -> list[Rename]:
    return [Rename("*", "*")]


def own_method(names: Iterable[str]) -> str:
    """Return the method that the predictors of this project's weights reveal.

    FeatureAlign counts as AutoAssign: the two differ only in the shape of mu.
    """
    names = set(names)
    if "head.obj_score.weight" in names:
        return "auto_assign"
    return "fcos" if "head.centerness.weight" in names else "retinanet"


CVPODS = Layout("cvpods", "cvpods", ("backbone.bottom_up.",), _own_rules, own_method)

# The order matters: most of detectron2's names are also cvpods' names.
LAYOUTS = {
    layout.name: layout for layout in (MMDET, MASKRCNN_BENCHMARK, TORCHVISION, DETECTRON2, CVPODS)
}


def recognise(names: Iterable[str]) -> Layout | None:
    """Return the layout that the names of a file reveal; None if no layout has such names.

    A backbone alone has no layout.
    """
    names = list(names)
    for layout in LAYOUTS.values():
        if any(name.startswith(layout.signs) for name in names):
            return layout
    return None
