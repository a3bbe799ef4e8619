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
from cvpods.evaluation.evaluator import inference_mode
from cvpods.structures import BoxMode
from cvpods.tools import Predictor
from cvpods.tools.common import load_config, make_parser, reporting_errors
from cvpods.utils.errors import CheckpointError, ConfigError, DataError
from cvpods.utils.visualize import class_color
from cvpods_ext.analysis.alignment import Alignment, alignment_maps, check_model, own_weight

# Rows of a figure.
MAX_OBJECTS = 100
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
    _check(args)
    config, _ = load_config(args)
    output = _output(args.output, config)
    folder = Path(args.dir or ".")
    predictor = _predictor(args, folder, args.weights, args.opts)
    image = read_image(args.input, "RGB", **predictor.reading)
    objects = (
        _annotated(args, config, predictor.class_names)
        if args.truth
        else _detected(args, predictor, image)
    )
    blocks = [_block(folder, predictor, image, objects, both=args.beside is None)]
    if args.beside:
        other = _predictor(args, args.beside, args.beside_weights)
        _check_classes(args.beside, other.class_names, predictor.class_names)
        blocks.append(_block(Path(args.beside), other, image, objects, both=False))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        draw_alignment(image, objects, blocks).savefig(output, dpi=110)
    except (OSError, ValueError) as error:
        raise DataError(f"The picture cannot be written to {output}: {error}") from error
    logger.info(f"{len(objects.boxes)} objects of {args.input}. Wrote {output}")
    return output


def _check(args: argparse.Namespace) -> None:
    if not 1 <= args.count <= MAX_OBJECTS:
        raise ConfigError(f"--count is in 1 ... {MAX_OBJECTS}; got {args.count}.")
    if not 0 <= args.score <= 1:
        raise ConfigError(f"--score is in 0 ... 1; got {args.score}.")
    if args.beside_weights and not args.beside:
        raise ConfigError("--beside-weights needs --beside, the experiment that they belong to.")


def _check_classes(what: str, names: Sequence[str], expected: Sequence[str]) -> None:
    if list(names) != list(expected):
        raise ConfigError(
            f"{what} knows other classes than the model: {list(names)}, not {list(expected)}."
        )


def _output(given: str | None, config: Any) -> Path:
    """--output, a PNG unless it says otherwise; alignment.png in it, or in OUTPUT_DIR."""
    path = Path(given or config.OUTPUT_DIR)
    if given is None or path.is_dir():
        return path / "alignment.png"
    return path if path.suffix else path.with_suffix(".png")


def _predictor(
    args: argparse.Namespace, folder: str | Path, weights: str | None, opts: Sequence[str] = ()
) -> Predictor:
    device = "cpu" if args.num_gpus == 0 else None
    opts = [*opts, "TEST.AUG.ENABLED", "False"]
    try:
        predictor = Predictor.from_experiment(folder, weights, device=device, opts=opts)
    except CheckpointError as error:
        if weights is not None:
            raise
        flag = "--beside-weights" if folder == args.beside else "--weights"
        raise CheckpointError(f"{error} Here, {flag} x.pth names it.") from error
    check_model(predictor.model)
    return predictor


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


def _annotated(args: argparse.Namespace, config: Any, class_names: Sequence[str]) -> Objects:
    """The first objects of the image as the experiment's test data set has them."""
    dataset = build_dataset(config, config.DATASETS.TEST[:1], is_train=False)
    _check_classes(f"--truth: {config.DATASETS.TEST[0]!r}", dataset.meta.thing_classes, class_names)
    wanted = Path(args.input).resolve()
    for sample in dataset.datasets[0].dataset_dicts:
        if Path(sample["file_name"]).resolve() == wanted:
            break
    else:
        raise DataError(f"--truth: {args.input} is no image of {config.DATASETS.TEST[0]!r}.")
    # Crowds are no objects to train on.
    truth = [a for a in sample["annotations"] if not a.get("iscrowd", 0)][: args.count]
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
    with inference_mode(model), predictor.autocast():
        images = model.preprocess_image([inputs])
        maps = alignment_maps(
            model, images, boxes.to(images.device), objects.classes.to(images.device)
        )
    weights = ["auto_assign", "feature_align"] if both else [own_weight(model)]
    return Block(folder.resolve().name, ["classification", "regression", *weights], maps)


def draw_alignment(image: np.ndarray, objects: Objects, blocks: Sequence[Block]) -> Figure:
    """A row per object: the image with its box, then the maps inside it over its surroundings.

    The corner names the level shown and the map's maximum; the cross is where that is. Colours go
    from 0 to the maximum of a row's maps of one kind, so that models and weights compare.

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
            _heat(panel, image, heat, box, block.maps[i].level, top)
    for one in axes.flat:
        one.set(xticks=[], yticks=[])
    return figure


def _kind(field: str) -> str:
    """The two weights are of one kind."""
    return field if field in ("classification", "regression") else "weight"


def _heat(
    axes: Any, image: np.ndarray, heat: np.ndarray, box: list[float], level: str, top: float
) -> None:
    """A map in the box over the grey image, cut to the surroundings of the box."""
    height, width = image.shape[:2]
    extent = (0, width, height, 0)
    axes.imshow(image.mean(axis=2), cmap="gray", extent=extent, vmin=0, vmax=255)
    largest = float(heat.max())
    if largest > 0:
        shown = axes.imshow(
            np.ma.masked_equal(heat, 0), cmap="inferno", alpha=0.75, extent=extent, vmin=0, vmax=top
        )
        shown.set_clip_path(_rectangle(box, transform=axes.transData))
        # Of several best cells, as those of a coarse level, the one nearest to their middle.
        best = np.argwhere(heat == largest) + 0.5
        row, column = best[np.square(best - best.mean(axis=0)).sum(axis=1).argmin()]
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


def _rectangle(box: list[float], **style: Any) -> Rectangle:
    left, top, right, bottom = box
    return Rectangle((left, top), right - left, bottom - top, **style)


def _outline(axes: Any, box: list[float], color: str) -> None:
    axes.add_patch(_rectangle(box, fill=False, color=color, linewidth=1.5))


def _alignment_main(argv: Sequence[str]) -> None:
    parser = make_parser(
        "Classification, regression quality and training weight of objects, as heat maps: are "
        "they aligned? For experiments of AutoAssign and FeatureAlign.",
        launches=False,
    )
    parser.prog = "pods_vis alignment"
    parser.add_argument("--input", required=True, help="image")
    parser.add_argument("--weights", help="checkpoint (default: the newest in OUTPUT_DIR)")
    parser.add_argument(
        "--beside", metavar="DIR", help="another experiment beside it, without the overrides"
    )
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
        asked = bool(argv) and argv[0] in ("-h", "--help")
        usage = f"usage: pods_vis {{{','.join(FIGURES)}}} ... (each with --help)"
        print(usage, file=sys.stdout if asked else sys.stderr)
        sys.exit(0 if asked else 2)
    FIGURES[argv[0]](argv[1:])


if __name__ == "__main__":
    main()
