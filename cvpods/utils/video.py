"""Video files and cameras as arrays, by PyAV."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from cvpods.utils.errors import ConfigError, DataError

try:
    import av
except ImportError:
    av = None

CAMERA = "camera"
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def is_video(source: str) -> bool:
    """True for "camera", "camera:N" and for files with a video's suffix."""
    return is_camera(source) or Path(source).suffix.lower() in VIDEO_SUFFIXES


def is_camera(source: str) -> bool:
    return source == CAMERA or source.startswith(f"{CAMERA}:")


def _require_av() -> None:
    if av is None:
        raise ConfigError("Video needs the package av: pip install av")


class VideoReader:
    """Frames of a video or camera, (H, W, 3) uint8 RGB, turned as the file says.

    Attributes: rate (frames per second, a Fraction), num_frames (0 where it is not known).

    Raises:
        DataError: it cannot be opened, or, while iterating, a frame cannot be decoded.
        ConfigError: the package av is not installed.
    """

    def __init__(self, source: str) -> None:
        _require_av()
        self.source = source
        # Absolute, as FFmpeg takes what stands before a colon for a protocol.
        name, file_format = str(Path(source).absolute()), None
        if is_camera(source):
            name, file_format = _camera(source)
        try:
            self._container = av.open(name, format=file_format)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise DataError(f"Video {source} cannot be opened: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"{source} holds no video.")
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        self.rate = stream.average_rate or Fraction(25)
        self.num_frames = stream.frames

    def __iter__(self) -> Iterator[np.ndarray]:
        index = 0
        try:
            for frame in self._container.decode(video=0):
                array = frame.to_ndarray(format="rgb24")
                yield np.ascontiguousarray(np.rot90(array, k=round(frame.rotation / 90)))
                index += 1
        except av.error.FFmpegError as error:
            raise DataError(f"{self.source}: frame {index} cannot be read: {error}") from error
        if index < 0.95 * self.num_frames:
            raise DataError(f"{self.source} ends after {index} of {self.num_frames} frames.")

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self._container.close()


def _camera(source: str) -> tuple[str, str]:
    """FFmpeg's name and format of "camera" or "camera:N"; on Windows "camera:NAME"."""
    number = source.partition(":")[2] or "0"
    if sys.platform == "darwin":
        return number, "avfoundation"
    if sys.platform == "win32":
        return f"video={number}", "dshow"
    return f"/dev/video{number}", "v4l2"


class VideoWriter:
    """Writes frames (H, W, 3) uint8 RGB to an mp4 file; all of one size.

    H.264 where FFmpeg has it, else MPEG-4. An odd last row or column is left out, as the formats
    want even sizes.

    Raises:
        DataError: the file cannot be made.
        ConfigError: the package av is not installed.
    """

    def __init__(self, path: str | Path, rate: Fraction) -> None:
        _require_av()
        self.path = Path(path)
        self._rate = rate
        self._stream: Any = None
        with self._clear_errors():
            self._container = av.open(str(self.path.absolute()), "w", format="mp4")

    def write(self, frame: np.ndarray) -> None:
        height, width = (side - side % 2 for side in frame.shape[:2])
        even = np.ascontiguousarray(frame[:height, :width])
        with self._clear_errors():
            if self._stream is None:
                codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
                self._stream = self._container.add_stream(codec, rate=self._rate)
                self._stream.width, self._stream.height = width, height
                self._stream.pix_fmt = "yuv420p"
            self._mux(av.VideoFrame.from_ndarray(even, format="rgb24"))

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(f"Video {self.path} cannot be written: {error}") from error

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, *exc: object) -> None:
        """Finish the file, also after an error: what was written can be played."""
        with self._clear_errors():
            try:
                if self._stream is not None:
                    self._mux(None)
            finally:
                self._container.close()
