"""Reconstruct, and try again differently while too few images register.

The rungs, cheapest first: the other mapper on the same matches; every pair instead of chosen ones;
no EXIF focal lengths where they look wrong; finer features. A rung that cannot help is left out:
the images that hang together by verified matches bound what any mapper can register.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pycolmap

from splat_assets.datasets.options import PoseOptions
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.features import (
    MAX_FOCAL_RATIO,
    MIN_FOCAL_RATIO,
    FeaturePlan,
    Workspace,
    create_database,
    extract_features,
)
from splat_assets.poses.gps import local_positions
from splat_assets.poses.mapping import MIN_INLIERS, Mapped, choose_mapper, refine, run_mapper
from splat_assets.poses.matching import (
    Matching,
    all_pairs,
    choose_pairs,
    largest_component,
    verified_pairs,
)
from splat_assets.poses.pair_matching import match_pairs
from splat_assets.poses.report import Stopwatch
from splat_assets.progress import Progress

ENOUGH = 0.8  # of the frames registered: no further attempt
MAX_ATTEMPTS = 5
EXHAUSTIVE_RETRY = 300  # images; more pairs than that take too long to be tried on a hunch
GAIN = 1.1  # another mapper is tried when this much more could register
FOCAL_DRIFT = 1.6  # solved over EXIF focal length, either way, that puts EXIF in doubt


@dataclass(frozen=True)
class Attempt:
    """One try, as `report.json` lists it."""

    reason: str
    mapper: str
    matching: str
    feature_long_side: int
    max_features: int
    focal_priors: bool
    mean_features: float
    num_pairs: int
    num_verified_pairs: int
    num_connected: int  # images in the largest group connected by verified pairs
    num_registered: int
    models: tuple[int, ...]  # images per model, largest first
    reprojection_error_px: float | None
    seconds: float
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Scene:
    """What is known of the images besides their pixels, by row."""

    kept: pd.DataFrame
    sequences: np.ndarray | None  # [N] which video; None for photos
    positions: np.ndarray | None  # [N, 3] metres east, north, up; None without GPS
    origin: tuple[float, float, float] | None  # latitude, longitude, altitude of (0, 0, 0)


def make_scene(frames: FrameSet, kept: pd.DataFrame) -> Scene:
    """What the frames table says of the kept frames."""
    located = local_positions(kept)
    positions, origin = located if located else (None, None)
    sequences = _sequences(kept) if frames.ordered else None
    return Scene(kept, sequences, positions, origin)


def _sequences(kept: pd.DataFrame) -> np.ndarray:
    """[N] a number for each video, or each episode and camera: shards hold several of those."""
    keys = [column for column in ("source_file", "camera", "episode") if column in kept]
    return kept.groupby(keys, sort=False, dropna=False).ngroup().to_numpy()


@dataclass
class _State:
    """How the next attempt is made, and what has been done to the database."""

    plan: FeaturePlan
    mapper: str
    matching: Matching | None = None
    exhaustive: bool = False
    finer: bool = False
    tried_mappers: frozenset[str] = frozenset()
    features: tuple[int, ...] = ()


def reconstruct(
    workspace: Workspace,
    scene: Scene,
    options: PoseOptions,
    *,
    threads: int,
    stopwatch: Stopwatch,
    progress: Progress,
) -> tuple[Mapped, list[Attempt]]:
    """The best reconstruction of up to `MAX_ATTEMPTS`, and all attempts in order."""
    count = len(workspace.links)
    plan = FeaturePlan.first(
        options.feature_long_side,
        options.max_features,
        num_images=count,
        largest_side=_longest_side(scene),
    )
    state = _State(plan, choose_mapper(options.mapper, count))
    attempts: list[Attempt] = []
    best: Mapped | None = None
    reason: str | None = "first attempt"
    while reason is not None:
        number = len(attempts)
        # a retry gets half of what is left of the bar
        start = 0.0 if number == 0 else 1 - 0.2 * 0.5 ** (number - 1)
        stop = 1 - 0.2 * 0.5**number
        if number:
            progress.warn(f"Registered {best.registered if best else 0} of {count}: {reason}")
        mapped, attempt = _attempt(
            workspace, scene, options, state, reason, threads, stopwatch, progress.span(start, stop)
        )
        attempts.append(attempt)
        if best is None or _rank(mapped) > _rank(best):
            best = mapped
        reason = _next_rung(workspace, scene, options, state, best, attempts)
    assert best is not None
    if best.models:
        with stopwatch.stage("refinement"):
            refine(best.models[0], keep_camera_model=options.camera_model != "auto")
    return best, attempts


def _rank(mapped: Mapped) -> tuple[int, float]:
    return mapped.registered, -mapped.error_px if mapped.models else 0.0


def _attempt(
    workspace: Workspace,
    scene: Scene,
    options: PoseOptions,
    state: _State,
    reason: str,
    threads: int,
    stopwatch: Stopwatch,
    progress: Progress,
) -> tuple[Mapped, Attempt]:
    """Bring the database to what `state` asks for, and map it."""
    watch = Stopwatch()
    if not state.features:
        with stopwatch.stage("features"), watch.stage("all"):
            create_database(workspace, scene.kept, options.camera_model, state.plan)
            state.features = tuple(
                extract_features(
                    workspace, state.plan, threads=threads, progress=progress.span(0, 0.45)
                )
            )
    if state.matching is None:
        with stopwatch.stage("matching"), watch.stage("all"):
            state.matching = _choose(workspace, scene, options, state)
            match_pairs(
                workspace.database,
                workspace.links,
                state.matching.pairs,
                threads=threads,
                seed=options.seed,
                progress=progress.span(0.45, 0.8),
            )
    with stopwatch.stage("mapping"), watch.stage("all"):
        mapped = run_mapper(
            state.mapper,
            workspace,
            threads=threads,
            seed=options.seed,
            progress=progress.span(0.8, 1.0),
        )
    state.tried_mappers |= {state.mapper}
    return mapped, Attempt(
        reason=reason,
        mapper=state.mapper,
        matching=state.matching.strategy,
        feature_long_side=state.plan.long_side,
        max_features=state.plan.max_features,
        focal_priors=state.plan.focal_priors,
        mean_features=round(statistics.fmean(state.features), 1),
        num_pairs=len(state.matching.pairs),
        num_verified_pairs=len(verified_pairs(workspace.database, MIN_INLIERS)),
        num_connected=largest_component(workspace.database, workspace.image_ids, MIN_INLIERS),
        num_registered=mapped.registered,
        models=tuple(model.num_reg_images() for model in mapped.models),
        reprojection_error_px=round(mapped.error_px, 4) if mapped.models else None,
        seconds=watch.seconds["all"],
        cpu_seconds=watch.cpu_seconds["all"],
    )


def _choose(workspace: Workspace, scene: Scene, options: PoseOptions, state: _State) -> Matching:
    if state.exhaustive:
        return Matching("exhaustive", all_pairs(len(workspace.links)))
    return choose_pairs(
        options.matching,
        workspace.database,
        workspace.image_ids,
        sequences=scene.sequences,
        positions=scene.positions,
        seed=options.seed,
    )


def _next_rung(
    workspace: Workspace,
    scene: Scene,
    options: PoseOptions,
    state: _State,
    best: Mapped,
    attempts: list[Attempt],
) -> str | None:
    """Change `state` to the next rung and say why, or None when enough registered or none helps."""
    count = len(workspace.links)
    last = attempts[-1]
    if best.registered >= ENOUGH * count or len(attempts) >= MAX_ATTEMPTS:
        return None
    other = "incremental" if state.mapper == "global" else "global"
    reachable = last.num_connected
    if other not in state.tried_mappers and reachable >= max(3, GAIN * best.registered):
        state.mapper = other
        return f"trying the {other} mapper"
    state.mapper = choose_mapper(options.mapper, count)
    assert state.matching is not None
    if state.matching.strategy != "exhaustive" and count <= EXHAUSTIVE_RETRY:
        state.exhaustive, state.matching, state.tried_mappers = True, None, frozenset()
        return "matching every pair"
    if state.plan.focal_priors and _focal_in_doubt(scene, best):
        state.plan = replace(state.plan, focal_priors=False)
        state.matching, state.features, state.tried_mappers = None, (), frozenset()
        return "leaving EXIF focal lengths aside"
    nothing_in_common = last.matching == "exhaustive" and reachable <= max(2, 0.05 * count)
    if not state.finer and not nothing_in_common:
        state.finer, state.plan = True, state.plan.finer(_longest_side(scene))
        state.matching, state.features, state.tried_mappers = None, (), frozenset()
        return "looking for finer features"
    return None


def _longest_side(scene: Scene) -> int:
    return int(scene.kept[["width", "height"]].astype(int).to_numpy().max())


def _focal_in_doubt(scene: Scene, best: Mapped) -> bool:
    """Whether EXIF gives focal lengths and the solved ones are implausible or far from them."""
    known = scene.kept["focal_px"].astype(float)
    if not known.notna().any():
        return False
    if not best.models:
        return True
    return any(_is_doubtful(camera, known) for camera in best.models[0].cameras.values())


def _is_doubtful(camera: pycolmap.Camera, known: pd.Series) -> bool:
    focal = camera.mean_focal_length()
    ratio = focal / max(camera.width, camera.height)
    if not MIN_FOCAL_RATIO <= ratio <= MAX_FOCAL_RATIO:
        return True
    drift = focal / float(known.median())
    return not 1 / FOCAL_DRIFT <= drift <= FOCAL_DRIFT
