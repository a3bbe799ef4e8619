"""The files of pods_demo: what it reads, and where it writes."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from cvpods.utils.video import is_camera, is_video

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def find_sources(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files, the images and videos of folders, what patterns match, and cameras; in order.

    Returns:
        the sources, each once, and those of `inputs` that name nothing.
    """
    sources: list[str] = []
    missing: list[str] = []
    for text in inputs:
        path = Path(text).expanduser()
        if is_camera(text):
            found = [text]
        elif path.is_file():
            found = [str(path)]
        elif path.is_dir():
            found = sorted(str(p) for p in path.iterdir() if _is_medium(p))
        else:
            found = sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        sources += found
        missing += [] if found else [text]
    return list(dict.fromkeys(sources)), missing


def _is_medium(path: Path) -> bool:
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in IMAGE_SUFFIXES or is_video(str(path)))


class OutputNames:
    """One name per source in the output folder: its own, with a number where that is taken.

    PNG stays PNG, videos become mp4, everything else JPEG. Pictures of an earlier run are
    replaced, but nothing in a folder that a source lies in.
    """

    def __init__(self, folder: Path, sources: Iterable[str]) -> None:
        self.folder = folder
        files = [Path(source).resolve() for source in sources if not is_camera(source)]
        self._keeps_files = folder.resolve() in {file.parent for file in files}
        self._stems: set[str] = set()

    def __call__(self, source: str) -> Path:
        stem = source.replace(":", "") if is_camera(source) else Path(source).stem
        suffix = ".mp4" if is_video(source) else ".png" if _is_png(source) else ".jpg"
        for number in itertools.count(1):
            name = stem if number == 1 else f"{stem}_{number}"
            path = self.folder / (name + suffix)
            exists = path.exists() or path.with_suffix(".json").exists()
            if name not in self._stems and not (exists and self._keeps_files):
                break
        self._stems.add(name)
        return path


def _is_png(source: str) -> bool:
    return Path(source).suffix.lower() == ".png"
