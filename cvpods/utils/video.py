"""Reader and writer of video, through PyAV."""

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
    av = None  # type: ignore[assignment]  # the package is optional

CAMERA = "camera"
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")


def is_video(source: str) -> bool:
    """Return True for "camera", "camera:N" and files with a video's suffix."""
    return is_camera(source) or Path(source).suffix.lower() in VIDEO_SUFFIXES


def is_camera(source: str) -> bool:
    """Return True for "camera" and "camera:N"."""
    return source == CAMERA or source.startswith(f"{CAMERA}:")


def _require_av() -> None:
    if av is None:
        raise ConfigError("Video needs the package av: pip install av")


class VideoReader:
    """Frames of a video or camera, (H, W, 3) uint8 RGB, rotated as the file states.

    Attributes:
        rate: frames per second, a Fraction.
        num_frames: number of frames; 0 if unknown.

    Raises:
        DataError: the video cannot be opened, or a frame cannot be decoded during iteration.
        ConfigError: the package av is not installed.
    """

    def __init__(self, source: str) -> None:
        _require_av()
        self.source = source
        # The path is absolute, because FFmpeg reads a name up to a colon as a protocol.
        name, file_format = str(Path(source).absolute()), None
        if is_camera(source):
            name, file_format = _camera_input(source)
        try:
            self._container = av.open(name, format=file_format)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise DataError(f"Video {source} cannot be opened: {error}") from error
        if not self._container.streams.video:
            self._container.close()
            raise DataError(f"{source} holds no video. Name a file with a video stream.")
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


def _camera_input(source: str) -> tuple[str, str]:
    """Return FFmpeg's name and format of "camera" or "camera:N"; on Windows, of "camera:NAME"."""
    number = source.partition(":")[2] or "0"
    if sys.platform == "darwin":
        return number, "avfoundation"
    if sys.platform == "win32":
        return f"video={number}", "dshow"
    return f"/dev/video{number}", "v4l2"


class VideoWriter:
    """Writer of an mp4 file from frames (H, W, 3) uint8 RGB of one size.

    The format is H.264 if FFmpeg has it, and MPEG-4 otherwise. Both need even sizes, so an odd last
    row or column is left out.

    Raises:
        DataError: the file cannot be written.
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
        """Append a frame.

        Raises:
            DataError: the file cannot be written.
        """
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
        """Finish the file, also after an error, so that the written frames can be played."""
        with self._clear_errors():
            try:
                if self._stream is not None:
                    self._mux(None)
            finally:
                self._container.close()
