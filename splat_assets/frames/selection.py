"""Which frames are kept: blurred ones and near-duplicates go, the rest is thinned to a limit.

A frame is judged against its neighbours, since sharpness says more about the scene than about the
camera. Video frames are cheap, photos were chosen by a person: for those only extremes go. However
bad the material, enough frames stay for a reconstruction to be tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splat_assets.frames.scoring import FrameStats, difference
from splat_assets.frames.table import Frame

BLURRED = "blurred"
DUPLICATE = "duplicate"
IDENTICAL = "identical"
THINNED = "over max_frames"

ENOUGH = 20  # frames kept at least, where there are that many
NEIGHBOURS = 5  # to either side
_CLEARLY = 1.2  # a frame this much sharper is preferred to one in a better place


@dataclass(frozen=True)
class Thresholds:
    """`blur`: sharpness below this share of the neighbours' median is blurred. `duplicate`: mean
    difference of thumbnails, in grey levels, below which a frame shows nothing new."""

    blur: float
    duplicate: float


VIDEO = Thresholds(blur=0.4, duplicate=1.0)
PHOTOS = Thresholds(blur=0.06, duplicate=0.4)


def select(
    frames: Sequence[Frame],
    *,
    thresholds: Thresholds,
    max_frames: int,
    min_frames: int,
    drop_blurred: bool = True,
    drop_duplicates: bool = True,
) -> list[str]:
    """For each frame "" (kept) or why it is dropped. Frames are in order within each sequence."""
    reasons = [""] * len(frames)
    sequences: dict[str, list[int]] = {}
    for position, frame in enumerate(frames):
        if frame.stats is None:
            raise ValueError(f"{frame.source_file} was not scored")
        sequences.setdefault(frame.sequence, []).append(position)
    stats = [frame.stats for frame in frames if frame.stats is not None]

    if drop_duplicates and thresholds is PHOTOS:
        _mark_identical(stats, reasons)
    for members in sequences.values():
        if drop_blurred:
            _mark_blurred(stats, members, reasons, thresholds.blur)
        if drop_duplicates:
            _mark_duplicates(stats, members, reasons, thresholds.duplicate)
    _restore(reasons, max(min_frames, ENOUGH))
    _thin(stats, reasons, max_frames)
    return reasons


def evenly(count: int, limit: int) -> list[int]:
    """At most `limit` of the indices 0..count-1, evenly spaced, the first and last included."""
    if count <= limit:
        return list(range(count))
    return [int(i) for i in np.rint(np.linspace(0, count - 1, limit)).astype(int)]


def _mark_identical(stats: Sequence[FrameStats], reasons: list[str]) -> None:
    """Copies of a photo under another name, wherever they are: the first stays."""
    seen = set()
    for position, stat in enumerate(stats):
        key = (stat.sharpness, stat.exposure, stat.thumb.tobytes())
        if key in seen:
            reasons[position] = IDENTICAL
        seen.add(key)


def _mark_blurred(
    stats: Sequence[FrameStats], members: Sequence[int], reasons: list[str], limit: float
) -> None:
    sharpness = np.array([stats[position].sharpness for position in members])
    for i, position in enumerate(members):
        around = np.r_[sharpness[max(0, i - NEIGHBOURS) : i], sharpness[i + 1 : i + 1 + NEIGHBOURS]]
        blurred = len(around) > 0 and sharpness[i] < limit * float(np.median(around))
        if blurred and not reasons[position]:
            reasons[position] = BLURRED


def _mark_duplicates(
    stats: Sequence[FrameStats], members: Sequence[int], reasons: list[str], limit: float
) -> None:
    """Runs of frames that differ little from the run's first: the sharpest stays."""
    run: list[int] = []

    def close() -> None:
        best = max(run, key=lambda position: stats[position].sharpness, default=None)
        for position in run:
            if position != best:
                reasons[position] = DUPLICATE

    for position in members:
        if reasons[position]:
            continue
        if run and difference(stats[run[0]].thumb, stats[position].thumb) >= limit:
            close()
            run = []
        run.append(position)
    close()


def _thin(stats: Sequence[FrameStats], reasons: list[str], limit: int) -> None:
    """Keep one of every few kept frames in a row: the middle one, or a clearly sharper one."""
    kept = [position for position, reason in enumerate(reasons) if not reason]
    if len(kept) <= limit:
        return
    for group in np.array_split(np.array(kept), limit):
        sharpness = np.array([stats[position].sharpness for position in group])
        best = len(group) // 2
        if sharpness.max() > _CLEARLY * sharpness[best]:
            best = int(sharpness.argmax())
        for place, position in enumerate(group):
            if place != best:
                reasons[position] = THINNED


def _restore(reasons: list[str], enough: int) -> None:
    """Bring frames back until `enough` are kept, each time the one farthest from any kept one.

    Identical photos stay out: they can never help.
    """
    kept = [position for position, reason in enumerate(reasons) if not reason]
    candidates = [p for p, reason in enumerate(reasons) if reason in (BLURRED, DUPLICATE)]
    gaps = {p: min((abs(p - k) for k in kept), default=len(reasons)) for p in candidates}
    for _ in range(min(enough - len(kept), len(candidates))):
        chosen = max(gaps, key=lambda p: (gaps[p], -p))
        reasons[chosen] = ""
        del gaps[chosen]
        gaps = {p: min(gap, abs(p - chosen)) for p, gap in gaps.items()}
