"""Conversion of other frameworks' weights to this project's names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from cvpods.checkpoint.matching import strip_wrappers
from cvpods.checkpoint.torchvision_names import rename_torchvision
from cvpods.utils.errors import CheckpointError
from cvpods_ext.convert import heads
from cvpods_ext.convert.layouts import LAYOUTS, Layout, recognise
from cvpods_ext.convert.network import expected_shapes

Shape: TypeAlias = tuple[int, ...]
# Prefixes of this project's tensors that are computed or counted, not learned.
NOT_LEARNED = ("anchor_generator.", "loss_normalizer")


@dataclass
class Conversion:
    """Converted weights, and a record of every tensor.

    "Source" is the given weights, "result" the converted ones.

    Args:
        weights: {name: tensor} of the result.
        layout: layout of the source: its name in LAYOUTS, or "backbone".
        method: method of the source, as far as its names reveal it.
        used: {name in the source: name in the result}.
        unused: shapes of source tensors that have no place in the network.
        dropped: names of source tensors that are not learned: anchors, pixel means.
        filled: {name in the result: value} of constants that the source does without.
        missing: shapes of the network's tensors that are neither in the source nor filled.
        checked: True if the result was compared with a network.
        notes: further changes, one sentence each.
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
        """True if no tensor is unused or missing.

        A detector of another framework must have been checked for that.
        """
        known = self.checked or self.layout in ("cvpods", "backbone")
        return known and not self.unused and not self.missing

    def describe(self, every: bool = True) -> str:
        """Return a report; with `every`, it has a line for each tensor that is used."""
        # This project's names do not distinguish ATSS from FCOS, or FreeAnchor from RetinaNet.
        method = "" if self.layout == "cvpods" else self.method
        lines = [f"layout: {self.layout} {method}".rstrip(), f"used: {len(self.used)}"]
        for old, new in self.used.items() if every else ():
            arrow = f"{old} -> {new}" if old != new else old
            lines.append(f"  {arrow} {tuple(self.weights[new].shape)}")
        lines += [f"  {name} = {value:g}, filled" for name, value in self.filled.items()]
        lines.append(f"unused: {len(self.unused)}")
        lines += [f"  {name} {shape}" for name, shape in self.unused.items()]
        unchecked = "not checked, because the network is unknown; name its experiment with --dir"
        lines.append(f"missing: {len(self.missing) if self.checked else unchecked}")
        lines += [f"  {name} {shape}" for name, shape in self.missing.items()]
        if self.dropped:
            lines.append(f"dropped, not learned: {', '.join(self.dropped)}")
        return "\n".join([*lines, *self.notes])

    def compare(self, shapes: Mapping[str, Shape]) -> None:
        """Record the missing and the unused tensors, given the shapes of a network's tensors."""
        self.checked = True
        self.missing = {
            name: shape
            for name, shape in shapes.items()
            if _is_learned(name)
            and (name not in self.weights or tuple(self.weights[name].shape) != shape)
        }
        for old, new in list(self.used.items()):
            shape = tuple(self.weights[new].shape)
            if _is_learned(new) and shapes.get(new) != shape:
                self.unused[old] = shape
                del self.weights[new], self.used[old]


def _is_learned(name: str) -> bool:
    return not (name.startswith(NOT_LEARNED) or name.endswith("num_batches_tracked"))


def convert(
    weights: Mapping[str, Tensor],
    source: str = "auto",
    shapes: Mapping[str, Shape] | None = None,
) -> Conversion:
    """Convert weights to this project's names.

    Args:
        weights: the tensors of a detector, or of a backbone alone.
        source: a name in LAYOUTS, or "auto".
        shapes: {name: shape} of the network's tensors; None derives them from the weights.

    Raises:
        CheckpointError: the weights do not have the layout, or no layout is recognised.
    """
    weights = strip_wrappers(weights)
    layout = recognise(weights) if source == "auto" else _choose_layout(source, weights)
    if layout is None:
        result = _convert_backbone(weights)
    else:
        try:
            result = _convert_detector(weights, layout)
        except (KeyError, IndexError, RuntimeError) as error:
            raise CheckpointError(
                f"These weights have names of {layout.title}, but not the parts and shapes of a "
                f"detector that this project can convert ({error})."
            ) from error
        shapes = shapes or expected_shapes(result.weights)
    if shapes is not None:
        result.compare(shapes)
    return result


def _choose_layout(name: str, weights: Mapping[str, Tensor]) -> Layout | None:
    """Return the layout of that name; None if the weights are a backbone alone."""
    if name not in LAYOUTS:
        names = ", ".join(["auto", *LAYOUTS])
        raise CheckpointError(f"The source must be one of {names}; got {name!r}.")
    layout = LAYOUTS[name]
    # detectron2's names are cvpods' names with a few exceptions, which a file may lack.
    signs = layout.signs + (LAYOUTS["cvpods"].signs if name == "detectron2" else ())
    if any(key.startswith(signs) for key in weights):
        return layout
    if {"conv1.weight", "stem.conv1.weight"} & set(weights):
        return None
    raise CheckpointError(
        f"These are not weights of {layout.title}: none of the {len(weights)} names starts with "
        f"{' or '.join(layout.signs)}. The first names are {_first_names(weights)}."
    )


def _first_names(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:4])


def _convert_detector(weights: Mapping[str, Tensor], layout: Layout) -> Conversion:
    if outer := next((name for name in weights if name.startswith(layout.two_stage)), None):
        raise CheckpointError(
            f"{outer} belongs to a pyramid that starts at P2, or to a two-stage detector. This "
            "project does not have such detectors."
        )
    result = _rename(weights, layout)
    if layout.name == "torchvision" and heads.keep_categories(result.weights):
        result.notes.append("The 80 categories of COCO were kept among torchvision's 91 classes.")
    if layout.ratio_major and heads.reorder_anchors(result.weights, to_ratio_major=False):
        result.notes.append("The order of anchors was changed to by size, then ratio.")
    added = heads.missing_constants(result.weights)
    result.weights |= added
    result.filled = {name: 1.0 if name.endswith(".scale") else 0.0 for name in added}
    return result


def _rename(weights: Mapping[str, Tensor], layout: Layout) -> Conversion:
    """Return the weights under this project's names, otherwise unchanged."""
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
        # mmdetection's scales of the levels have no dimension.
        result.weights[ours] = value.reshape(1) if ours.endswith(".scale") else value
        result.used[name] = ours
    renamed = heads.deformable_names(result.weights)
    result.weights = {renamed.get(name, name): value for name, value in result.weights.items()}
    result.used = {theirs: renamed.get(ours, ours) for theirs, ours in result.used.items()}
    return result


def _has_norms(layout: Layout, method: str, names: Iterable[str]) -> bool:
    """Return True if the first norm of a tower is among the names."""
    # Index 1 is the first norm of a tower, or the first relu of a tower without norms.
    first = ("head.cls_subnet.1.", "head.bbox_subnet.1.")
    table = [rule for rule in layout.rules(method, True) if rule.ours.startswith(first)]
    if layout.name == "cvpods":
        return any(name.startswith(first) for name in names)
    return any(rule.to_ours(name) for name in names for rule in table)


def _convert_backbone(weights: Mapping[str, Tensor]) -> Conversion:
    renamed = rename_torchvision(weights)
    if "stem.conv1.weight" not in renamed:
        raise CheckpointError(
            f"The weights are not recognised: their {len(weights)} names, such as "
            f"{_first_names(weights) or '(none)'}, belong neither to a detector of "
            f"{', '.join(LAYOUTS)} nor to a ResNet of torchvision, detectron2 or MSRA."
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
