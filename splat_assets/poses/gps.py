"""Orienting and scaling a reconstruction by the photos' GPS positions: metres, z up (ENU)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pycolmap

MIN_IMAGES = 3
MIN_SPREAD_M = 3.0  # standard deviation across the second direction; consumer GPS errs by metres
MIN_FLATNESS = 0.05  # second direction over the first: photos along a line leave the roll open
GPS_ERROR_M = 12.0  # what a phone's position may well err by, altitude included
FAR = 8.0  # medians from the middle: no photo of this scene but a broken position
MAX_RESIDUAL = 0.4  # of the spread: scale and level are then still right to some percent
MIN_INLIER_RATIO = 0.6


@dataclass(frozen=True)
class GpsAlignment:
    """What was done. `residual_m` is the median distance of camera and GPS position."""

    aligned: bool
    reason: str  # one sentence
    num_images: int = 0
    residual_m: float | None = None
    origin: tuple[float, float, float] | None = None  # latitude, longitude, altitude of (0, 0, 0)


def local_positions(kept: pd.DataFrame) -> tuple[np.ndarray, tuple[float, float, float]] | None:
    """GPS as east, north, up in metres [N, 3] about the photos' middle, NaN where unknown.

    None when fewer than three photos have a position. Photos without an altitude get the middle's.
    """
    columns = kept[["gps_lat", "gps_lon", "gps_alt"]]
    geodetic = columns.to_numpy(np.float64, na_value=np.nan).copy()
    known = np.isfinite(geodetic[:, :2]).all(axis=1)
    if known.sum() < MIN_IMAGES:
        return None
    altitude = geodetic[known, 2]
    middle = float(np.nanmedian(altitude)) if np.isfinite(altitude).any() else 0.0
    geodetic[:, 2] = np.where(np.isfinite(geodetic[:, 2]), geodetic[:, 2], middle)
    lat, lon = (float(np.median(geodetic[known, axis])) for axis in (0, 1))
    positions = np.full((len(kept), 3), np.nan)
    transform = pycolmap.GPSTransform(pycolmap.GPSTransformEllipsoid.WGS84)
    positions[known] = transform.ellipsoid_to_enu(geodetic[known], lat, lon, middle)
    return positions, (lat, lon, middle)


def align_to_gps(
    model: pycolmap.Reconstruction,
    positions_by_name: dict[str, np.ndarray],
    origin: tuple[float, float, float],
    seed: int,
) -> GpsAlignment:
    """Move `model` in place onto the positions where they are good enough for it.

    Args:
        positions_by_name: [3] metres by image name, finite.
    """
    images = [i for i in model.images.values() if i.has_pose and i.name in positions_by_name]
    if len(images) < MIN_IMAGES:
        return GpsAlignment(False, f"only {len(images)} registered photos have a GPS position")
    images.sort(key=lambda image: image.name)
    target = np.array([positions_by_name[image.name] for image in images])
    source = np.array([image.projection_center() for image in images])
    count = len(images)
    # a few positions may be kilometres off; they must not count as spread
    distance = np.linalg.norm(target - np.median(target, axis=0), axis=1)
    near = distance <= FAR * np.median(distance)
    around = target[near] - target[near].mean(axis=0)
    spread = np.linalg.svd(around, compute_uv=False) / np.sqrt(near.sum())
    if spread[1] < MIN_SPREAD_M or spread[1] < MIN_FLATNESS * spread[0]:
        return GpsAlignment(
            False,
            f"the GPS positions spread only {spread[0]:.1f} m by {spread[1]:.1f} m",
            count,
        )
    extent = float(spread[0])
    # altitudes drift more than positions do: the scene may fit better level
    level = target.copy()
    level[:, 2] = np.median(target[near, 2])
    fits = [_fit(source, aim, near, extent, seed) for aim in (target, level)]
    best = min(fits, key=lambda fit: (not fit.good, fit.residual_m))
    if best.sim is None:
        return GpsAlignment(False, "the GPS positions do not fit the reconstruction", count)
    if not best.good:
        reason = f"the GPS positions miss the reconstruction by {best.residual_m:.1f} m"
        return GpsAlignment(False, reason, count, best.residual_m)
    model.transform(best.sim)
    what = "GPS positions" if best is fits[0] else "GPS positions, their altitudes left out"
    return GpsAlignment(
        True, f"oriented and scaled by {count} {what}", count, best.residual_m, origin
    )


@dataclass(frozen=True)
class _Fit:
    sim: pycolmap.Sim3d | None
    residual_m: float
    good: bool


def _fit(
    source: np.ndarray, target: np.ndarray, near: np.ndarray, extent: float, seed: int
) -> _Fit:
    """The similarity that takes camera centres [N, 3] to positions [N, 3], and how well."""
    ransac = pycolmap.RANSACOptions()
    ransac.max_error = max(0.1 * extent, min(max(5.0, 0.5 * extent), GPS_ERROR_M))
    ransac.random_seed = seed
    # pycolmap's stub promises a Sim3d; what comes is a dict that holds it
    found: Any = pycolmap.estimate_sim3d_robust(source[near], target[near], ransac)
    if found is None:
        return _Fit(None, float("inf"), False)
    sim = found["tgt_from_src"]
    inliers = _distances(sim, source, target) <= ransac.max_error
    if inliers.sum() >= MIN_IMAGES:
        sim = pycolmap.estimate_sim3d(source[inliers], target[inliers]) or sim
    residual = float(np.median(_distances(sim, source, target)))
    good = inliers.mean() >= MIN_INLIER_RATIO and residual <= MAX_RESIDUAL * extent
    return _Fit(sim, residual, bool(good))


def _distances(sim: pycolmap.Sim3d, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    moved = sim.scale * source @ sim.rotation.matrix().T + sim.translation
    return np.linalg.norm(moved - target, axis=1)
