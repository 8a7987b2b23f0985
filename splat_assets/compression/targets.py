"""From what people want (a preset, a quality, a size) to an encoded splat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from splat_assets.compression.aim import Aim, TargetedSog
from splat_assets.compression.finetune import QUICK, THOROUGH
from splat_assets.compression.judging import BETWEEN, choose_looks
from splat_assets.compression.rate_control import Job
from splat_assets.compression.sog_writer import SogOptions, encode_sog
from splat_assets.compression.views import views_between
from splat_assets.datasets.options import CompressOptions
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View
from splat_assets.progress import Progress

# PSNR of the decoded splat's pictures against the original's
PRESET_DB = {"web": 40.0, "standard": 48.0, "archive": 58.0}
# of palettes, where the smallest file of a quality is wanted and not one that is near it soon
_FINE_GROWTH = 2**0.5

__all__ = ["PRESET_DB", "TargetedSog", "encode_as_wished"]


def encode_as_wished(
    gaussians: Gaussians,
    options: CompressOptions,
    views: Sequence[View] | None,
    progress: Progress,
    *,
    background: Sequence[float] = (0.0, 0.0, 0.0),
) -> TargetedSog:
    """Encode with the options' preset or targets.

    Args:
        views: cameras the splat was made with, in its frame; None looks at it from around.

    Raises `UserError` when no Gaussian has finite values, `Cancelled` when asked to stop.
    """
    base = SogOptions(
        order=options.order,
        palette_size=options.palette_size,
        drop_invisible=options.preset != "archive",
        seed=options.seed,
    )
    if options.target_db is not None:
        base = replace(base, palette_growth=_FINE_GROWTH)
    goal = options.target_db or PRESET_DB[options.preset]
    kept, cleanup = clean(gaussians, drop_invisible=base.drop_invisible)
    if not len(kept):
        return TargetedSog(encode_sog(gaussians, base, progress), goal, ())  # says what is wrong
    if cleanup.dropped:
        progress.warn(cleanup.describe())
    progress.update(0.0, "Measuring what each property is worth")
    weighed, checks = choose_looks(kept, views)
    tuned: Sequence[View] = ()
    # time is spent only where something was asked for by number
    by_number = options.target_db is not None or options.max_mb is not None
    if options.finetune and weighed.part_of is None and (views or by_number):
        tuned = weighed.views[0]
        if not views:
            tuned = [*tuned, *views_between(tuned, BETWEEN)]

    job = Job(
        kept,
        cleanup,
        base,
        weighed,
        checks,
        tuned,
        background,
        THOROUGH if by_number else QUICK,
    )
    if options.max_mb is not None:
        return Aim(job, goal, options.prune, progress).fit_size(options.max_mb * 1e6)
    if options.target_db is None:
        return Aim(job, goal, options.prune, progress).once()
    found = Aim(job, goal, options.prune, progress).fit_quality()
    if found.pruned and _falls_short(found, goal):
        found = Aim(job, goal, False, progress).fit_quality()
    if _falls_short(found, goal):
        note = f"{goal:g} dB could not be reached; the file has {found.measured_db:.1f} dB"
        progress.warn(note)
        found = replace(found, notes=(*found.notes, note))
    return found


def _falls_short(found: TargetedSog, goal: float) -> bool:
    return found.measured_db is not None and found.measured_db < goal
