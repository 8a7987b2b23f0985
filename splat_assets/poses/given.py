"""Poses that the dataset brings: a COLMAP model or nerfstudio / NeRF-synthetic transforms files."""

from __future__ import annotations

import posixpath
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pycolmap

from splat_assets.errors import UserError
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.colmap_files import read_model
from splat_assets.poses.sparse_model import ScenePoint, View, points_of, views_of
from splat_assets.poses.transforms_json import camera_of, read_transforms

# an incomplete model is a damaged one, not none
_MODEL_FILES = [f"{stem}.{kind}" for stem in ("cameras", "images") for kind in ("bin", "txt")]


@dataclass(frozen=True)
class GivenPoses:
    """Views named as the frames, their cameras scaled to the frames' sizes, and points."""

    origin: str  # "COLMAP model" | "transforms.json"
    views: tuple[View, ...]
    points: dict[int, ScenePoint]


def has_given_poses(frames: FrameSet) -> bool:
    return _transforms_files(frames.given) != [] or _model_folder(frames.given) is not None


def read_given(frames: FrameSet, kept: pd.DataFrame) -> GivenPoses:
    """Read `frames.given`.

    Raises `UserError` when it is damaged or none of the frames has a pose.
    """
    lookup = _FrameLookup(kept)
    folder = _model_folder(frames.given)
    if folder is not None:
        given = _read_colmap(folder, lookup)
    else:
        given = _read_transforms(frames.given, lookup)
    if not given.views:
        raise UserError(f"The {given.origin} has no pose for any of the {len(kept)} frames.")
    return given


class _FrameLookup:
    """Finds the frame a path of another tool means, by where the frame came from."""

    def __init__(self, kept: pd.DataFrame) -> None:
        self._sizes: dict[str, tuple[int, int]] = {}
        self._source_sizes: dict[str, tuple[int, int]] = {}
        self._by_suffix: dict[str, set[str]] = defaultdict(set)
        for row in kept.to_dict("records"):
            name = str(row["name"])
            self._sizes[name] = int(row["width"]), int(row["height"])
            self._source_sizes[name] = self._sizes[name]
            if not pd.isna(row["source_width"]):
                self._source_sizes[name] = int(row["source_width"]), int(row["source_height"])
            for path in (str(row["source_file"]), name):
                for form in (path, posixpath.splitext(path)[0]):
                    parts = form.split("/")
                    for start in range(len(parts)):
                        self._by_suffix["/".join(parts[start:])].add(name)

    def find(self, path: str) -> str | None:
        """The frame's name; None when there is none, or when the path could mean several."""
        plain = posixpath.normpath(path.replace("\\", "/"))
        parts = [part for part in plain.split("/") if part not in ("..", "", ".")]
        # the longest ending that names a frame wins: train/r_0 before r_0
        for start in range(len(parts)):
            ending = "/".join(parts[start:])
            for form in (ending, posixpath.splitext(ending)[0]):
                found = self._by_suffix.get(form, set())
                if len(found) == 1:
                    return next(iter(found))
        return None

    def size(self, name: str) -> tuple[int, int]:
        return self._sizes[name]

    def source_size(self, name: str) -> tuple[int, int]:
        return self._source_sizes[name]


def _transforms_files(given: Path) -> list[Path]:
    return sorted(given.glob("transforms*.json")) if given.is_dir() else []


def _model_folder(given: Path) -> Path | None:
    for folder in (given / "sparse", given / "sparse" / "0"):
        if any((folder / name).exists() for name in _MODEL_FILES):
            return folder
    return None


def _read_transforms(given: Path, lookup: _FrameLookup) -> GivenPoses:
    cameras: dict[str, tuple[int, pycolmap.Camera]] = {}
    views: dict[str, View] = {}
    points: dict[int, ScenePoint] = {}
    for path in _transforms_files(given):
        for frame in read_transforms(path):
            name = lookup.find(frame.file_path)
            if name is None or name in views:
                continue
            try:
                camera = camera_of(frame.intrinsics, lookup.source_size(name), lookup.size(name))
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{path.name}: {frame.file_path} has no usable camera ({error})."
                ) from None
            key = f"{camera.model_name} {camera.width} {camera.height} {camera.params_to_string()}"
            number, camera = cameras.setdefault(key, (len(cameras) + 1, camera))
            views[name] = View(
                name,
                number,
                camera,
                frame.cam_from_world,
                np.zeros((0, 2)),
                np.zeros(0, np.int64),
            )
            cloud = frame.intrinsics.get("ply_file_path")
            if cloud and not points:
                points = _read_cloud(given / posixpath.basename(str(cloud)))
    return GivenPoses("transforms.json", tuple(views[n] for n in sorted(views)), points)


def _read_cloud(path: Path) -> dict[int, ScenePoint]:
    """The points of a PLY with x, y, z and red, green, blue; none when the file did not come along.

    Raises `UserError` when it is no such PLY.
    """
    if not path.exists():
        return {}
    head, mark, body = path.read_bytes().partition(b"end_header")
    # COLMAP's reader knows PLY's first type names only, nerfstudio writes the second ones
    for new, old in ((b"uint8", b"uchar"), (b"float32", b"float"), (b"float64", b"double")):
        head = head.replace(new, old)
    cloud = pycolmap.Reconstruction()
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch) / "cloud.ply"
        plain.write_bytes(head + mark + body)
        try:
            cloud.import_PLY(plain)
        except (RuntimeError, ValueError, IndexError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"The point cloud {path.name} of transforms.json cannot be read ({reason})."
            ) from None
    return points_of(cloud)


def _read_colmap(folder: Path, lookup: _FrameLookup) -> GivenPoses:
    try:
        model = read_model(folder)
    except ValueError as error:
        raise UserError(
            f"The given COLMAP model cannot be read ({error}); export it again."
        ) from None
    names: dict[str, str] = {}
    for image in model.images.values():
        name = lookup.find(image.name)
        if name is not None and name not in names.values():
            names[image.name] = name
    resized: dict[tuple[int, tuple[int, int]], tuple[int, pycolmap.Camera]] = {}
    views = []
    for view in views_of(model, names):
        size = lookup.size(view.name)
        key = (view.camera_id, size)
        if key not in resized:
            camera = pycolmap.Camera(view.camera.todict())
            camera.rescale(*size)
            resized[key] = (len(resized) + 1, camera)
        number, camera = resized[key]
        factor = np.array(size) / np.array([view.camera.width, view.camera.height])
        views.append(
            View(view.name, number, camera, view.cam_from_world, view.xy * factor, view.point_ids)
        )
    return GivenPoses("COLMAP model", tuple(views), _seen_points(model, views))


def _seen_points(model: pycolmap.Reconstruction, views: list[View]) -> dict[int, ScenePoint]:
    """The points of those views, and those that the model has without saying who saw them."""
    seen = {int(number) for view in views for number in view.point_ids}
    return {
        number: point
        for number, point in points_of(model).items()
        if number in seen or model.points3D[number].track.length() == 0
    }
