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
        try:
            found = [text] if is_camera(text) else _files(text)
        except OSError:  # a folder that may not be read, a name that is too long
            found = []
        sources += found
        missing += [] if found else [text]
    return list(dict.fromkeys(sources)), missing


def _files(text: str) -> list[str]:
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # ~x where there is no user x
        path = Path(text)
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        return sorted(str(p) for p in path.iterdir() if _is_medium(p))
    return sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())


def _is_medium(path: Path) -> bool:
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in IMAGE_SUFFIXES or is_video(str(path)))


class OutputNames:
    """One name per source in the output folder: its own, with a number where that is taken.

    PNG stays PNG, videos become mp4, everything else JPEG. Pictures of an earlier run are
    replaced, but nothing in a folder that a source lies in, and neither links nor sources.
    """

    def __init__(self, folder: Path, sources: Iterable[str]) -> None:
        self.folder = folder
        files = [Path(source) for source in sources if not is_camera(source)]
        parents = {path.parent.resolve() for path in files}
        parents |= {path.resolve().parent for path in files}
        self._keeps_files = folder.resolve() in parents
        self._sources = {_identity(path) for path in files if path.exists()}
        self._stems: set[str] = set()

    def __call__(self, source: str) -> Path:
        stem = source.replace(":", "") if is_camera(source) else Path(source).stem
        suffix = ".mp4" if is_video(source) else ".png" if _is_png(source) else ".jpg"
        for number in itertools.count(1):
            name = stem if number == 1 else f"{stem}_{number}"
            path = self.folder / (name + suffix)
            written = (path, path.with_suffix(".json"))
            if name not in self._stems and not any(map(self._is_kept, written)):
                break
        self._stems.add(name)
        return path

    def _is_kept(self, path: Path) -> bool:
        if path.is_symlink() or not path.exists():
            return path.is_symlink()
        return self._keeps_files or _identity(path) in self._sources


def _identity(path: Path) -> tuple[int, int]:
    """The same for all links to a file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_png(source: str) -> bool:
    return Path(source).suffix.lower() == ".png"
