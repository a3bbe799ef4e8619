"""The files of pods_demo: what it reads, and where it writes."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from loguru import logger
from PIL import Image

from cvpods.utils.video import is_camera, is_video

# Pillow's formats of photographs and drawings; it opens MPO by its reader for JPEG. HEIF and JXL
# come with packages that add them to Pillow.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PCX", "PNG", "PPM"),
    *("QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP"),
)
# Names that the log shows of what a folder holds beside images and videos.
_SHOWN = 10


@cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of the image files that Pillow can read here, in lower case."""
    known = Image.registered_extensions().items()
    opens = {*Image.OPEN, "MPO"}
    return frozenset(end.lower() for end, name in known if name in opens and name in _FORMATS)


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
        inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        found = [p for p in inside if _is_medium(p)]
        _name_others(path, [p for p in inside if p not in found])
        return [str(p) for p in found]
    return sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())


def _is_medium(path: Path) -> bool:
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in image_suffixes() or is_video(str(path)))


def _name_others(folder: Path, others: Sequence[Path]) -> None:
    """Say what of a folder is not used: files that are neither image nor video, and folders."""
    if not others:
        return
    names = [p.name + ("/" if p.is_dir() else "") for p in others[:_SHOWN]]
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    logger.warning(
        f"Passed over in {folder}, as neither image nor video by their names: {', '.join(names)}"
        f"{more}. A file that is named by itself is read whatever its name."
    )


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
