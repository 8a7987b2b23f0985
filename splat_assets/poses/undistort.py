"""Images as an ideal pinhole camera would have taken them, for training; masks and alpha too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

from splat_assets.artifacts.manifest import link_or_copy
from splat_assets.errors import UserError
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.sparse_model import View
from splat_assets.progress import Progress

# Less than this anywhere in the image is below what features are located to; such images are taken
# as they are, which spares them a second JPEG compression.
NEGLIGIBLE_PX = 0.1
JPEG_QUALITY = 95


def undistort_views(
    views: list[View], frames: FrameSet, out: Path, *, threads: int, progress: Progress
) -> list[View]:
    """Write `out/images` and `out/masks`; returns the views with PINHOLE cameras.

    Images of cameras without distortion are hard-linked. Cancel works between images.
    """
    targets = {view.camera_id: pinhole_of(view.camera) for view in views}
    done = 0

    def work(view: View) -> View:
        progress.check()
        target = targets[view.camera_id]
        picture = frames.images / view.name
        mask = frames.masks / f"{view.name}.png"
        if distortion_px(view.camera, target) < NEGLIGIBLE_PX:
            link_or_copy(picture, out / "images" / view.name)
            if mask.exists():
                link_or_copy(mask, out / "masks" / mask.relative_to(frames.masks))
            return replace(view, camera=target)
        _undistort_file(picture, out / "images" / view.name, view.camera)
        if mask.exists():
            _undistort_mask(mask, out / "masks" / mask.relative_to(frames.masks), view.camera)
        return replace(view, camera=target, xy=_move(view.xy, view.camera, target))

    finished = []
    pool = ThreadPoolExecutor(threads, thread_name_prefix="undistort")
    try:
        for view in pool.map(work, views):
            finished.append(view)
            done += 1
            progress.update(done / len(views), f"Undistorted {done} of {len(views)} images")
    finally:
        pool.shutdown(cancel_futures=True)
    return finished


def pinhole_of(camera: pycolmap.Camera) -> pycolmap.Camera:
    """The PINHOLE camera of the undistorted image, without blank borders."""
    if camera.model_name in ("SIMPLE_PINHOLE", "PINHOLE"):
        target = pycolmap.Camera(model="PINHOLE", width=camera.width, height=camera.height)
        target.params = [
            camera.focal_length_x,
            camera.focal_length_y,
            camera.principal_point_x,
            camera.principal_point_y,
        ]
        return target
    same_size = _without_distortion(camera)
    if same_size is not None and distortion_px(camera, same_size) < NEGLIGIBLE_PX:
        return same_size
    return pycolmap.undistort_camera(pycolmap.UndistortCameraOptions(), camera)


def distortion_px(camera: pycolmap.Camera, pinhole: pycolmap.Camera) -> float:
    """Largest distance that undistortion moves a pixel; infinite when the image size changes."""
    if (camera.width, camera.height) != (pinhole.width, pinhole.height):
        return float("inf")
    x, y = np.meshgrid(np.linspace(0, camera.width, 9), np.linspace(0, camera.height, 9))
    grid = np.stack([x.ravel(), y.ravel()], axis=1)
    moved = _move(grid, camera, pinhole)
    return float(np.linalg.norm(moved - grid, axis=1).max())


def _without_distortion(camera: pycolmap.Camera) -> pycolmap.Camera | None:
    if not camera.is_perspective_pinhole():
        return None
    target = pycolmap.Camera(model="PINHOLE", width=camera.width, height=camera.height)
    target.params = [
        *(float(camera.params[i]) for i in _pair(camera.focal_length_idxs())),
        camera.principal_point_x,
        camera.principal_point_y,
    ]
    return target


def _pair(indices: list[int]) -> list[int]:
    return [indices[0], indices[-1]]


def _move(xy: np.ndarray, camera: pycolmap.Camera, target: pycolmap.Camera) -> np.ndarray:
    """Pixels [K, 2] of `camera` as pixels of `target`."""
    if len(xy) == 0:
        return xy
    flat = np.asarray(camera.cam_from_img(np.ascontiguousarray(xy, np.float64)))
    rays = np.concatenate([flat, np.ones((len(flat), 1))], axis=1)
    return np.asarray(target.img_from_cam(rays))


def _undistort_file(source: Path, target: Path, camera: pycolmap.Camera) -> None:
    with Image.open(source) as opened:
        plain = opened.mode in ("RGB", "RGBA", "L", "LA")
        pixels = np.asarray(opened if plain else opened.convert("RGB"))
    if (pixels.shape[1], pixels.shape[0]) != (camera.width, camera.height):
        raise UserError(
            f"{source.name} is {pixels.shape[1]} x {pixels.shape[0]} pixels but its camera is "
            f"{camera.width} x {camera.height}; give the images the poses were made from."
        )
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):
        colors = _undistort(np.squeeze(pixels[..., :-1]), camera)
        alpha = _undistort(pixels[..., -1], camera)
        pixels = np.dstack([colors, alpha])
    else:
        pixels = _undistort(pixels, camera)
    target.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if target.suffix.lower() in (".jpg", ".jpeg"):
        picture.save(target, quality=JPEG_QUALITY, subsampling=0)
    else:
        picture.save(target)


def _undistort_mask(source: Path, target: Path, camera: pycolmap.Camera) -> None:
    with Image.open(source) as opened:
        keep = np.asarray(opened.convert("L"))
    moved = _undistort(keep, camera)
    target.parent.mkdir(parents=True, exist_ok=True)
    # a pixel that is half of a masked one is not to be trained on
    Image.fromarray(np.where(moved >= 254, 255, 0).astype(np.uint8)).save(target)


def _undistort(pixels: np.ndarray, camera: pycolmap.Camera) -> np.ndarray:
    bitmap = pycolmap.Bitmap.from_array(np.ascontiguousarray(pixels))
    options = pycolmap.UndistortCameraOptions()
    moved, _ = pycolmap.undistort_image(options, bitmap, camera)
    array = np.asarray(moved.to_array())
    return array[..., 0] if pixels.ndim == 2 and array.ndim == 3 else array
