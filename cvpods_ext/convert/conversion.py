"""Weights of other frameworks under this project's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cvpods.checkpoint.matching import strip_wrappers
from cvpods.checkpoint.torchvision_names import rename_torchvision
from cvpods.utils.errors import CheckpointError
from cvpods_ext.convert.layouts import LAYOUTS, MAX_CONVS, Layout, recognise
from cvpods_ext.convert.network import expected_shapes

Shape = tuple[int, ...]
# Anchors of a location whose order differs between frameworks: 3 sizes x 3 ratios.
NUM_SIZES = NUM_RATIOS = 3
# Ids up to 90 that are no category of COCO: torchvision's 91 classes count through all.
_NO_CATEGORY = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


# Of our own: made, not learned.
NOT_LEARNED = ("anchor_generator.", "loss_normalizer")


@dataclass
class Conversion:
    """Converted weights, and what became of every tensor.

    Args:
        weights: {name: tensor} in the layout asked for.
        layout: of the source: its name in LAYOUTS, or "backbone".
        method: of the source, as far as its names tell.
        used: {name in the source: name in the result}.
        unused: of the source, without a place in the network; with shapes.
        dropped: of the source, nothing learned: anchors, pixel means.
        filled: of the result, not in the source, which does without: {name: value}.
        missing: of the network, neither in the source nor filled; with shapes.
        checked: whether it is known what the network needs.
        notes: what else was done.
    """

    weights: dict[str, Tensor]
    layout: str
    method: str = ""
    used: dict[str, str] = field(default_factory=dict)
    unused: dict[str, Shape] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    filled: dict[str, float] = field(default_factory=dict)
    missing: dict[str, Shape] = field(default_factory=dict)
    checked: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Nothing is left over or missing, as far as that is known; of another framework's
        detector it must be."""
        known = self.checked or self.layout in ("cvpods", "backbone")
        return known and not self.unused and not self.missing

    def describe(self, every: bool = True) -> str:
        """A report; with `every`, a line for each tensor that is used."""
        # Names here do not tell ATSS from FCOS, or FreeAnchor from RetinaNet.
        method = "" if self.layout == "cvpods" else self.method
        lines = [f"layout: {self.layout} {method}".rstrip(), f"used: {len(self.used)}"]
        for old, new in self.used.items() if every else ():
            arrow = f"{old} -> {new}" if old != new else old
            lines.append(f"  {arrow} {tuple(self.weights[new].shape)}")
        lines += [f"  {name} = {value:g}, filled" for name, value in self.filled.items()]
        lines.append(f"unused: {len(self.unused)}")
        lines += [f"  {name} {shape}" for name, shape in self.unused.items()]
        unknown = "not checked: of no network that is known; --dir names one"
        lines.append(f"missing: {len(self.missing) if self.checked else unknown}")
        lines += [f"  {name} {shape}" for name, shape in self.missing.items()]
        if self.dropped:
            lines.append(f"dropped, nothing learned: {', '.join(self.dropped)}")
        return "\n".join([*lines, *self.notes])

    def compare(self, shapes: Mapping[str, Shape]) -> None:
        """Say what is missing, and what is of no use, in a network with these tensors."""
        self.checked = True
        self.missing = {
            name: shape
            for name, shape in shapes.items()
            if not (name.startswith(NOT_LEARNED) or name.endswith("num_batches_tracked"))
            and (name not in self.weights or tuple(self.weights[name].shape) != shape)
        }
        for old, new in list(self.used.items()):
            wanted = shapes.get(new)
            made = new.startswith(NOT_LEARNED) or new.endswith("num_batches_tracked")
            if made or wanted == tuple(self.weights[new].shape):
                continue
            self.unused[old] = tuple(self.weights.pop(new).shape)
            del self.used[old]


def convert(
    weights: Mapping[str, Tensor],
    source: str = "auto",
    shapes: Mapping[str, Shape] | None = None,
) -> Conversion:
    """Weights under this project's names.

    Args:
        weights: of a detector, or of a backbone alone.
        source: "auto", or a name of LAYOUTS.
        shapes: {name: shape} that the network must have; None: as the weights themselves suggest.

    Raises:
        CheckpointError: not of that layout, or of none that is known.
    """
    weights = strip_wrappers(weights)
    layout = recognise(weights) if source == "auto" else _layout(source, weights)
    if layout is None:
        result = _convert_backbone(weights)
    else:
        try:
            result = _rename(weights, layout)
            _fill(result)
        except (KeyError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"These have names of {layout.title}, but not the parts or shapes of one of its "
                f"detectors that are known here ({error})."
            ) from error
        shapes = shapes or expected_shapes(result.weights)
    if shapes is not None:
        result.compare(shapes)
    return result


def _layout(name: str, weights: Mapping[str, Tensor]) -> Layout | None:
    """The layout of that name; None where the weights are those of a backbone alone."""
    if name not in LAYOUTS:
        raise CheckpointError(f"No layout {name!r}; there are auto, {', '.join(LAYOUTS)}.")
    layout = LAYOUTS[name]
    # detectron2's names are cvpods' but for a few, which a file need not have.
    signs = layout.signs + (LAYOUTS["cvpods"].signs if name == "detectron2" else ())
    if any(key.startswith(signs) for key in weights):
        return layout
    if {"conv1.weight", "stem.conv1.weight"} & set(weights):
        return None
    raise CheckpointError(
        f"This is no file of {layout.title}: none of its {len(weights)} names begins with "
        f"{' or '.join(layout.signs)}; they are like {_examples(weights)}."
    )


def _examples(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:4])


def _rename(weights: Mapping[str, Tensor], layout: Layout) -> Conversion:
    if outer := next((name for name in weights if name.startswith(layout.two_stage)), None):
        raise CheckpointError(
            f"{outer} is of a pyramid from P2, or of two stages: such detectors have no form here."
        )
    method = layout.method(weights)
    table = layout.rules(method, _has_norms(layout, method, weights))
    result = Conversion({}, layout.name, method)
    for name, value in weights.items():
        if name.startswith(layout.dropped):
            result.dropped.append(name)
            continue
        ours = next((o for rule in table if (o := rule.to_ours(name))), None)
        if ours is None:
            result.unused[name] = tuple(value.shape)
            continue
        # mmdetection's factors of the levels have no dimension.
        result.weights[ours] = value.reshape(1) if ours.endswith(".scale") else value
        result.used[name] = ours
    _name_deformable(result)
    if layout.name == "torchvision":
        _keep_categories(result)
    if layout.ratio_major and reorder_anchors(result.weights, to_ratio_major=False):
        result.notes.append("Anchors of a location: from by ratio, then size, to by size.")
    return result


def _has_norms(layout: Layout, method: str, names: Iterable[str]) -> bool:
    """Whether there is the first norm of a tower among the names, by the table with norms."""
    # Without norms, indices of ours are 0, 2, 4, 6.
    first = ("head.cls_subnet.1.", "head.bbox_subnet.1.")
    table = [rule for rule in layout.rules(method, True) if rule.ours.startswith(first)]
    if layout.name == "cvpods":
        return any(name.startswith(first) for name in names)
    return any(rule.to_ours(name) for name in names for rule in table)


def _name_deformable(result: Conversion) -> None:
    """mmdetection's X.weight and X.conv_offset of a tower's last convolution are X.conv.weight and
    X.offset here."""
    renamed = {}
    for name in result.weights:
        if name.startswith("head.") and ".conv_offset." in name:
            renamed[name] = name.replace(".conv_offset.", ".offset.")
            module = name.partition(".conv_offset.")[0]
            renamed |= {f"{module}.{leaf}": f"{module}.conv.{leaf}" for leaf in ("weight", "bias")}
    result.weights = {renamed.get(name, name): value for name, value in result.weights.items()}
    result.used = {theirs: renamed.get(ours, ours) for theirs, ours in result.used.items()}


def _num_anchors(weights: Mapping[str, Tensor]) -> int:
    """Anchors of a location; 0 where there is no head."""
    boxes = weights.get("head.bbox_pred.weight")
    return 0 if boxes is None else boxes.shape[0] // 4


def reorder_anchors(weights: dict[str, Tensor], *, to_ratio_major: bool) -> bool:
    """Put the predictors of 9 anchors into size-major order, or back; whether there was anything.

    Raises:
        CheckpointError: another number of anchors, whose order is not known.
    """
    anchors = _num_anchors(weights)
    if anchors < 2:
        return False
    if anchors != NUM_SIZES * NUM_RATIOS:
        raise CheckpointError(
            f"Predictors of {anchors} anchors cannot be converted: of 1, or of 3 sizes x 3 ratios, "
            "the order is known."
        )
    order = torch.arange(anchors).view(NUM_RATIOS, NUM_SIZES).T.reshape(-1)
    if to_ratio_major:
        order = order.argsort()
    for part in ("cls_score", "bbox_pred"):
        for leaf in ("weight", "bias"):
            name = f"head.{part}.{leaf}"
            weights[name] = weights[name].unflatten(0, (anchors, -1))[order].flatten(0, 1)
    return True


def _keep_categories(result: Conversion) -> None:
    """torchvision's 91 classes are COCO's category ids; keep the 80 that are categories."""
    anchors = _num_anchors(result.weights)
    if not anchors or result.weights["head.cls_score.bias"].shape[0] != 91 * anchors:
        return
    kept = [index for index in range(91) if index not in _NO_CATEGORY]
    for leaf in ("weight", "bias"):
        name = f"head.cls_score.{leaf}"
        classes = result.weights[name].unflatten(0, (anchors, -1))
        result.weights[name] = classes[:, kept].flatten(0, 1)
    result.notes.append("Classes: the 80 of COCO among torchvision's 91.")


def _fill(result: Conversion) -> None:
    """What other heads do without: biases before a norm (0), factors of the levels (1)."""
    weights = result.weights
    for tower in ("cls", "bbox"):
        for index in range(0, 3 * MAX_CONVS, 3):
            module = f"head.{tower}_subnet.{index}"
            norm = weights.get(f"head.{tower}_subnet.{index + 1}.weight")
            if f"{module}.conv.weight" in weights:  # deformable
                module = f"{module}.conv"
            name = f"{module}.bias"
            if norm is not None and f"{module}.weight" in weights and name not in weights:
                weights[name], result.filled[name] = torch.zeros_like(norm), 0.0
    has_factors = any(name.startswith("head.scales.") for name in weights)
    if "head.centerness.weight" in weights and not has_factors:
        for level in range(5):
            name = f"head.scales.{level}.scale"
            weights[name], result.filled[name] = torch.ones(1), 1.0


def _convert_backbone(weights: Mapping[str, Tensor]) -> Conversion:
    renamed = rename_torchvision(weights)
    if "stem.conv1.weight" not in renamed:
        raise CheckpointError(
            f"Nothing known is among the {len(weights)} names (like {_examples(weights)}): no "
            f"detector of {', '.join(LAYOUTS)}, no ResNet of torchvision, detectron2 or MSRA."
        )
    result = Conversion({}, "backbone")
    for (name, value), ours in zip(weights.items(), renamed, strict=True):
        if ours.startswith(("fc.", "fc1000.", "linear.")):
            result.dropped.append(name)
        elif ours.startswith(("stem.", "res")):
            result.weights[ours], result.used[name] = value, ours
        else:
            result.unused[name] = tuple(value.shape)
    return result
