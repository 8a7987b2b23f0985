"""GPS makes a reconstruction metric and upright where it can, and says why where it cannot."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import pycolmap
import pytest

from splat_assets.poses.gps import align_to_gps, local_positions
from splat_assets_tests.data import Capture
from splat_assets_tests.poses.conftest import Solved
from splat_assets_tests.poses.rings import ring_model

ORIGIN = (47.0, 8.0, 400.0)
NAMES = [f"{i:02d}.jpg" for i in range(12)]


def geodetic_table(enu: np.ndarray, lat: float, lon: float, alt: float) -> pd.DataFrame:
    """WGS84 degrees of small offsets in metres, by the ellipsoid's two radii of curvature."""
    a, e2 = 6378137.0, 6.69437999014e-3
    down = 1 - e2 * np.sin(np.deg2rad(lat)) ** 2
    meridian, normal = a * (1 - e2) / down**1.5, a / down**0.5
    return pd.DataFrame(
        {
            "gps_lat": lat + np.rad2deg(enu[:, 1] / (meridian + alt)),
            "gps_lon": lon + np.rad2deg(enu[:, 0] / ((normal + alt) * np.cos(np.deg2rad(lat)))),
            "gps_alt": alt + enu[:, 2],
        }
    )


def test_positions_are_metres_east_north_up() -> None:
    enu = np.array([[0.0, 0, 0], [30, 0, 2], [-30, 0, -2], [0, 25, 1], [0, -25, -1]])
    located = local_positions(geodetic_table(enu, *ORIGIN))
    assert located is not None
    np.testing.assert_allclose(located[0], enu, atol=0.01)
    np.testing.assert_allclose(located[1], ORIGIN, atol=1e-6)


def test_photos_without_a_position() -> None:
    table = geodetic_table(np.array([[0.0, 0, 0], [10, 0, 4], [0, 10, 8], [5, 5, 0]]), *ORIGIN)
    table.loc[0, "gps_alt"] = np.nan
    table.loc[3, ["gps_lat", "gps_lon", "gps_alt"]] = np.nan
    located = local_positions(table)
    assert located is not None
    assert located[0][0, 2] == pytest.approx(0, abs=1e-3)  # the middle's altitude
    assert np.isnan(located[0][3]).all()
    table.loc[2, "gps_lat"] = np.nan
    assert local_positions(table) is None


def twisted(names: list[str]) -> tuple[pycolmap.Reconstruction, np.ndarray]:
    """A ring in another frame and scale, and its true positions: 40 m wide, z up."""
    model = ring_model(names, distance=20.0)
    turn = pycolmap.Rotation3d(np.array([0.5, -0.5, 0.5, 0.5]))
    model.transform(
        pycolmap.Sim3d(1.0, pycolmap.Rotation3d(np.array([-1.0, 0, 0, 1.0]) / 2**0.5), [0, 0, 0])
    )
    true = centers(model, names)
    model.transform(pycolmap.Sim3d(0.07, turn, [3.0, -1.0, 2.0]))
    return model, true


def centers(model: pycolmap.Reconstruction, names: list[str]) -> np.ndarray:
    by_name = {image.name: image.projection_center() for image in model.images.values()}
    return np.array([by_name[name] for name in names])


def test_known_positions_are_recovered() -> None:
    model, true = twisted(NAMES)
    done = align_to_gps(model, dict(zip(NAMES, true, strict=True)), ORIGIN, seed=0)
    assert done.aligned
    assert (done.num_images, done.origin) == (12, ORIGIN)
    assert done.residual_m == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(centers(model, NAMES), true, atol=1e-6)
    model.update_point_3d_errors()
    assert model.compute_mean_reprojection_error() < 1e-3  # points moved along


def test_a_phones_noise_averages_out() -> None:
    model, true = twisted(NAMES)
    measured = true + np.random.default_rng(2).normal(scale=[3, 3, 3], size=true.shape)
    done = align_to_gps(model, dict(zip(NAMES, measured, strict=True)), ORIGIN, seed=0)
    assert done.aligned, done.reason
    assert np.linalg.norm(centers(model, NAMES) - true, axis=1).max() < 4
    extent = np.linalg.norm(np.ptp(centers(model, NAMES), axis=0)) / np.linalg.norm(
        np.ptp(true, axis=0)
    )
    assert extent == pytest.approx(1, abs=0.12)


def test_drifting_altitudes_do_not_tilt() -> None:
    model, true = twisted(NAMES)
    measured = true + np.linspace(-15, 15, len(true))[:, None] * [0, 0, 1]
    done = align_to_gps(model, dict(zip(NAMES, measured, strict=True)), ORIGIN, seed=0)
    assert done.aligned and "altitudes left out" in done.reason
    assert np.ptp(centers(model, NAMES)[:, 2] - true[:, 2]) < 0.5


@pytest.mark.parametrize("off_m", [60.0, 5_000.0, 2_000_000.0])
def test_broken_positions_do_not_pull(off_m: float) -> None:
    model, true = twisted(NAMES)
    rng = np.random.default_rng(0)
    measured = true + rng.normal(scale=0.5, size=true.shape)
    measured[3] += [off_m, 0, 0]
    measured[8] += [0, off_m, 0]
    done = align_to_gps(model, dict(zip(NAMES, measured, strict=True)), ORIGIN, seed=0)
    assert done.aligned, done.reason
    assert np.linalg.norm(centers(model, NAMES) - true, axis=1).max() < 1.5


@pytest.mark.parametrize(
    ("positions", "reason"),
    [
        (lambda true: true * [1, 0.01, 0], "the GPS positions spread only 14.1 m by 0.1 m"),
        (lambda true: true * 0.1, "the GPS positions spread only 1.4 m by 1.4 m"),
        (lambda true: true * 0, "the GPS positions spread only 0.0 m by 0.0 m"),
        (
            lambda true: np.random.default_rng(5).permutation(true),
            "the GPS positions (miss|do not fit)",
        ),
        (lambda true: true[:2], "only 2 registered photos have a GPS position"),
    ],
    ids=["line", "near", "one place", "mixed up", "two"],
)
def test_useless_positions_are_refused(
    positions: Callable[[np.ndarray], np.ndarray], reason: str
) -> None:
    model, true = twisted(NAMES)
    before = centers(model, NAMES)
    done = align_to_gps(model, dict(zip(NAMES, positions(true), strict=False)), ORIGIN, seed=0)
    assert not done.aligned
    assert re.match(reason, done.reason), done.reason
    assert done.origin is None
    np.testing.assert_array_equal(centers(model, NAMES), before)


def test_a_solved_capture_becomes_metric_and_upright(
    solved: Solved, small_capture: Capture
) -> None:
    """The capture, ten times its size, with positions that err by 0.3 m."""
    truth = small_capture.truth
    model = pycolmap.Reconstruction(str(solved.poses.sparse))
    names = list(solved.poses.cameras().names)
    rows = [truth.names.index(name.rpartition("/")[2]) for name in names]
    true = truth.centers[rows] * 10
    measured = true + np.random.default_rng(0).normal(scale=0.3, size=true.shape)
    done = align_to_gps(model, dict(zip(names, measured, strict=True)), ORIGIN, seed=0)
    assert done.aligned, done.reason
    assert done.residual_m is not None
    assert done.residual_m < 1.0
    assert np.linalg.norm(centers(model, names) - true, axis=1).max() < 0.6
    for image in model.images.values():
        row = truth.names.index(image.name.rpartition("/")[2])
        up = -image.cam_from_world().rotation.matrix()[1]
        true_up = -truth.viewmats[row, 1, :3]
        assert up[2] > 0.5
        assert up @ true_up > np.cos(np.deg2rad(2))
