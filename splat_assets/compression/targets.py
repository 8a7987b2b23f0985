"""From what people want (a preset, a quality, a size) to an encoded splat.

The precision comes from the splat's own sensitivity. A quality or a size that was asked for by
number is checked on the decoded file and approached in a few rounds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from splat_assets.compression.precision import (
    Precision,
    Sensitivity,
    measure_sensitivity,
    probe_views,
)
from splat_assets.compression.sog_reader import read_sog
from splat_assets.compression.sog_writer import EncodedSog, SogOptions, bundle_bytes, encode_sog
from splat_assets.datasets.options import CompressOptions
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View
from splat_assets.progress import Progress

# PSNR of the decoded splat's pictures against the original's
PRESET_DB = {"web": 40.0, "standard": 48.0, "archive": 58.0}
_DB_RANGE = (24.0, 70.0)
_ROUNDS = 4
_CLOSE_DB = 0.3

Encode = Callable[[float, int], EncodedSog]  # quality aimed at, number of the round


@dataclass(frozen=True)
class TargetedSog:
    """The encoded splat and how it was aimed."""

    encoded: EncodedSog
    aimed_db: float  # what the precision was chosen for
    notes: tuple[str, ...]  # what could not be done as asked


def encode_as_wished(
    gaussians: Gaussians,
    options: CompressOptions,
    views: Sequence[View],
    progress: Progress,
    *,
    background: Sequence[float] = (0.0, 0.0, 0.0),
) -> TargetedSog:
    """Encode with the options' preset or targets, judged in `views`.

    Raises `UserError` when no Gaussian has finite values, `Cancelled` when asked to stop.
    """
    base = SogOptions(
        order=options.order,
        palette_size=options.palette_size,
        drop_invisible=options.preset != "archive",
        seed=options.seed,
    )
    goal = options.target_db or PRESET_DB[options.preset]
    kept, _ = clean(gaussians)
    if not len(kept):
        return TargetedSog(encode_sog(gaussians, base, progress), goal, ())  # says what is wrong
    progress.update(0.0, "Measuring what each property is worth")
    sensitivity = measure_sensitivity(kept, views, background=background)
    rounds = 1 if options.target_db is None and options.max_mb is None else _ROUNDS

    def encode(db: float, index: int) -> EncodedSog:
        part = progress.span(0.1 + 0.9 * index / rounds, 0.1 + 0.9 * (index + 1) / rounds)
        return encode_sog(gaussians, replace(base, precision=_precision(sensitivity, db)), part)

    if options.max_mb is not None:
        return _fit_size(encode, goal, options.max_mb * 1e6)
    if options.target_db is None:
        return TargetedSog(encode(goal, 0), goal, ())
    return _fit_quality(encode, goal, kept, views, background)


def _precision(sensitivity: Sensitivity, db: float) -> Precision:
    return sensitivity.precision(float(np.clip(db, *_DB_RANGE)))


def _fit_quality(
    encode: Encode,
    goal: float,
    original: Gaussians,
    views: Sequence[View],
    background: Sequence[float],
) -> TargetedSog:
    """The smallest found that has at least `goal`, else the best."""
    aim, best, best_db = goal, None, -np.inf
    for index in range(_ROUNDS):
        encoded = encode(aim, index)
        reached = measured_db(original, encoded, views, background)
        better = best is None or (
            len(bundle_bytes(encoded)) < len(bundle_bytes(best))
            if min(reached, best_db) >= goal
            else reached > best_db
        )
        if better:
            best, best_db = encoded, reached
        if 0 <= reached - goal <= _CLOSE_DB or aim >= _DB_RANGE[1]:
            break
        aim += goal - reached + _CLOSE_DB / 2
    assert best is not None
    notes = []
    if best_db < goal:
        notes.append(f"{goal:g} dB could not be reached; the file has {best_db:.1f} dB")
    return TargetedSog(best, aim, tuple(notes))


def _fit_size(encode: Encode, goal: float, most: float) -> TargetedSog:
    """The best found that has at most `most` bytes, else the smallest."""
    first = encode(goal, 0)
    if len(bundle_bytes(first)) <= most:
        return TargetedSog(first, goal, ())
    low, high = _DB_RANGE[0], goal
    best: tuple[EncodedSog, float] | None = None
    for index in range(1, _ROUNDS):
        # the first guess is the worst that may be needed: if it does not fit, nothing does
        aim = low if index == 1 else (low + high) / 2
        encoded = encode(aim, index)
        if len(bundle_bytes(encoded)) <= most:
            best, low = (encoded, aim), aim
        elif index == 1:
            note = f"{most / 1e6:g} MB could not be reached; merge Gaussians first (convert)"
            return TargetedSog(encoded, aim, (note,))
        else:
            high = aim
    assert best is not None
    return TargetedSog(best[0], best[1], ())


def measured_db(
    original: Gaussians,
    encoded: EncodedSog,
    views: Sequence[View],
    background: Sequence[float] = (0.0, 0.0, 0.0),
) -> float:
    """PSNR of the decoded file against the original, over the probe views."""
    from splat_assets.compression.quality import psnr
    from splat_assets.rendering import render

    with tempfile.TemporaryDirectory(prefix="splat-assets-") as scratch:
        path = Path(scratch) / "probe.sog"
        path.write_bytes(bundle_bytes(encoded))
        decoded = read_sog(path)
    cameras = [
        render.View(v.viewmat, v.K, v.width, v.height) for v in probe_views(views, len(original))
    ]
    both = (render.render_views(g, cameras, background=background) for g in (original, decoded))
    values = [psnr(np.clip(a.rgb, 0, 1), np.clip(b.rgb, 0, 1)) for a, b in zip(*both, strict=True)]
    return float(np.mean(values))
