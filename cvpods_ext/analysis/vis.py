"""pods_vis: figures of what a detector learns."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from loguru import logger
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from cvpods.data import build_dataset
from cvpods.data.detection_utils import read_image
from cvpods.structures import BoxMode
from cvpods.tools import Predictor
from cvpods.tools.common import load_config, make_parser, reporting_errors
from cvpods.utils.errors import ConfigError, DataError
from cvpods.utils.visualize import class_color
from cvpods_ext.analysis.alignment import Alignment, alignment_maps
from cvpods_ext.modeling import FeatureAlign

TITLES = {
    "classification": "classification",
    "regression": "regression quality",
    "auto_assign": "weight, AutoAssign",
    "feature_align": "weight, FeatureAlign",
}


class Objects(NamedTuple):
    """boxes (M, 4) xyxy in pixels of the image, classes (M,), what to write beside each."""

    boxes: Tensor
    classes: Tensor
    labels: list[str]


class Block(NamedTuple):
    """The columns of one model: its name, which maps are shown, and the maps of every object."""

    name: str
    fields: list[str]
    maps: list[Alignment]


def alignment(args: argparse.Namespace) -> Path:
    """Write the figure: a row per object; its maps, for one or two models."""
    config, _ = load_config(args)
    image = read_image(args.input, "RGB")
    folder = Path(args.dir or ".")
    predictor = _predictor(args, folder, args.weights, args.opts)
    objects = _annotated(args, config) if args.truth else _detected(args, predictor, image)
    blocks = [_block(folder, predictor, image, objects, both=args.beside is None)]
    if args.beside:
        other = _predictor(args, args.beside, args.beside_weights)
        if other.class_names != predictor.class_names:
            raise ConfigError(
                f"{args.beside} knows other classes than {folder}: {other.class_names} and "
                f"{predictor.class_names}."
            )
        blocks.append(_block(Path(args.beside), other, image, objects, both=False))
    output = Path(args.output or Path(config.OUTPUT_DIR) / "alignment.png")
    output.parent.mkdir(parents=True, exist_ok=True)
    draw_alignment(image, objects, blocks).savefig(output, dpi=110)
    logger.info(f"{len(objects.boxes)} objects of {args.input}. Wrote {output}")
    return output


def _predictor(
    args: argparse.Namespace, folder: str | Path, weights: str | None, opts: Sequence[str] = ()
) -> Predictor:
    device = "cpu" if args.num_gpus == 0 else None
    opts = [*opts, "TEST.AUG.ENABLED", "False"]
    return Predictor.from_experiment(folder, weights, device=device, opts=opts)


def _detected(args: argparse.Namespace, predictor: Predictor, image: np.ndarray) -> Objects:
    found = predictor(image)
    found = found[found.scores >= args.score][: args.count]
    if not len(found):
        raise DataError(
            f"No object of score >= {args.score} in {args.input}: lower --score, or --truth for "
            "the annotated ones."
        )
    names = [predictor.class_names[c] for c in found.pred_classes]
    labels = [f"{n} {s:.2f}" for n, s in zip(names, found.scores.tolist(), strict=True)]
    return Objects(found.pred_boxes.tensor, found.pred_classes, labels)


def _annotated(args: argparse.Namespace, config: Any) -> Objects:
    """The first objects of the image as the experiment's test data set has them."""
    dataset = build_dataset(config, config.DATASETS.TEST[:1], is_train=False)
    wanted = Path(args.input).resolve()
    for sample in dataset.datasets[0].dataset_dicts:
        if Path(sample["file_name"]).resolve() == wanted:
            break
    else:
        raise DataError(f"--truth: {args.input} is no image of {config.DATASETS.TEST[0]!r}.")
    truth = sample["annotations"][: args.count]
    if not truth:
        raise DataError(f"--truth: {args.input} has no annotated object.")
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in truth]
    classes = [a["category_id"] for a in truth]
    names = dataset.meta.thing_classes
    return Objects(torch.tensor(boxes), torch.tensor(classes), [names[c] for c in classes])


def _block(
    folder: Path, predictor: Predictor, image: np.ndarray, objects: Objects, both: bool
) -> Block:
    """One model's maps; with `both`, the weights with and without the feature filter."""
    model = predictor.model
    inputs = predictor.prepare(torch.from_numpy(image).permute(2, 0, 1))
    scale = [n / o for n, o in zip(inputs["image"].shape[:0:-1], image.shape[1::-1], strict=True)]
    boxes = objects.boxes * torch.tensor(scale * 2)
    with predictor.autocast():
        images = model.preprocess_image([inputs])
        maps = alignment_maps(
            model, images, boxes.to(images.device), objects.classes.to(images.device)
        )
    own = "feature_align" if isinstance(model, FeatureAlign) else "auto_assign"
    weights = ["auto_assign", "feature_align"] if both else [own]
    return Block(folder.resolve().name, ["classification", "regression", *weights], maps)


def draw_alignment(image: np.ndarray, objects: Objects, blocks: Sequence[Block]) -> Figure:
    """A row per object: the image with its box, then the maps over its surroundings.

    Colours go from 0 to the map's maximum, which is written in its corner after the level shown.

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
        shown = iter(axes[i, 1:])
        for block in blocks:
            for field in block.fields:
                heat = getattr(block.maps[i], field).cpu().numpy()
                above = f"{block.name}\n" if field == block.fields[0] else ""
                title = above + TITLES[field] if i == 0 else ""
                _heat(next(shown), image, heat, box, title, block.maps[i].level)
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
    return figure


def _heat(
    axes: Any, image: np.ndarray, heat: np.ndarray, box: list[float], title: str, level: str
) -> None:
    """A map over the grey image, cut to the surroundings of the box."""
    height, width = image.shape[:2]
    extent = (0, width, height, 0)
    axes.imshow(image.mean(axis=2), cmap="gray", extent=extent, vmin=0, vmax=255)
    top = max(float(heat.max()), 1e-12)
    axes.imshow(
        np.ma.masked_equal(heat, 0), cmap="inferno", alpha=0.75, extent=extent, vmin=0, vmax=top
    )
    _outline(axes, box, "white")
    margin = max(0.25 * max(box[2] - box[0], box[3] - box[1]), 4)
    axes.set_xlim(max(box[0] - margin, 0), min(box[2] + margin, width))
    axes.set_ylim(min(box[3] + margin, height), max(box[1] - margin, 0))
    axes.set_title(title, fontsize=9)
    axes.text(
        0.02, 0.02, f"{level}, max {top:.2g}", transform=axes.transAxes, fontsize=8, color="white",
        bbox={"facecolor": "black", "alpha": 0.6, "pad": 1.5, "edgecolor": "none"},
    )  # fmt: skip


def _outline(axes: Any, box: list[float], color: str) -> None:
    left, top, right, bottom = box
    axes.add_patch(
        Rectangle((left, top), right - left, bottom - top, fill=False, color=color, linewidth=1.5)
    )


def _alignment_main(argv: Sequence[str]) -> None:
    parser = make_parser(
        "Classification, regression quality and training weight of objects, as heat maps: are "
        "they aligned? For experiments of AutoAssign and FeatureAlign.",
        launches=False,
    )
    parser.prog = "pods_vis alignment"
    parser.add_argument("--input", required=True, help="image")
    parser.add_argument("--weights", help="checkpoint (default: the newest in OUTPUT_DIR)")
    parser.add_argument("--beside", metavar="DIR", help="another experiment, shown beside it")
    parser.add_argument("--beside-weights", help="its checkpoint (default: its newest)")
    parser.add_argument("--truth", action="store_true", help="annotated objects, not detected ones")
    parser.add_argument("--count", type=int, default=4, help="objects (%(default)s)")
    parser.add_argument("--score", type=float, default=0.3, help="least score (%(default)s)")
    parser.add_argument("--output", help="picture (OUTPUT_DIR/alignment.png)")
    args = parser.parse_intermixed_args(argv)
    with reporting_errors():
        alignment(args)


FIGURES: dict[str, Callable[[Sequence[str]], None]] = {"alignment": _alignment_main}


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_vis."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in FIGURES:
        print(f"usage: pods_vis {{{','.join(FIGURES)}}} ... (each with --help)", file=sys.stderr)
        sys.exit(0 if argv and argv[0] in ("-h", "--help") else 2)
    FIGURES[argv[0]](argv[1:])


if __name__ == "__main__":
    main()
