"""Videos written and read back: sizes, colours, rotation, damage, and cameras by name."""

from __future__ import annotations

import sys
from fractions import Fraction

import numpy as np
import pytest

from cvpods.utils import video
from cvpods.utils.errors import ConfigError, DataError
from cvpods.utils.video import VideoReader, VideoWriter, is_camera, is_video

av = pytest.importorskip("av")

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 200, 30), (30, 30, 200), (128, 128, 128)


def picture(height=48, width=64):
    """Return a picture with red and green above blue and grey."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    image[: height // 2, : width // 2], image[: height // 2, width // 2 :] = RED, GREEN
    image[height // 2 :, : width // 2], image[height // 2 :, width // 2 :] = BLUE, GREY
    return image


def corners(frame):
    """Return the nearest of the four colours at top left, top right, bottom left, bottom right."""
    colors = np.array([RED, GREEN, BLUE, GREY])
    names = ("red", "green", "blue", "grey")
    places = ((3, 3), (3, -4), (-4, 3), (-4, -4))
    return [names[np.abs(colors - frame[place].astype(int)).sum(1).argmin()] for place in places]


def make_video(path, frames, rate=10, codec="mpeg4", rotation=None, options=None):
    """Write a video with PyAV alone, without VideoWriter."""
    frames = list(frames)
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def noise(count, seed=0):
    """Return frames that compress badly, so that a cut file ends in the middle of a frame."""
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(count)]


def read(path):
    with VideoReader(str(path)) as reader:
        return list(reader)


# -- reading ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["clip.mp4", "clip.MOV", "clip.avi", "clip.mkv"])
def test_frames_as_they_were(tmp_path, name):
    path = make_video(tmp_path / name, [picture() * np.uint8(i > 0) for i in range(6)])
    with VideoReader(str(path)) as reader:
        assert reader.rate == 10
        assert reader.num_frames in (0, 6)
        frames = list(reader)
    assert len(frames) == 6
    for frame in frames:
        assert frame.shape == (48, 64, 3) and frame.dtype == np.uint8
        assert frame.flags.c_contiguous and frame.flags.writeable
    assert frames[0].max() < 20
    assert np.abs(frames[5].astype(int) - picture()).mean() < 8
    assert corners(frames[5]) == ["red", "green", "blue", "grey"]


def test_number_of_frames_is_known_for_mp4(tmp_path):
    path = make_video(tmp_path / "clip.mp4", [picture()] * 7)
    with VideoReader(str(path)) as reader:
        assert reader.num_frames == 7


@pytest.mark.parametrize("rate", [Fraction(30000, 1001), Fraction(24), Fraction(5, 2)])
def test_rate(tmp_path, rate):
    path = make_video(tmp_path / "clip.mp4", [picture()] * 5, rate=rate)
    with VideoReader(str(path)) as reader:
        assert reader.rate == rate


@pytest.mark.parametrize(
    "rotation, shape, expected",
    [
        (0, (48, 64), ["red", "green", "blue", "grey"]),
        (90, (64, 48), ["green", "grey", "red", "blue"]),
        (180, (48, 64), ["grey", "blue", "green", "red"]),
        (270, (64, 48), ["blue", "red", "grey", "green"]),
        (-90, (64, 48), ["blue", "red", "grey", "green"]),
    ],
)
def test_rotation(tmp_path, rotation, shape, expected):
    """Rotation is counter-clockwise: 90 degrees move the top right corner to the top left."""
    path = make_video(tmp_path / "clip.mp4", [picture()] * 2, rotation=rotation)
    for frame in read(path):
        assert frame.shape == (*shape, 3) and frame.flags.c_contiguous
        assert corners(frame) == expected


def test_rotation_as_phones_write_it(tmp_path):
    """The matrix in the track's header: x' = a x + c y, y' = b x + d y, y downwards.

    A phone held upright writes a = d = 0, b = 1, c = -1: right (1, 0) becomes down (0, 1), a turn
    by 90 degrees clockwise. The bottom left corner is shown at the top left.
    """
    path = make_video(tmp_path / "clip.mp4", [picture()] * 2)
    one, zero, minus = (v.to_bytes(4, "big", signed=True) for v in (1 << 16, 0, -1 << 16))
    upright = one + zero + zero + zero + one
    content = path.read_bytes()
    start = content.index(upright, content.index(b"tkhd"))
    turned = zero + one + zero + minus + zero
    path.write_bytes(content[:start] + turned + content[start + len(turned) :])
    assert [corners(frame) for frame in read(path)] == [["blue", "red", "grey", "green"]] * 2


@pytest.mark.parametrize("name", ["nowhere.mp4", "folder.mp4", "text.mp4", "empty.mp4"])
def test_no_video_file(tmp_path, name):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=rf"Video .*{name} cannot be opened"):
        VideoReader(str(tmp_path / name))


def test_sound_alone(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        sound = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
        )
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(DataError, match=r"sound\.mp4 holds no video"):
        VideoReader(str(path))


def test_truncated_without_its_index(tmp_path):
    """The index of an mp4 file is at its end."""
    path = make_video(tmp_path / "cut.mp4", noise(20))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(DataError, match=r"cut\.mp4 cannot be opened"):
        VideoReader(str(path))


def test_truncated_with_its_index_first(tmp_path):
    """Read a file that states 20 frames and has fewer, as a broken download does."""
    path = make_video(tmp_path / "cut.mp4", noise(20), options={"movflags": "faststart"})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    frames = []
    with VideoReader(str(path)) as reader:
        assert reader.num_frames == 20
        with pytest.raises(DataError, match=r"cut\.mp4 ends after \d+ of 20 frames"):
            frames.extend(reader)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_bytes(tmp_path, seed):
    """200 changed bytes: the reader gives frames, and at most one error that names the frame."""
    path = make_video(tmp_path / "bad.mp4", noise(12))
    content = bytearray(path.read_bytes())
    start = int(np.random.default_rng(seed).integers(40, len(content) - 200))
    content[start : start + 200] = bytes(b ^ 0x5A for b in content[start : start + 200])
    path.write_bytes(content)
    seen = 0
    try:
        with VideoReader(str(path)) as reader:
            for frame in reader:
                assert frame.shape == (48, 64, 3)
                seen += 1
    except DataError as error:
        assert f"frame {seen} cannot be read" in str(error) or f"after {seen} of" in str(error)
    assert seen <= 12


def test_decoding_errors_become_data_errors(tmp_path, monkeypatch):
    path = make_video(tmp_path / "clip.mp4", [picture()] * 3)
    reader = VideoReader(str(path))

    class Container:
        def decode(self, video):
            whole = av.open(str(path))
            yield from list(whole.decode(video=video))[:2]
            raise av.error.InvalidDataError(1, "broken")

    monkeypatch.setattr(reader, "_container", Container())
    frames = iter(reader)
    next(frames), next(frames)
    with pytest.raises(DataError, match=r"clip\.mp4: frame 2 cannot be read"):
        next(frames)


def test_one_after_the_other(tmp_path):
    """`with` closes a reader: its file can be read again, and removed on every system."""
    path = make_video(tmp_path / "clip.mp4", [picture()] * 3)
    assert len(read(path)) == len(read(path)) == 3


@pytest.mark.parametrize("name", ["clip%03d.mp4", "clip 1 ü.mp4", "[x].mp4", "#?&.mp4"])
def test_odd_names(tmp_path, name):
    write(tmp_path / name, [picture()] * 2)
    assert (tmp_path / name).is_file()
    assert len(read(tmp_path / name)) == 2


@pytest.mark.parametrize("name", ["12:30.mp4", "file:clip.mp4", "concat:clip.mp4"])
def test_names_with_a_colon(tmp_path, monkeypatch, name):
    """In the current folder, where no slash comes before the colon."""
    monkeypatch.chdir(tmp_path)
    write("clip.mp4", [picture()])
    before = (tmp_path / "clip.mp4").read_bytes()
    write(name, [picture()] * 2)
    assert (tmp_path / "clip.mp4").read_bytes() == before
    assert len(read(name)) == 2


# -- writing ---------------------------------------------------------------------------------------


def write(path, frames, rate=Fraction(10)):
    with VideoWriter(path, rate) as writer:
        for frame in frames:
            writer.write(frame)


def test_written_and_read_back(tmp_path):
    frames = [picture() * np.uint8(i % 2) for i in range(6)]
    write(tmp_path / "clip.mp4", frames, Fraction(30000, 1001))
    with VideoReader(str(tmp_path / "clip.mp4")) as reader:
        assert reader.rate == Fraction(30000, 1001) and reader.num_frames == 6
        for frame, expected in zip(reader, frames, strict=True):
            assert np.abs(frame.astype(int) - expected).mean() < 8


def test_pixel_format_that_all_players_know(tmp_path):
    write(tmp_path / "clip.mp4", [picture()])
    with av.open(str(tmp_path / "clip.mp4")) as container:
        (stream,) = container.streams
        assert stream.codec_context.pix_fmt == "yuv420p"
        expected = "h264" if "libx264" in av.codecs_available else "mpeg4"
        assert stream.codec_context.name == expected


def test_mpeg4_where_there_is_no_h264(tmp_path, monkeypatch):
    monkeypatch.setattr(av, "codecs_available", {"mpeg4"})
    write(tmp_path / "clip.mp4", [picture()] * 3)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert len(read(tmp_path / "clip.mp4")) == 3


@pytest.mark.parametrize("height, width", [(49, 65), (48, 65), (49, 64), (3, 3)])
def test_odd_sizes_lose_the_last_row_or_column(tmp_path, height, width):
    image = picture(48, 64)
    image = np.pad(image, ((0, 1), (0, 1), (0, 0)))[:height, :width]  # black at the odd ends
    write(tmp_path / "clip.mp4", [image] * 2)
    frames = read(tmp_path / "clip.mp4")
    assert [f.shape for f in frames] == [(height // 2 * 2, width // 2 * 2, 3)] * 2
    assert frames[0][-1, -1].min() > 15 and frames[0][-1, 0].max() > 100


def test_views_may_be_written(tmp_path):
    """Mirrored and transposed arrays are not contiguous."""
    write(tmp_path / "clip.mp4", [picture()[:, ::-1]])
    assert corners(read(tmp_path / "clip.mp4")[0]) == ["green", "red", "grey", "blue"]
    write(tmp_path / "clip.mp4", [picture().transpose(1, 0, 2)])
    assert corners(read(tmp_path / "clip.mp4")[0]) == ["red", "blue", "green", "grey"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError])
def test_what_was_written_until_an_error_can_be_played(tmp_path, error):
    with pytest.raises(error), VideoWriter(tmp_path / "clip.mp4", Fraction(10)) as writer:
        for _ in range(4):
            writer.write(picture())
        raise error
    assert len(read(tmp_path / "clip.mp4")) == 4


def test_no_frames(tmp_path):
    write(tmp_path / "clip.mp4", [])
    assert not (tmp_path / "clip.mp4").is_file() or not (tmp_path / "clip.mp4").stat().st_size


# -- cameras, and no av ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, camera, expected",
    [
        ("camera", True, True),
        ("camera:1", True, True),
        ("camera.png", False, False),
        ("my camera", False, False),
        ("a.mp4", False, True),
        ("a.MP4", False, True),
        ("folder/b.Mov", False, True),
        ("a.jpg", False, False),
        ("mp4", False, False),
    ],
)
def test_kinds_of_sources(source, camera, expected):
    assert (is_camera(source), is_video(source)) == (camera, expected)


@pytest.mark.parametrize(
    "platform, source, expected",
    [
        ("linux", "camera", ("/dev/video0", "v4l2")),
        ("linux", "camera:2", ("/dev/video2", "v4l2")),
        ("darwin", "camera", ("0", "avfoundation")),
        ("darwin", "camera:1", ("1", "avfoundation")),
        ("win32", "camera:My Webcam", ("video=My Webcam", "dshow")),
    ],
)
def test_names_of_cameras(monkeypatch, platform, source, expected):
    opened = []

    def no_camera(name, format=None):
        opened.append((name, format))
        raise OSError("no such device")

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(av, "open", no_camera)
    with pytest.raises(DataError, match=f"Video {source} cannot be opened: no such device"):
        VideoReader(source)
    assert opened == [expected]


def test_files_leave_the_format_open(tmp_path, monkeypatch):
    opened = []

    def note(name, format=None):
        opened.append((name, format))
        raise OSError

    monkeypatch.setattr(av, "open", note)
    with pytest.raises(DataError):
        VideoReader(str(tmp_path / "camera.mp4"))
    assert opened[0][1] is None and opened[0][0].endswith("camera.mp4")


def test_without_av(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "av", None)
    for use in (lambda: VideoReader("camera"), lambda: VideoWriter(tmp_path / "x.mp4", 25)):
        with pytest.raises(ConfigError, match="pip install av"):
            use()
    assert is_video("a.mp4") and is_camera("camera")
