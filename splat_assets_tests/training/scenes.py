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
    seed: int = 0,
) -> PoseModel:
    """Write a `PoseModel` of 300 Gaussians within a unit ball.

    Args:
        alpha: RGBA pictures of the Gaussians alone; otherwise a grey wall stands behind them.
        mask_columns: that many columns on the left are spoilt and masked out.
    """
    import pycolmap

    from splat_assets.rendering.rasterize import rasterize

    width, height = size
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(300, 3)) * 0.35
    rgb = rng.uniform(size=(300, 3))
    K = np.array([[width * 1.1, 0, width / 2], [0, width * 1.1, height / 2], [0, 0, 1]])
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
    )
    (folder / "images").mkdir(parents=True)
    model = pycolmap.Reconstruction()
    camera = pycolmap.Camera(
        camera_id=1,
        model="PINHOLE",
        width=width,
        height=height,
        params=[K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
    )
    model.add_camera_with_trivial_rig(camera)
    for i in range(views):
        name = f"view_{i:02d}.png"
        pixels = renders[i].numpy()
        if alpha:
            opacity = alphas[i].numpy()
            straight = pixels / np.maximum(opacity, 1e-3)
            pixels = np.concatenate([straight, opacity], axis=2)
        pixels = (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)
        if mask_columns:
            pixels[:, :mask_columns] = rng.integers(0, 255, (height, mask_columns, 3))
            mask = np.full((height, width), 255, np.uint8)
            mask[:, :mask_columns] = 0
            (folder / "masks").mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
        Image.fromarray(pixels).save(folder / "images" / name)
        image = pycolmap.Image(name=name, camera_id=1, image_id=i + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(viewmats[i, :3]))
    if points:
        for xyz, colour in zip(means, rgb, strict=True):
            model.add_point3D(xyz, pycolmap.Track(), (colour * 255).astype(np.uint8))
    (folder / "sparse" / "0").mkdir(parents=True)
    model.write(str(folder / "sparse" / "0"))
    (folder / "report.json").write_text(json.dumps({"test_images": list(test_images)}))
    write_manifest(
        folder, build_manifest(folder, PoseModel.KIND, summary={"num_registered": views})
    )
    return PoseModel.open(folder)
