"""Work of pods_demo: detect, draw and write, source by source."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from loguru import logger
from PIL import Image
from tqdm import tqdm

from cvpods.checkpoint.origin import origin_of
from cvpods.configs import BaseConfig
from cvpods.data.detection_utils import read_image
from cvpods.structures import Instances
from cvpods.tools.demo import DEFAULT_SCORE
from cvpods.tools.demo_files import OutputNames, find_sources
from cvpods.tools.demo_scores import score_thresholds
from cvpods.tools.experiment import BuildModel
from cvpods.tools.predictor import Predictor
from cvpods.tools.weights import typed_weights
from cvpods.utils.errors import ConfigError, DataError
from cvpods.utils.logger import is_terminal
from cvpods.utils.video import VideoReader, VideoWriter, is_camera, is_video
from cvpods.utils.visualize import draw_boxes


class Demo:
    """Detector that draws on images and videos and writes them.

    Args:
        predictor: detects the objects.
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
        """Detect in an RGB image (H, W, 3); return what is worth drawing, and the seconds taken."""
        start = time.perf_counter()
        found = self.predictor(image)
        seconds = time.perf_counter() - start
        return found[found.scores >= self.least[found.pred_classes]], seconds

    def draw(self, image: np.ndarray, found: Instances) -> np.ndarray:
        """Return the image with its detections, the best on top."""
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
        """Draw on an image file and write it to `output`."""
        image = read_image(source, "RGB", **getattr(self.predictor, "reading", {}))
        found, seconds = self.detect(image)
        _save_image(self.draw(image, found), output)
        if self.save_json:
            self._write_json(output, source, image, {"detections": self.describe(found)})
        logger.info(f"{source}: {len(found)} objects in {seconds:.3f} s -> {output}")

    def video(self, source: str, output: Path, max_frames: int | None = None) -> None:
        """Draw on a video until its end or for max_frames, on a camera until Ctrl-C.

        The frames read so far are written in any case.
        """
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
        """Return [{"class", "score", "box": [x1, y1, x2, y2] in pixels of the image}]."""
        columns = (found.pred_classes, found.scores, found.pred_boxes.tensor)
        return [
            {
                "class": self.predictor.class_names[label],
                "score": round(score, 4),
                "box": [round(value, 2) for value in box],
            }
            for label, score, box in zip(*(c.tolist() for c in columns), strict=True)
        ]

    def _write_json(
        self, output: Path, source: str, image: np.ndarray, content: dict[str, Any]
    ) -> None:
        """Write the size of `image` and `content` beside the picture `output`."""
        height, width = image.shape[:2]
        record = {"source": source, "height": height, "width": width, **content}
        with _writing(output.with_suffix(".json")) as path:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _save_image(image: np.ndarray, output: Path) -> None:
    with _writing(output) as path:
        Image.fromarray(image).save(path, quality=92)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Turn an error of the system inside into DataError.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        yield path
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error}") from error


def draw_sources(
    args: argparse.Namespace, config: BaseConfig, build_model: BuildModel
) -> list[str]:
    """Draw on all sources of --input; return those that could not be used."""
    sources, bad = find_sources(args.input)
    for text in bad:
        logger.error(
            f"Skipped: {text} is not a file, a folder with images, or a pattern that matches files."
        )
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
