"""Sampling in time, orientation, colour and damage, on videos made here."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from splat_assets.frames import video
from splat_assets.frames.images import UnreadableError
from splat_assets.frames.video import probe, sample_video
from splat_assets_tests.frames.making import grey, make_audio, make_video, textured


def times_of(path: Path, **options: float) -> list[float]:
    return [round(s.time_sec, 3) for s in sample_video(path, **{"fps": 2.0, **options})]  # type: ignore[arg-type]


def flickering(count: int, sharp_at: set[int]) -> list[np.ndarray]:
    """Blurred pictures with sharp ones in between."""
    return [np.asarray(textured(i, blur=0 if i in sharp_at else 3)) for i in range(count)]


def test_constant_rate_is_sampled_at_its_instants(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", (grey(i) for i in range(40)))
    assert times_of(path, fps=1.0) == [0.0, 1.0, 2.0, 3.0]
    assert times_of(path, fps=10.0) == [i / 10 for i in range(40)]
    assert times_of(path, fps=100.0) == [i / 10 for i in range(40)]  # never a frame twice


def test_variable_rate_is_sampled_in_time(tmp_path: Path) -> None:
    # 20 frames a second for two seconds, then one frame a second: by count, this would go wrong
    times = [i / 20 for i in range(40)] + [2.0 + i for i in range(6)]
    path = make_video(tmp_path / "a.mp4", (grey(i) for i in range(46)), times=times.__getitem__)
    assert times_of(path, fps=1.0) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_the_sharpest_frame_near_each_instant_wins(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", flickering(40, {2, 9, 21, 30}))
    # ±0.3 s around 0, 1, 2, 3 at ten frames a second
    assert times_of(path, fps=1.0) == [0.2, 0.9, 2.1, 3.0]


def test_start_and_end_seek_and_agree_with_decoding_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_video(tmp_path / "a.mp4", (grey(i % 200) for i in range(200)))
    decoded = []
    orientation = video._orientation
    monkeypatch.setattr(
        video, "_orientation", lambda frame, stream: decoded.append(1) or orientation(frame, stream)
    )
    assert times_of(path, start_sec=15.0, end_sec=17.0) == [15.0, 15.5, 16.0, 16.5, 17.0]
    assert len(decoded) < 60  # of 200
    assert times_of(path, start_sec=100.0) == []


@pytest.mark.parametrize(
    ("rotation", "hflip", "corner"),
    [
        (0, False, "top left"),
        (90, False, "bottom left"),  # counter-clockwise
        (-90, False, "top right"),
        (180, False, "bottom right"),
        (0, True, "top right"),
    ],
)
def test_display_matrix(tmp_path: Path, rotation: int, hflip: bool, corner: str) -> None:
    picture = grey(20, 96, 64)
    picture[:32, :48] = 230  # the top left quarter
    path = make_video(tmp_path / "a.mp4", [picture] * 3, rotation=rotation, hflip=hflip)
    sample = next(sample_video(path, fps=1.0))
    image = sample.image(1000)
    assert image.size == sample.size == ((64, 96) if abs(rotation) == 90 else (96, 64))
    pixels = np.asarray(image.convert("L"))
    half_h, half_w = pixels.shape[0] // 2, pixels.shape[1] // 2
    bright = {
        "top left": pixels[:half_h, :half_w].mean(),
        "top right": pixels[:half_h, half_w:].mean(),
        "bottom left": pixels[half_h:, :half_w].mean(),
        "bottom right": pixels[half_h:, half_w:].mean(),
    }
    assert max(bright, key=bright.__getitem__) == corner


@pytest.mark.parametrize(("codec", "suffix"), [("libx265", ".mp4"), ("ffv1", ".mkv")])
def test_ten_bit_becomes_eight_bit(tmp_path: Path, codec: str, suffix: str) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    ramp = np.repeat(np.linspace(0, 255, 256).astype(np.uint8)[None, :, None], 64, axis=0)
    picture = np.ascontiguousarray(np.repeat(ramp, 3, axis=2))
    options = {"x265-params": "log-level=none", "crf": "4"} if codec == "libx265" else {}
    path = make_video(
        tmp_path / f"a{suffix}", [picture] * 3, codec=codec, pix_fmt="yuv420p10le", options=options
    )
    pixels = np.asarray(next(sample_video(path, fps=1.0)).image(1000))
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - picture).mean() < 2.0


@pytest.mark.parametrize("full_range", [False, True])
def test_colours_and_exposure_follow_the_range(tmp_path: Path, full_range: bool) -> None:
    colours = np.zeros((64, 128, 3), np.uint8)
    for i, colour in enumerate([(255, 255, 255), (200, 30, 40), (30, 160, 50), (20, 40, 220)]):
        colours[:, 32 * i : 32 * i + 32] = colour
    pix_fmt = "yuvj420p" if full_range else "yuv420p"
    path = make_video(tmp_path / "a.mp4", [colours] * 2, pix_fmt=pix_fmt)
    sample = next(sample_video(path, fps=1.0))
    pixels = np.asarray(sample.image(1000)).astype(int)
    for i in range(4):
        middle = pixels[16:48, 32 * i + 8 : 32 * i + 24]
        assert np.abs(middle - colours[20, 32 * i + 16]).max() <= 6
    luma = colours @ [0.299, 0.587, 0.114]
    assert sample.stats.exposure == pytest.approx(luma.mean() / 255, abs=0.02)


def test_streams_are_chosen_by_number(tmp_path: Path) -> None:
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=10) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            for stream, level in zip(streams, (40, 200), strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(level), "rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    levels = [next(sample_video(path, fps=1.0, stream=i)).stats.exposure for i in (0, 1)]
    assert levels == [pytest.approx(40 / 255, abs=0.02), pytest.approx(200 / 255, abs=0.02)]
    with pytest.raises(UnreadableError, match="numbered 0 to 1"):
        probe(path, 2)


def test_reduced_to_the_long_side(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", [np.asarray(textured(0, 320, 180))] * 2, rotation=90)
    assert next(sample_video(path, fps=1.0)).image(160).size == (90, 160)


def test_what_is_no_video(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    make_audio(tmp_path / "talk.mp4")
    for name, reason in (
        ("empty.mp4", "empty file"),
        ("noise.mp4", "not a video"),
        ("talk.mp4", "no video stream"),
    ):
        with pytest.raises(UnreadableError, match=reason):
            probe(tmp_path / name)


def test_a_truncated_video_gives_what_it_holds(tmp_path: Path) -> None:
    pictures = [np.asarray(textured(i)) for i in range(60)]
    whole = make_video(
        tmp_path / "a.mp4", pictures, container_options={"movflags": "faststart"}, gop=5
    )
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    times = times_of(cut)
    assert 4 <= len(times) < len(times_of(whole))
    assert times == times_of(whole)[: len(times)]
