"""Drawing of alignment maps over an image, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from cvpods.utils.visualize import class_color
from cvpods_ext.analysis.alignment import Alignment

TITLES = {
    "classification": "classification",
    "regression": "regression quality",
    "auto_assign": "weight, AutoAssign",
    "feature_align": "weight, FeatureAlign",
}


class Objects(NamedTuple):
    """M objects of an image.

    Args:
        boxes: (M, 4) xyxy in pixels of the image.
        classes: (M,) int64.
        labels: M titles.
    """

    boxes: Tensor
    classes: Tensor
    labels: list[str]


class Block(NamedTuple):
    """Columns of one model.

    Args:
        name: title of the columns.
        fields: names of the Alignment fields that are drawn.
        maps: the maps of every object.
    """

    name: str
    fields: list[str]
    maps: list[Alignment]


def draw_alignment(image: np.ndarray, objects: Objects, blocks: Sequence[Block]) -> Figure:
    """Draw a row for each object: the image with its box, then the maps over its surroundings.

    A map's corner shows the level and the map's maximum; a cross marks the maximum. The colours of
    all maps of one kind in a row cover 0 to their common maximum, so that models and weights can be
    compared.

    Args:
        image: (H, W, 3) uint8 RGB.
    """
    columns = 1 + sum(len(block.fields) for block in blocks)
    rows = len(objects.boxes)
    figure = Figure(figsize=(2.4 * columns, 2.3 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for i, (box, label) in enumerate(zip(objects.boxes.tolist(), objects.labels, strict=True)):
        axes[i, 0].imshow(image)
        axes[i, 0].set_title(label, fontsize=9)
        _outline(axes[i, 0], box, class_color(int(objects.classes[i])))
        panels = [(block, field) for block in blocks for field in block.fields]
        for panel, (block, field) in zip(axes[i, 1:], panels, strict=True):
            top = max(
                float(getattr(b.maps[i], f).max()) for b, f in panels if _kind(f) == _kind(field)
            )
            above = f"{block.name}\n" if field == block.fields[0] else ""
            panel.set_title(above + TITLES[field] if i == 0 else "", fontsize=9)
            heat = getattr(block.maps[i], field).cpu().numpy()
            _draw_map(panel, image, heat, box, block.maps[i].level, top)
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
    return figure


def _kind(field: str) -> str:
    """Return the kind of a map; both weights are of one kind."""
    return field if field in ("classification", "regression") else "weight"


def _draw_map(
    axes: Axes, image: np.ndarray, heat: np.ndarray, box: list[float], level: str, top: float
) -> None:
    """Draw a map inside the box over the grey image, cropped to the surroundings of the box."""
    height, width = image.shape[:2]
    extent = (0, width, height, 0)
    axes.imshow(image.mean(axis=2), cmap="gray", extent=extent, vmin=0, vmax=255)
    largest = float(heat.max())
    if largest > 0:
        shown = axes.imshow(
            np.ma.masked_equal(heat, 0), cmap="inferno", alpha=0.75, extent=extent, vmin=0, vmax=top
        )
        shown.set_clip_path(_rectangle(box, transform=axes.transData))
        row, column = _peak(heat)
        scale = height / heat.shape[0], width / heat.shape[1]
        axes.plot(column * scale[1], row * scale[0], "+", color="cyan", markersize=8)
    _outline(axes, box, "white")
    margin = max(0.25 * max(box[2] - box[0], box[3] - box[1]), 4)
    axes.set_xlim(max(min(box[0], width) - margin, 0), min(max(box[2], 0) + margin, width))
    axes.set_ylim(min(max(box[3], 0) + margin, height), max(min(box[1], height) - margin, 0))
    text = f"{level}, max {largest:.2g}" if largest > 0 else "no location inside"
    axes.text(
        0.02, 0.02, text, transform=axes.transAxes, fontsize=8, color="white",
        bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "edgecolor": "none"},
    )  # fmt: skip


def _peak(heat: np.ndarray) -> tuple[float, float]:
    """Return the (row, column) of a map's maximum.

    A location of a coarse level covers many pixels, which all have the maximum. The result is then
    the pixel that is nearest to their mean.
    """
    best = np.argwhere(heat == heat.max()) + 0.5
    row, column = best[np.square(best - best.mean(axis=0)).sum(axis=1).argmin()]
    return float(row), float(column)


def _rectangle(box: list[float], **style: Any) -> Rectangle:
    left, top, right, bottom = box
    return Rectangle((left, top), right - left, bottom - top, **style)


def _outline(axes: Axes, box: list[float], color: str) -> None:
    axes.add_patch(_rectangle(box, fill=False, color=color, linewidth=1.5))
