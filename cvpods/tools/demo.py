"""pods_demo: draw an experiment's detections on images, videos or a camera's pictures."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from PIL import Image
from tqdm import tqdm

from cvpods.checkpoint.origin import UNKNOWN, Origin, origin_of
from cvpods.configs import BaseConfig
from cvpods.data import build_dataset
from cvpods.data.detection_utils import read_image
from cvpods.engine.class_names import class_names_of, class_order
from cvpods.evaluation.score_thresholds import ScoreThreshold, best_score_thresholds
from cvpods.structures import Instances
from cvpods.tools.common import load_config, make_parser, reporting_errors, typed_weights
from cvpods.tools.demo_files import OutputNames, find_sources
from cvpods.tools.predictor import Predictor
from cvpods.tools.results import choose_results
from cvpods.utils.errors import ConfigError, DataError
from cvpods.utils.files import read_text
from cvpods.utils.logger import is_terminal
from cvpods.utils.video import VideoReader, VideoWriter, is_camera, is_video
from cvpods.utils.visualize import draw_boxes

PER_CLASS = "per-class"
DEFAULT_SCORE = 0.5


def score_thresholds(
    args: argparse.Namespace, config: Any, origin: Origin = UNKNOWN
) -> dict[str, float] | float:
    """Return the least score that is drawn: one for all, or one per class name of the model.

    Args:
        origin: of the weights; their own results are preferred to others'.

    Raises:
        ClassMismatch: the weights' classes have other names than the data set's.
        ConfigError: --score is neither a number nor "per-class".
        DataError: the results that per-class thresholds come from are missing or unusable.
    """
    if args.score != PER_CLASS:
        return parse_score(args.score)
    results = _results_file(args, config, origin.sha256)
    dataset = build_dataset(config, config.DATASETS.TEST[:1], is_train=False).datasets[0]
    best = _best_scores(results, dataset)
    for name, found in best.items():
        logger.info(
            f"{name}: score >= {found.score:.3f} (about F {found.f_measure:.2f}, precision "
            f"{found.precision:.2f}, recall {found.recall:.2f})"
        )
    others = len(dataset.meta["thing_classes"]) - len(best)
    if others:
        logger.info(f"{others} classes without a detection that finds one: {DEFAULT_SCORE}")
    names = class_names_of(dataset.meta)
    by_position = config.TEST.CLASSES_BY_POSITION
    class_order(origin.class_names, names, dataset.name, by_position)  # refuses other names
    if by_position and len(origin.class_names) == len(names):
        of_model = dict(zip(names, origin.class_names, strict=True))
        return {of_model[name]: found.score for name, found in best.items()}
    return {name: found.score for name, found in best.items()}


def parse_score(text: str) -> float:
    """Return the least score that --score gives for all classes.

    Raises:
        ConfigError: it is not a number in 0 ... 1.
    """
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 1:
        raise ConfigError(f"--score must be in 0 ... 1, or {PER_CLASS}; got {text!r}.")
    return score


def _results_file(args: argparse.Namespace, config: Any, sha256: str) -> Path:
    """Return --results, or what pods_test has left for the first test data set.

    Raises:
        DataError: see choose_results().
    """
    first = next(iter(config.DATASETS.TEST), "")
    try:
        chosen = choose_results(config, first, args.results, sha256)
    except DataError as error:
        raise DataError(
            f"--score {PER_CLASS} needs results on the test data set. {error}"
        ) from None
    made_of = chosen.provenance.get("weights", {}).get("sha256", "")
    if sha256 and made_of and made_of != sha256:
        logger.warning(f"The scores per class come from results of other weights: {chosen}.")
    return chosen.path


def _best_scores(path: Path, dataset: Any) -> dict[str, ScoreThreshold]:
    ground_truth = dataset.coco_ground_truth()
    if ground_truth is None:
        raise DataError(f"{dataset.name!r} has no annotations to compute thresholds from.")
    try:
        results = json.loads(read_text(path))
        best = best_score_thresholds(ground_truth, results) if isinstance(results, list) else {}
    except (ValueError, KeyError, IndexError, TypeError, AssertionError) as error:
        raise DataError(f"{path} holds no results for {dataset.name!r}: {error!r}.") from error
    if not best:
        raise DataError(f"{path} holds no detection that finds an object of {dataset.name!r}.")
    return best


class Demo:
    """Detects, draws and writes, source by source.

    Args:
        predictor: finds the objects.
        thresholds: least score, for all or per class name (others: DEFAULT_SCORE).
        save_json: write the detections beside each picture.
    """

    def __init__(
        self, predictor: Predictor, thresholds: dict[str, float] | float, save_json: bool = False
    ) -> None:
        self.predictor = predictor
        self.save_json = save_json
        names = predictor.class_names
        if isinstance(thresholds, dict):
            least = [thresholds.get(name, DEFAULT_SCORE) for name in names]
        else:
            least = [thresholds] * len(names)
        self.least = torch.tensor(least)

    def detect(self, image: np.ndarray) -> tuple[Instances, float]:
        """Detections in an RGB image (H, W, 3) worth showing, and the seconds that it took."""
        start = time.perf_counter()
        found = self.predictor(image)
        seconds = time.perf_counter() - start
        return found[found.scores >= self.least[found.pred_classes]], seconds

    def draw(self, image: np.ndarray, found: Instances) -> np.ndarray:
        """The image with its detections, the best on top."""
        found = found[torch.arange(len(found)).flip(0)]
        drawn = draw_boxes(
            torch.from_numpy(image).permute(2, 0, 1),
            found.pred_boxes.tensor,
            found.pred_classes.tolist(),
            self.predictor.class_names,
            found.scores.tolist(),
        )
        return drawn.permute(1, 2, 0).numpy()

    def image(self, source: str, output: Path) -> None:
        image = read_image(source, "RGB", **getattr(self.predictor, "reading", {}))
        found, seconds = self.detect(image)
        _save_image(self.draw(image, found), output)
        if self.save_json:
            self._write_json(output, source, image, {"detections": self.describe(found)})
        logger.info(f"{source}: {len(found)} objects in {seconds:.3f} s -> {output}")

    def video(self, source: str, output: Path, max_frames: int | None = None) -> None:
        """Until the end, or max_frames; a camera until Ctrl-C. What was seen is written anyway."""
        total, frames, frame = 0.0, [], None
        with VideoReader(source) as reader, VideoWriter(output, reader.rate) as writer:
            known = max_frames or reader.num_frames or None
            bar = tqdm(reader, desc=source, total=known, disable=not is_terminal())
            try:
                for frame in bar:
                    found, seconds = self.detect(frame)
                    total += seconds
                    writer.write(self.draw(frame, found))
                    frames.append(self.describe(found))
                    if len(frames) == max_frames:
                        break
            except KeyboardInterrupt:
                if not is_camera(source):
                    raise
                logger.info("Stopped by Ctrl-C.")
            finally:
                if self.save_json and frame is not None:
                    self._write_json(output, source, frame, {"frames": frames})
        if not frames:
            output.unlink(missing_ok=True)
            raise DataError(f"{source} gave no frame.")
        mean = total / len(frames)
        logger.info(f"{source}: {len(frames)} frames, {mean:.3f} s each -> {output}")

    def describe(self, found: Instances) -> list[dict[str, Any]]:
        """[{"class", "score", "box": [x1, y1, x2, y2] in pixels of the image}]."""
        columns = (found.pred_classes, found.scores, found.pred_boxes.tensor)
        return [
            {
                "class": self.predictor.class_names[label],
                "score": round(score, 4),
                "box": [round(value, 2) for value in box],
            }
            for label, score, box in zip(*(c.tolist() for c in columns), strict=True)
        ]

    def _write_json(self, output: Path, source: str, image: np.ndarray, content: dict) -> None:
        height, width = image.shape[:2]
        record = {"source": source, "height": height, "width": width, **content}
        with _writing(output.with_suffix(".json")) as path:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _save_image(image: np.ndarray, output: Path) -> None:
    with _writing(output) as path:
        Image.fromarray(image).save(path, quality=92)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    try:
        yield path
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error


def split_overrides(args: argparse.Namespace) -> None:
    """Give back the KEY VALUE pairs that stand behind --input, which argparse takes for files."""
    groups = BaseConfig()  # keys are MODEL.WEIGHTS, SEED, ...
    for index, text in enumerate(args.input):
        if text.partition(".")[0] in groups and not Path(text).exists():
            args.opts = args.input[index:] + args.opts
            args.input = args.input[:index]
            break
    if not args.input:
        raise ConfigError("--input names nothing; give files, a folder, a pattern or 'camera'.")


def demo(args: argparse.Namespace) -> list[str]:
    """Run over all sources; returns those that could not be used."""
    split_overrides(args)
    if args.max_frames is not None and args.max_frames < 1:
        raise ConfigError(f"--max-frames must be at least 1, got {args.max_frames}.")
    if args.score != PER_CLASS:
        parse_score(args.score)  # before weights are loaded
    config, build_model = load_config(args)
    sources, bad = find_sources(args.input)
    for text in bad:
        logger.error(f"Skipped: {text} is no file, no folder with images, and no pattern of files.")
    if not sources:
        return bad
    weights = typed_weights(config, args.opts)
    predictor = Predictor.from_config(config, build_model, weights)
    thresholds = score_thresholds(args, config, origin_of(getattr(predictor, "model", None)))
    folder = Path(args.output or Path(config.OUTPUT_DIR) / "demo")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output {folder} cannot be made: {error}.") from error
    names = OutputNames(folder, sources)
    runner = Demo(predictor, thresholds, args.json)
    for source in tqdm(sources, desc="demo", disable=len(sources) < 2 or not is_terminal()):
        try:
            if is_video(source):
                runner.video(source, names(source), args.max_frames)
            else:
                runner.image(source, names(source))
        except DataError as error:
            logger.error(f"Skipped: {error}")
            bad.append(source)
    return bad


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of pods_demo."""
    parser = make_parser(
        "Draw detections on images, videos or a camera's pictures.", launches=False
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files, folders, patterns ('shots/*.jpg'), videos, 'camera' or 'camera:1'",
    )
    parser.add_argument("--output", help="folder of the pictures (OUTPUT_DIR/demo)")
    parser.add_argument(
        "--score",
        default=str(DEFAULT_SCORE),
        help="least score that is drawn, or 'per-class': for each class the one of the best "
        "F-measure on the test data set's results (%(default)s)",
    )
    parser.add_argument(
        "--results",
        help="what per-class scores come from (OUTPUT_DIR/inference/coco_instances_results.json)",
    )
    parser.add_argument("--json", action="store_true", help="write the detections as json too")
    parser.add_argument("--max-frames", type=int, help="of each video; cameras run until Ctrl-C")
    args = parser.parse_intermixed_args(argv)
    with reporting_errors():
        bad = demo(args)
    if bad:
        print(f"error: {len(bad)} not used: {', '.join(bad)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
