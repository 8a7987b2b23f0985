"""Which way is up, for the ways in which people walk and hold cameras."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from splat_assets.training.dataset import TrainingView
from splat_assets.training.scene import frame_from_cameras

UP = np.array([0.0, 0.0, 1.0])


def camera(turn: float, tilt: float, roll: float = 0.0) -> np.ndarray:
    """[4, 4] world → camera: at unit distance, `turn` about z, looking down by `tilt` radians."""
    forward = -np.array([np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)])
    right = np.array([-np.sin(turn), np.cos(turn), 0.0])
    down = np.cross(forward, right)
    right, down = (
        np.cos(roll) * right + np.sin(roll) * down,
        np.cos(roll) * down - np.sin(roll) * right,
    )
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, down, forward])
    viewmat[:3, 3] = viewmat[:3, :3] @ forward
    return viewmat


def up_of(viewmats: list[np.ndarray]) -> np.ndarray:
    views = [
        TrainingView(f"{i}", Path("x"), None, 10, 10, np.eye(3), viewmat, False)
        for i, viewmat in enumerate(viewmats)
    ]
    return frame_from_cameras(views, np.zeros((0, 3))).up


def degrees_off(up: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip(up @ UP, -1, 1))))


def test_half_way_round_and_looking_down() -> None:
    """The pictures' own up leans towards the middle of the arc; the horizon does not."""
    assert degrees_off(up_of([camera(t, 0.6) for t in np.linspace(0, 2.0, 12)])) < 1e-3


@pytest.mark.parametrize("tilt", [1.5, 1.56])
def test_almost_straight_down(tilt: float) -> None:
    assert degrees_off(up_of([camera(t, tilt) for t in np.linspace(0, 6, 15)])) < 1e-3


def test_by_hand_and_some_upright() -> None:
    rng = np.random.default_rng(0)
    turns = np.linspace(0, 6, 24)
    rolls = rng.normal(0, 0.04, 24)
    rolls[[3, 11, 12, 19]] += np.pi / 2  # a portrait whose turn nobody noted
    found = up_of([camera(t, 0.3, r) for t, r in zip(turns, rolls, strict=True)])
    assert degrees_off(found) < 2.0


def test_all_looking_one_way() -> None:
    assert degrees_off(up_of([camera(t, 0.0) for t in np.linspace(-0.05, 0.05, 8)])) < 1e-3
