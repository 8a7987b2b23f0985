"""Trained splats as compression receives them, with cameras and photos or without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.compute import Compute
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.ply import write_ply
from splat_assets.gaussians.sh import rgb_to_sh0
from splat_assets.gaussians.splat_model import SplatModel, View
from splat_assets.gaussians.transform import rotate
from splat_assets.viewing.camera import orbit_views, turn_view

CPU = Compute("cpu", "numba", "the tests run on the CPU", 1)
CENTER = np.array([0.3, 0.1, -0.2])
RADIUS = 1.2
# the poses' frame: x stays, up is +z
POSES_FROM_UPRIGHT = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
TOP, BOTTOM = (0.9, 0.15, 0.1), (0.1, 0.2, 0.9)


def two_tone_ball(n: int = 600, sh_degree: int = 1, seed: int = 0) -> Gaussians:
    """A ball of radius 1 around `CENTER`, upright (up is -y): red above, blue below."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(n, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    means = directions * rng.uniform(0.6, 1.0, (n, 1))
    rgb = np.where(means[:, 1:2] < 0, TOP, BOTTOM) + rng.normal(0, 0.03, (n, 3))
    count = (sh_degree + 1) ** 2 - 1
    return Gaussians(
        means=(means + CENTER).astype(np.float32),
        quats=rng.normal(size=(n, 4)).astype(np.float32),
        scales=rng.normal(-2.3, 0.3, (n, 3)).astype(np.float32),
        opacities=rng.normal(2, 1, n).astype(np.float32),
        sh0=rgb_to_sh0(rgb)[:, None, :].astype(np.float32),
        shN=rng.normal(0, 0.05, (n, count, 3)).astype(np.float32),
    )


def upright_views(count: int = 6, size: int = 96) -> list[View]:
    """Cameras around the ball."""
    return orbit_views(CENTER, RADIUS, count=count, size=size)


def trained_model(folder: Path, gaussians: Gaussians | None = None) -> SplatModel:
    """A finished `SplatModel` of the ball in a frame whose up is +z, two of six views held out."""
    from splat_assets.compression.quality import draw_views

    upright = two_tone_ball() if gaussians is None else gaussians
    splat = rotate(upright, POSES_FROM_UPRIGHT)
    views = [turn_view(view, POSES_FROM_UPRIGHT) for view in upright_views()]
    folder.mkdir(parents=True)
    (folder / "views").mkdir()
    write_ply(folder / "splat.ply", splat)
    background = (0.1, 0.1, 0.1)
    rng = np.random.default_rng(1)
    entries = []
    drawn = draw_views(splat, views, background=background, compute=CPU)
    for number, (view, picture) in enumerate(zip(views, drawn, strict=True)):
        photo = None
        if number % 3 == 0:
            photo = f"views/{number:03d}.png"
            noisy = np.clip(picture + rng.normal(0, 0.02, picture.shape), 0, 1)
            Image.fromarray((noisy * 255).astype(np.uint8)).save(folder / photo)
        entries.append(
            {
                "name": f"photo {number}.jpg",
                "width": view.width,
                "height": view.height,
                "K": view.K.tolist(),
                "viewmat": view.viewmat.tolist(),
                "is_test": photo is not None,
                "photo": photo,
                "mask": None,
            }
        )
    (folder / "cameras.json").write_text(json.dumps({"views": entries}))
    (folder / "eval.json").write_text(json.dumps({"background": background}))
    summary = {
        "num_gaussians": len(splat),
        "scene_up": [0.0, 0.0, 1.0],
        "scene_center": (POSES_FROM_UPRIGHT @ CENTER).tolist(),
        "scene_radius": RADIUS,
    }
    return _finish(folder, summary)


def given_model(folder: Path, gaussians: Gaussians) -> SplatModel:
    """A finished `SplatModel` that came as a PLY: no cameras, no photos."""
    folder.mkdir(parents=True)
    write_ply(folder / "splat.ply", gaussians)
    return _finish(folder, {"num_gaussians": len(gaussians)})


def _finish(folder: Path, summary: dict[str, object]) -> SplatModel:
    from dataclasses import replace

    manifest = build_manifest(folder, SplatModel.KIND, summary=summary)
    write_manifest(folder, replace(manifest, dataset='my </script> "scene"'))
    return SplatModel.open(folder)
