"""Small scenes with exact cameras: random Gaussians rendered from a ring of cameras."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.compute import Compute
from splat_assets.poses.pose_model import PoseModel

CPU = Compute("cpu", "numba", "the tests run on the CPU", 1)


def ring_viewmats(count: int, distance: float = 4.0) -> np.ndarray:
    """[count, 4, 4] cameras on a ring, a little above the origin they look at; up is -y."""
    viewmats = np.tile(np.eye(4), (count, 1, 1))
    for i, angle in enumerate(np.linspace(0, 2 * np.pi, count, endpoint=False)):
        center = np.array([distance * np.cos(angle), -1.0, distance * np.sin(angle)])
        forward = -center / np.linalg.norm(center)
        right = np.cross(np.array([0.0, 1.0, 0.0]), forward)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        viewmats[i, :3, :3] = rotation
        viewmats[i, :3, 3] = -rotation @ center
    return viewmats


def make_scene(
    folder: Path,
    *,
    views: int = 12,
    size: tuple[int, int] = (64, 48),
    alpha: bool = False,
    points: bool = True,
    mask_columns: int = 0,
    test_images: tuple[str, ...] = (),
    gains: np.ndarray | None = None,
    tracks: bool = False,
    pose_errors: np.ndarray | None = None,
    seed: int = 0,
) -> PoseModel:
    """Write a `PoseModel` of 300 Gaussians within a unit ball.

    Args:
        alpha: RGBA pictures of the Gaussians alone; otherwise a grey wall stands behind them.
        mask_columns: that many columns on the left are spoilt and masked out.
        gains: [views, 3] factors of the colours of each picture.
        tracks: the points know which views see them.
        pose_errors: [views, 4, 4] motions that the cameras written down are off by.
    """
    from splat_assets.rendering.rasterize import rasterize

    width, height = size
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(300, 3)) * 0.35
    rgb = rng.uniform(size=(300, 3))
    K = pinhole(width, height)
    viewmats = ring_viewmats(views)
    renders, alphas, _ = rasterize(
        torch.tensor(means).float(),
        torch.tensor(rng.normal(size=(300, 4))).float(),
        torch.tensor(rng.uniform(0.03, 0.12, size=(300, 3))).float(),
        torch.full((300,), 0.9),
        torch.tensor(rgb).float(),
        torch.tensor(viewmats).float(),
        torch.tensor(np.tile(K, (views, 1, 1))).float(),
        width,
        height,
        backgrounds=torch.full((views, 3), 0.0 if alpha else 0.4),
        render_mode="RGB+ED",
    )
    renders, depths = renders[..., :3], renders[..., 3].numpy()
    pictures, masks = [], []
    for i in range(views):
        pixels = renders[i].numpy() * (1.0 if gains is None else gains[i])
        if alpha:
            opacity = alphas[i].numpy()
            straight = pixels / np.maximum(opacity, 1e-3)
            pixels = np.concatenate([straight, opacity], axis=2)
        picture = (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)
        if mask_columns:
            picture[:, :mask_columns] = rng.integers(0, 255, (height, mask_columns, 3))
            mask = np.full((height, width), 255, np.uint8)
            mask[:, :mask_columns] = 0
            masks.append(mask)
        pictures.append(picture)
    xyz, colours = (means, (rgb * 255).astype(np.uint8)) if points else (means[:0], rgb[:0])
    seen = _visible(viewmats, K, xyz, depths) if tracks else None
    if pose_errors is not None:
        viewmats = pose_errors @ viewmats
    return write_poses(folder, pictures, viewmats, K, xyz, colours, masks, test_images, seen)


def _visible(
    viewmats: np.ndarray, K: np.ndarray, xyz: np.ndarray, depths: np.ndarray
) -> np.ndarray:
    """[views, P] bool: nothing stands before the point."""
    camera = np.einsum("nij,pj->npi", viewmats[:, :3, :3], xyz) + viewmats[:, None, :3, 3]
    pixel = (camera @ K.T)[..., :2] / camera[..., 2:]
    x, y = np.floor(pixel).astype(int).transpose(2, 0, 1)
    height, width = depths.shape[1:]
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    surface = depths[np.arange(len(depths))[:, None], y.clip(0, height - 1), x.clip(0, width - 1)]
    return inside & (np.abs(surface - camera[..., 2]) < 0.1)


def pinhole(width: int, height: int) -> np.ndarray:
    """[3, 3] with the principal point in the middle."""
    return np.array([[width * 1.1, 0, width / 2], [0, width * 1.1, height / 2], [0, 0, 1]])


def write_poses(
    folder: Path,
    pictures: list[np.ndarray],
    viewmats: np.ndarray,
    K: np.ndarray,
    xyz: np.ndarray,
    colours: np.ndarray,
    masks: list[np.ndarray] | None = None,
    test_images: tuple[str, ...] = (),
    seen: np.ndarray | None = None,
) -> PoseModel:
    """Write pictures `view_00.png`, … with their cameras and points as a finished `PoseModel`."""
    import pycolmap

    (folder / "images").mkdir(parents=True)
    height, width = pictures[0].shape[:2]
    model = pycolmap.Reconstruction()
    parameters = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(camera_id=1, model="PINHOLE", width=width, height=height, params=parameters)
    )
    for i, picture in enumerate(pictures):
        name = f"view_{i:02d}.png"
        Image.fromarray(picture).save(folder / "images" / name)
        if masks:
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(masks[i]).save(folder / "masks" / f"{name}.png")
        keypoints = np.zeros((0 if seen is None else int(seen[i].sum()), 2))
        listed = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in keypoints])
        image = pycolmap.Image(name, listed, 1, i + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(viewmats[i, :3]))
    ids = [
        model.add_point3D(point, pycolmap.Track(), colour)
        for point, colour in zip(xyz, colours, strict=True)
    ]
    for point in model.points3D.values():
        point.error = 0.5
    for image_id, row in enumerate([] if seen is None else seen, start=1):
        for position, number in enumerate(np.flatnonzero(row)):
            element = pycolmap.TrackElement(image_id, position)
            model.add_observation(ids[number], element)
    (folder / "sparse" / "0").mkdir(parents=True)
    model.write(str(folder / "sparse" / "0"))
    (folder / "report.json").write_text(json.dumps({"test_images": list(test_images)}))
    summary = {"num_registered": len(pictures)}
    write_manifest(folder, build_manifest(folder, PoseModel.KIND, summary=summary))
    return PoseModel.open(folder)
