"""The files of pods_demo: what it reads, and where it writes."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from cvpods.utils.errors import DataError
from cvpods.utils.video import is_camera, is_video

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def find_sources(inputs: Sequence[str]) -> list[str]:
    """Files, the images and videos of folders, what patterns match, and cameras; in order.

    Raises:
        DataError: one names nothing.
    """
    sources: list[str] = []
    for text in inputs:
        path = Path(text).expanduser()
        if is_camera(text) or path.is_file():
            found = [text if is_camera(text) else str(path)]
        elif path.is_dir():
            found = sorted(str(p) for p in path.iterdir() if _is_medium(p))
        else:
            found = sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not found:
            raise DataError(
                f"--input {text}: no such file, no image in that folder, and no file of that "
                "pattern. A camera is 'camera' or 'camera:1'."
            )
        sources += found
    return list(dict.fromkeys(sources))


def _is_medium(path: Path) -> bool:
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in IMAGE_SUFFIXES or is_video(str(path)))


class OutputNames:
    """One name per source in the output folder: its own, with a number where it was given before.

    PNG stays PNG, videos become mp4, everything else JPEG. No source is ever overwritten.
    """

    def __init__(self, folder: Path, sources: Iterable[str]) -> None:
        self.folder = folder
        self._taken = {Path(source).resolve() for source in sources}
        self._stems: set[str] = set()

    def __call__(self, source: str) -> Path:
        stem = source.replace(":", "") if is_camera(source) else Path(source).stem
        suffix = ".mp4" if is_video(source) else ".png" if _is_png(source) else ".jpg"
        for number in itertools.count(1):
            name = stem if number == 1 else f"{stem}_{number}"
            path = self.folder / (name + suffix)
            written = {path.resolve(), path.with_suffix(".json").resolve()}
            if name not in self._stems and not written & self._taken:
                break
        self._stems.add(name)
        return path


def _is_png(source: str) -> bool:
    return Path(source).suffix.lower() == ".png"
