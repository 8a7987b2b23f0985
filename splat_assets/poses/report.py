"""`report.json` and the summary: what registered, how well, what was tried, and what it cost."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.poses.sparse_model import ScenePoint, View

NAMED = 20  # unregistered images listed in the summary


class Stopwatch:
    """Wall and CPU seconds (all threads of this process) per stage, added up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu_seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        wall, cpu = time.monotonic(), time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - wall
            self.cpu_seconds[name] += time.process_time() - cpu

    def to_dict(self) -> dict[str, Any]:
        return {
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "cpu_seconds": {name: round(value, 3) for name, value in self.cpu_seconds.items()},
        }


def image_rows(
    kept: pd.DataFrame, views: Sequence[View], points: dict[int, ScenePoint]
) -> list[dict[str, Any]]:
    """Per kept frame: name, registered, observations, mean reprojection error in pixels."""
    by_name = {view.name: view for view in views}
    rows = []
    for name in (str(name) for name in kept["name"]):
        view = by_name.get(name)
        row: dict[str, Any] = {"name": name, "registered": view is not None}
        if view is not None:
            errors = reprojection_errors(view, points)
            row["observations"] = len(errors)
            row["reprojection_error_px"] = round(float(errors.mean()), 4) if len(errors) else None
        rows.append(row)
    return rows


def reprojection_errors(view: View, points: dict[int, ScenePoint]) -> np.ndarray:
    """[K] distances in pixels of the view's observations from their projected points.

    Points behind the camera count as unknown and are left out.
    """
    known = np.array([int(number) in points for number in view.point_ids], dtype=bool)
    if not known.any():
        return np.zeros(0)
    xyz = np.array([points[int(number)].xyz for number in view.point_ids[known]])
    pose = view.cam_from_world.matrix()
    local = xyz @ pose[:, :3].T + pose[:, 3]
    in_front = local[:, 2] > 1e-9
    projected = np.asarray(view.camera.img_from_cam(np.ascontiguousarray(local[in_front])))
    return np.linalg.norm(projected - view.xy[known][in_front], axis=1)


def summarise(
    kept: pd.DataFrame,
    views: Sequence[View],
    points: dict[int, ScenePoint],
    rows: Sequence[dict[str, Any]],
    **known: Any,
) -> dict[str, Any]:
    """The manifest's summary (see `PoseModel`); `known` adds mapper, matching, attempts, …"""
    registered = {view.name for view in views}
    missing = [str(name) for name in kept["name"] if str(name) not in registered]
    observations = sum(row.get("observations", 0) for row in rows)
    total_error = sum(
        row["observations"] * row["reprojection_error_px"]
        for row in rows
        if row.get("reprojection_error_px") is not None
    )
    error = total_error / observations if observations else math.nan
    return {
        "num_frames": len(kept),
        "num_registered": len(views),
        "registered_ratio": round(len(views) / len(kept), 4),
        "reprojection_error_px": round(error, 4) if math.isfinite(error) else None,
        "num_points": len(points),
        "mean_track_length": round(observations / len(points), 3) if observations else None,
        "unregistered": missing[:NAMED],
        **known,
    }


def write_report(path: Path, content: dict[str, Any]) -> None:
    write_text_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
