"""The scenes of `training_vs_peer`: poses solved once by our own stages, two splits, and the same
training pictures, cameras and points as a COLMAP model for the peer.

A split holds out every eighth picture by name: A begins with the first, B with the fifth. Settings
may be chosen looking at A; B is only for reporting.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.datasets.options import FrameOptions, PoseOptions, SourceOptions
from splat_assets.datasets.presets import PRESETS
from splat_assets.demo import make_capture
from splat_assets.frames.extract import extract_frames
from splat_assets.poses.pose_model import PoseModel
from splat_assets.poses.solve import solve_poses
from splat_assets.progress import silent
from splat_assets.sources.fetch import fetch_raw_dataset
from splat_assets.training.dataset import TrainingSet, load_training_set
from splat_assets.training.initialise import initial_gaussians
from splat_assets.training.scene import frame_from_cameras

DEMO = "demo"  # the synthetic capture
SCENES = (DEMO, "photos_banana", "drone_caliterra", "gtpose_chair")
SPLIT_OFFSETS = {"A": 0, "B": 4}
HOLD_OUT_EVERY = 8
LONG_SIDE = 320
_FALLBACK_POINTS = 20_000
_POSES = PRESETS["standard"].poses


@dataclass(frozen=True)
class Split:
    """One scene with one choice of held-out views."""

    scene: str
    name: str  # A or B
    folder: Path

    @property
    def peer_input(self) -> Path:
        """A COLMAP model of the training views alone: `images/`, `sparse/0/`."""
        return self.folder / "peer_input"

    @property
    def poses(self) -> PoseModel:
        return PoseModel.open(self.folder / "poses")

    def data(self) -> TrainingSet:
        return load_training_set(self.poses, long_side=LONG_SIDE, test_every=HOLD_OUT_EVERY)


def prepare(scene: str, data: Path, work: Path) -> list[Split]:
    """Both splits of a scene, made at the first call and found again at the next."""
    folder = work / scene
    splits = [Split(scene, name, folder / name) for name in SPLIT_OFFSETS]
    if all((split.peer_input / "done").is_file() for split in splits):
        return splits
    poses = _solve(scene, data, folder)
    for split in splits:
        shutil.rmtree(split.folder, ignore_errors=True)
        _hold_out(poses, split)
        _write_peer_input(split)
    return splits


def _solve(scene: str, data: Path, folder: Path) -> PoseModel:
    out = folder / "poses"
    if (out / "manifest.json").is_file():
        return PoseModel.open(out)
    shutil.rmtree(folder, ignore_errors=True)
    parts = [folder / name for name in ("raw", "frames", "poses")]
    for part in parts:
        part.mkdir(parents=True)
    source = make_capture(folder / "capture").photos if scene == DEMO else data / scene
    raw = fetch_raw_dataset(
        str(source.resolve()), parts[0], options=SourceOptions(), previous=None, progress=silent()
    )
    frames = extract_frames(raw, parts[1], options=FrameOptions(), progress=silent())
    return solve_poses(frames, parts[2], options=PoseOptions(**_POSES), progress=silent())


def _hold_out(poses: PoseModel, split: Split) -> None:
    """The same poses, with this split as the dataset's own."""
    out = split.folder / "poses"
    shutil.copytree(poses.path, out)
    names = sorted(poses.cameras().names)
    report = poses.report() | {
        "test_images": names[SPLIT_OFFSETS[split.name] :: HOLD_OUT_EVERY],
    }
    (out / "report.json").write_text(json.dumps(report), encoding="utf-8")
    write_manifest(out, build_manifest(out, PoseModel.KIND, summary=poses.summary))


def _write_peer_input(split: Split) -> None:
    """Training pictures exactly as our trainer sees them (transparent ones on black), and points.

    A scene whose poses came without points gets the points that our own run begins with.
    """
    poses, data = split.poses, split.data()
    out = split.peer_input
    (out / "images").mkdir(parents=True)
    (out / "sparse" / "0").mkdir(parents=True)
    model = pycolmap.Reconstruction()
    for number, index in enumerate(data.train, start=1):
        view = data.views[index]
        pixels = data.sample(index).image.numpy()
        name = f"{number:04d}.png"
        Image.fromarray(np.uint8(pixels * 255.0 + 0.5)).save(out / "images" / name)
        params = [view.K[0, 0], view.K[1, 1], view.K[0, 2], view.K[1, 2]]
        camera = pycolmap.Camera(
            model="PINHOLE", width=view.width, height=view.height, params=params, camera_id=number
        )
        model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name, pycolmap.Point2DList(), number, number)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(view.viewmat[:3]))
    points = poses.points()
    if len(points.xyz) == 0:
        frame = frame_from_cameras(data.views, points.xyz)
        tensors, _ = initial_gaussians(
            data, points, frame, budget=_FALLBACK_POINTS, sh_degree=0,
            init_opacity=0.1, init_scale=1.0, seed=0,
        )  # fmt: skip
        rgb = np.clip(0.5 + 0.28209479177387814 * tensors["sh0"][:, 0].numpy(), 0, 1)
        points = replace(
            points, xyz=tensors["means"].double().numpy(), rgb=(rgb * 255).astype(np.uint8)
        )
    for position, colour in zip(points.xyz, points.rgb, strict=True):
        model.add_point3D(position, pycolmap.Track(), colour)
    model.write(str(out / "sparse" / "0"))
    data.close()
    (out / "done").touch()
