"""Walk around the demo scene and take photos: what a newcomer's first run works on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splat_assets.demo.scene import CENTER, Scene, build_scene, render
from splat_assets.demo.truth import Truth
from splat_assets.progress import Progress, silent

FOCAL_35MM = 28  # of the photos' EXIF; 35 mm film has a diagonal of 43.27 mm
_DIAGONAL_35MM = float(np.hypot(36.0, 24.0))
_SENSOR_DIAGONAL_MM = 7.7
_WIDEST_STEP = np.deg2rad(15.0)  # between neighbours: photos that share most of what they show


@dataclass(frozen=True)
class Capture:
    """A finished synthetic capture: `photos/*.jpg` without poses, `truth.json` beside them."""

    folder: Path
    truth: Truth

    @property
    def photos(self) -> Path:
        return self.folder / "photos"

    @property
    def truth_path(self) -> Path:
        return self.folder / "truth.json"


def make_capture(
    folder: Path,
    *,
    num_images: int = 24,
    width: int = 640,
    height: int = 480,
    seed: int = 0,
    progress: Progress | None = None,
) -> Capture:
    """Photograph the demo scene from all around; equal arguments give equal photos.

    Writes `folder/photos/IMG_0001.jpg …` (JPEG quality 95 with the EXIF focal length) and, last,
    `folder/truth.json` with the exact cameras.
    """
    progress = progress or silent()
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    scene = build_scene(seed)
    truth = _plan(scene, num_images, width, height, seed)
    for number, (name, viewmat) in enumerate(zip(truth.names, truth.viewmats, strict=True)):
        progress.update(number / num_images, f"Photographing {name}")
        _write_photo(photos / name, render(scene, truth.K, viewmat, width, height))
    capture = Capture(folder, truth)
    truth.save(capture.truth_path)
    return capture


def _plan(scene: Scene, num_images: int, width: int, height: int, seed: int) -> Truth:
    """Cameras around the scene, up and down, nearer and farther, as a hand would hold them.

    Few photos cover an arc only, so that neighbours always overlap enough to be matched.
    """
    rng = np.random.default_rng([seed, 1])
    focal = FOCAL_35MM / _DIAGONAL_35MM * float(np.hypot(width, height))
    K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    step = min(_WIDEST_STEP, 2 * np.pi / num_images)
    turn = step * (np.arange(num_images) + rng.uniform(-0.15, 0.15, num_images))
    distance = 3.6 + 0.4 * np.sin(2 * turn) + rng.uniform(-0.1, 0.1, num_images)
    rise = 1.5 + 0.6 * np.sin(3 * turn) + rng.uniform(-0.1, 0.1, num_images)
    eyes = np.stack([distance * np.cos(turn), distance * np.sin(turn), rise], axis=1)
    aims = CENTER + rng.uniform(-0.12, 0.12, (num_images, 3))
    rolls = rng.uniform(-0.04, 0.04, num_images)
    viewmats = np.stack([_look_at(*pose) for pose in zip(eyes, aims, rolls, strict=True)])
    names = tuple(f"IMG_{number + 1:04d}.jpg" for number in range(num_images))
    return Truth(names, viewmats, K, width, height, scene.size)


def _look_at(eye: np.ndarray, aim: np.ndarray, roll: float) -> np.ndarray:
    """[4, 4] world → camera of a camera at `eye` that looks at `aim`, turned by `roll` radians."""
    forward = (aim - eye) / np.linalg.norm(aim - eye)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    right, down = (
        np.cos(roll) * right + np.sin(roll) * down,
        np.cos(roll) * down - np.sin(roll) * right,
    )
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, down, forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ eye
    return viewmat


def _write_photo(path: Path, pixels: np.ndarray) -> None:
    from PIL import ExifTags, Image
    from PIL.TiffImagePlugin import IFDRational

    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "splat-assets"
    exif[ExifTags.Base.Model] = "synthetic pinhole"
    detail = exif.get_ifd(ExifTags.IFD.Exif)
    focal_mm = FOCAL_35MM * _SENSOR_DIAGONAL_MM / _DIAGONAL_35MM
    detail[ExifTags.Base.FocalLength] = IFDRational(round(focal_mm * 1000), 1000)
    detail[ExifTags.Base.FocalLengthIn35mmFilm] = FOCAL_35MM
    Image.fromarray(pixels).save(path, quality=95, subsampling=0, exif=exif)
