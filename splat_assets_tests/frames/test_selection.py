"""Which frames go and which stay, on made-up scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from splat_assets.frames.scoring import FrameStats, score_image
from splat_assets.frames.selection import (
    BLURRED,
    DUPLICATE,
    IDENTICAL,
    PHOTOS,
    THINNED,
    VIDEO,
    evenly,
    select,
)
from splat_assets.frames.table import Frame
from splat_assets_tests.frames.making import textured


def frame(
    index: int, sharpness: float = 100.0, look: int | None = None, sequence: str = ""
) -> Frame:
    """A frame; equal `look` means equal thumbnails."""
    rng = np.random.default_rng(index if look is None else look)
    thumb = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    stats = FrameStats(sharpness, 0.5, thumb)
    return Frame(f"{index}.jpg", f"{index}.jpg", index, stats=stats, sequence=sequence)


def run(frames: list[Frame], **options: Any) -> list[str]:
    values = {"thresholds": VIDEO, "max_frames": 1000, "min_frames": 4, **options}
    return select(frames, **values)


def test_blurred_against_neighbours_not_against_the_whole() -> None:
    # the second half shows a smooth wall: less sharp, but not blurred
    frames = [frame(i, 1000.0 if i < 30 else 100.0) for i in range(60)]
    frames[10] = frame(10, 200.0)
    frames[50] = frame(50, 20.0)
    reasons = run(frames)
    assert {i for i, reason in enumerate(reasons) if reason == BLURRED} >= {10, 50}
    assert reasons.count("") >= 56
    assert run(frames, drop_blurred=False).count("") == 60


def test_photos_lose_only_the_extreme() -> None:
    frames = [frame(i) for i in range(40)]
    frames[10], frames[20] = frame(10, 20.0), frame(20, 1.0)
    reasons = run(frames, thresholds=PHOTOS)
    assert [i for i, reason in enumerate(reasons) if reason] == [20]


def test_of_a_pause_the_sharpest_frame_stays() -> None:
    frames = [frame(i) for i in range(40)]
    for i in range(10, 18):
        frames[i] = frame(i, 100.0 + (i == 13), look=999)
    reasons = run(frames)
    assert [i for i, reason in enumerate(reasons) if reason == DUPLICATE] == [
        i for i in range(10, 18) if i != 13
    ]
    assert run(frames, drop_duplicates=False).count("") == 40


def test_sequences_are_not_compared_with_each_other() -> None:
    frames = [frame(i, look=i % 30, sequence="a" if i < 30 else "b") for i in range(60)]
    assert run(frames) == [""] * 60


def test_enough_frames_stay_spread_over_the_whole() -> None:
    reasons = run([frame(i, look=1) for i in range(100)])  # the camera never moves
    kept = [i for i, reason in enumerate(reasons) if not reason]
    assert len(kept) == 20
    assert max(np.diff([0, *kept, 99])) <= 13
    assert run([frame(i, look=1) for i in range(12)]) == [""] * 12


def test_identical_photos_never_come_back() -> None:
    frames = [frame(i) for i in range(6)] + [frame(6, look=2), frame(7, look=3)]
    assert run(frames, thresholds=PHOTOS) == [""] * 6 + [IDENTICAL] * 2


def test_thinning_is_even_and_prefers_sharp_frames() -> None:
    frames = [frame(i, 130.0 if i == 41 else 100.0) for i in range(200)]
    reasons = run(frames, max_frames=50)
    kept = [i for i, reason in enumerate(reasons) if not reason]
    assert len(kept) == 50
    assert set(reasons) == {"", THINNED}
    assert max(np.diff(kept)) <= 5
    assert 41 in kept
    assert evenly(10, 4) == [0, 3, 6, 9]


def test_sharpness_hardly_depends_on_resolution_and_falls_with_blur() -> None:
    large = textured(1, 1600, 1200, blur=4.0)
    half = large.resize((800, 600))
    sharp, same = score_image(large), score_image(half)
    assert abs(sharp.sharpness / same.sharpness - 1) < 0.1
    assert score_image(textured(1, 1600, 1200, blur=12.0)).sharpness < 0.3 * sharp.sharpness
