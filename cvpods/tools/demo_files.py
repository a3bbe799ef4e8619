"""Files of pods_demo: its sources and its output."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from loguru import logger
from PIL import Image

from cvpods.utils.video import is_camera, is_video

# Pillow's formats of photographs and drawings. Pillow opens MPO with its reader for JPEG; packages
# add HEIF and JXL to it.
_FORMATS = (
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "JXL", "MPO", "PCX", "PNG", "PPM"),
    *("QOI", "SGI", "SUN", "TGA", "TIFF", "WEBP"),
)
# Names that the log shows of a folder's files that are neither images nor videos.
_SHOWN = 10


@cache
def image_suffixes() -> frozenset[str]:
    """Return the endings of the image files that Pillow can read here, in lower case."""
    known = Image.registered_extensions().items()
    opens = {*Image.OPEN, "MPO"}
    return frozenset(end.lower() for end, name in known if name in opens and name in _FORMATS)


def find_sources(inputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """Expand files, folders, patterns and cameras into sources, in order.

    A folder gives its images and videos.

    Returns:
        The sources, each once, and those of `inputs` that name nothing.
    """
    sources: list[str] = []
    missing: list[str] = []
    for text in inputs:
        try:
            found = [text] if is_camera(text) else _files(text)
        except OSError:  # a folder without permission, a name that is too long
            found = []
        sources += found
        missing += [] if found else [text]
    return list(dict.fromkeys(sources)), missing


def _files(text: str) -> list[str]:
    """Return the files that a path or a pattern names."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # ~x, and no user is called x
        path = Path(text)
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        found = [p for p in inside if _is_medium(p)]
        _log_others(path, [p for p in inside if p not in found])
        return [str(p) for p in found]
    return sorted(p for p in glob.glob(str(path), recursive=True) if Path(p).is_file())


def _is_medium(path: Path) -> bool:
    """Return whether a path is an image or a video, by its ending."""
    suffix = path.suffix.lower()
    return path.is_file() and (suffix in image_suffixes() or is_video(str(path)))


def _log_others(folder: Path, others: Sequence[Path]) -> None:
    """Log what is not used in a folder: other files, and folders."""
    if not others:
        return
    names = [p.name + ("/" if p.is_dir() else "") for p in others[:_SHOWN]]
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    logger.warning(
        f"Skipped in {folder}, because their names are not those of images or videos: "
        f"{', '.join(names)}{more}. A file that --input names is read whatever its name."
    )


class OutputNames:
    """Names in the output folder: a source's own name, with a number if that is taken.

    PNG stays PNG, videos become mp4, everything else JPEG. Pictures of an earlier run are
    replaced. Links, sources, and files in a folder that contains a source are not.
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
        """Return the path of the picture for a source."""
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
        """Return whether a path must not be replaced."""
        if path.is_symlink() or not path.exists():
            return path.is_symlink()
        return self._keeps_files or _identity(path) in self._sources


def _identity(path: Path) -> tuple[int, int]:
    """Return a pair that is the same for all links to a file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def _is_png(source: str) -> bool:
    return Path(source).suffix.lower() == ".png"
