"""SIFT features into a COLMAP database, with our cameras and masks.

SIFT on the CPU is most of the cost of a reconstruction. COLMAP doubles every image before it looks
for features (`first_octave=-1`), which makes poses twice as accurate and costs five times the time.
Reducing the image first keeps most of the accuracy for a fraction of the time, since the points
gained from the last pixels are the least repeatable ones (benchmarks/poses_vs_defaults.py). Images
that give few points so are searched again at a larger size.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pycolmap

from splat_assets.artifacts.manifest import link_or_copy
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.native import count_rows, run_native
from splat_assets.progress import Progress

# A focal length outside these multiples of the long side is no camera but a broken EXIF entry.
MIN_FOCAL_RATIO, MAX_FOCAL_RATIO = 0.25, 12.0
DEFAULT_FOCAL_RATIO = 1.2  # COLMAP's guess where EXIF is silent
# images are searched at no more than this of their size, before doubling; few images are cheap to
# search and need every point
SHARE_OF_SIDE, SHARE_IF_FEW, FEW_IMAGES = 0.48, 0.6, 20
SMALL_SIDE = 384  # pixels; below, every one of them is needed
ENOUGH_FEATURES = 800  # an image with fewer is searched again
LARGER = 1.45  # times the size


@dataclass(frozen=True)
class FeaturePlan:
    """How features are found in every image."""

    long_side: int  # pixels, before doubling; larger images are reduced to it
    max_features: int
    peak_threshold: float = 0.005
    focal_priors: bool = True  # use EXIF focal lengths

    @classmethod
    def first(
        cls, long_side: int, max_features: int, *, num_images: int, largest_side: int
    ) -> FeaturePlan:
        """The first attempt's plan, for images of at most `largest_side` pixels."""
        share = SHARE_IF_FEW if num_images <= FEW_IMAGES else SHARE_OF_SIDE
        useful = max(round(share * largest_side), SMALL_SIDE)
        return cls(min(long_side, useful), max_features)

    def finer(self, largest_side: int) -> FeaturePlan:
        """The next attempt's plan: more pixels, more and fainter features."""
        return replace(
            self,
            long_side=min(largest_side, round(self.long_side * 1.5)),
            max_features=self.max_features * 2,
            peak_threshold=self.peak_threshold * 0.6,
        )


@dataclass(frozen=True)
class Workspace:
    """The folder COLMAP works in: hard links to the frames under plain names, and its database.

    The links are named by row, since COLMAP's lists cannot hold names with spaces.
    """

    folder: Path
    links: tuple[str, ...]  # N, below images/; in the order of the kept frames
    names: tuple[str, ...]  # N, the frames' own names

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def masks(self) -> Path:
        return self.folder / "masks"

    @property
    def database(self) -> Path:
        return self.folder / "database.db"

    @property
    def image_ids(self) -> list[int]:
        """Ids in the database: row + 1."""
        return list(range(1, len(self.links) + 1))


def make_workspace(folder: Path, frames: FrameSet, kept: pd.DataFrame) -> Workspace:
    """Link the kept frames and their masks into `folder`."""
    links = []
    for row, name in enumerate(kept["name"]):
        link = f"{row:06d}{Path(name).suffix.lower()}"
        link_or_copy(frames.images / name, folder / "images" / link)
        mask = frames.masks / f"{name}.png"
        if mask.exists():
            link_or_copy(mask, folder / "masks" / f"{link}.png")
        links.append(link)
    return Workspace(folder, tuple(links), tuple(str(name) for name in kept["name"]))


def create_database(
    workspace: Workspace, kept: pd.DataFrame, camera_model: str, plan: FeaturePlan
) -> None:
    """Write a fresh database of cameras, rigs, frames and images."""
    workspace.database.unlink(missing_ok=True)
    with pycolmap.Database.open(workspace.database) as database:
        for rows in group_cameras(kept):
            camera = make_camera(rows, camera_model, plan)
            camera.camera_id = database.write_camera(camera)
            rig = pycolmap.Rig()
            rig.add_ref_sensor(camera.sensor_id)
            rig.rig_id = database.write_rig(rig)
            for row in rows.index:
                image = pycolmap.Image(name=workspace.links[row], camera_id=camera.camera_id)
                image.image_id = row + 1
                database.write_image(image, use_image_id=True)
                frame = pycolmap.Frame()
                frame.frame_id = row + 1
                frame.rig_id = rig.rig_id
                frame.add_data_id(image.data_id)
                database.write_frame(frame, use_frame_id=True)


def group_cameras(kept: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Rows that share intrinsics: equal camera key and size, EXIF focal lengths within 2 %.

    The index of `kept` must be 0..N-1.
    """
    keys = kept["camera"].fillna("").astype(str)
    keys = keys.where(keys != "", kept["name"].astype(str))
    # a zoom lens is another camera at each setting
    focal = np.log(kept["focal_px"].to_numpy(np.float64, na_value=np.nan)) / np.log(1.02)
    zoom = pd.Series(focal, kept.index).round().fillna(-1)
    groups = kept.groupby([keys.rename("key"), "width", "height", zoom.rename("zoom")], sort=False)
    for _, rows in groups:
        yield rows


def make_camera(rows: pd.DataFrame, camera_model: str, plan: FeaturePlan) -> pycolmap.Camera:
    """The first guess of a group's camera, with a prior where EXIF gives a believable one."""
    width, height = int(rows["width"].iloc[0]), int(rows["height"].iloc[0])
    focal = float(rows["focal_px"].astype(float).median())
    known = plan.focal_priors and plausible_focal(focal, width, height)
    guess = focal if known else DEFAULT_FOCAL_RATIO * max(width, height)
    model = "SIMPLE_RADIAL" if camera_model == "auto" else camera_model
    camera = pycolmap.Camera.create_from_model_name(1, model, guess, width, height)
    camera.has_prior_focal_length = known
    return camera


def plausible_focal(focal: float, width: int, height: int) -> bool:
    """Whether a focal length in pixels can be a camera's; False for NaN."""
    return bool(MIN_FOCAL_RATIO <= focal / max(width, height) <= MAX_FOCAL_RATIO)


def extract_features(
    workspace: Workspace, plan: FeaturePlan, *, threads: int, progress: Progress
) -> list[int]:
    """Find features in all images, in `threads` threads; returns their number per image.

    Features on masked-out pixels are dropped. Images that give few are done again, larger.
    """
    links = workspace.links
    _run(workspace, links, plan, threads, progress.span(0.0, 0.6))
    counts = _count_features(workspace)
    enough = min(ENOUGH_FEATURES, plan.max_features // 2)
    poor = [row for row, count in enumerate(counts) if count < enough]
    if poor:
        larger = replace(plan, long_side=round(LARGER * plan.long_side))
        _forget_features(workspace.database, [row + 1 for row in poor])
        again = [links[row] for row in poor]
        _run(workspace, again, larger, threads, progress.span(0.6, 1.0))
        counts = _count_features(workspace)
    progress.update(1.0, f"Features: {len(links)} of {len(links)} images", images=len(links))
    return counts


def _run(
    workspace: Workspace,
    links: Sequence[str],
    plan: FeaturePlan,
    threads: int,
    progress: Progress,
) -> None:
    options = pycolmap.FeatureExtractionOptions()
    options.num_threads = threads
    options.use_gpu = False
    options.max_image_size = plan.long_side
    options.sift.max_num_features = plan.max_features
    options.sift.peak_threshold = plan.peak_threshold
    reader = pycolmap.ImageReaderOptions()
    if workspace.masks.is_dir():
        reader.mask_path = workspace.masks
    with count_rows(workspace.database, "keypoints") as count:
        before = count()

        def poll() -> None:
            done = min(count() - before, len(links))
            message = f"Features: {done} of {len(links)} images"
            progress.update(done / len(links), message, images=done)

        run_native(
            lambda token: pycolmap.extract_features(
                workspace.database,
                workspace.images,
                image_names=list(links),
                reader_options=reader,
                extraction_options=options,
                device=pycolmap.Device.cpu,
                cancellation_token=token,
            ),
            poll,
        )


def _count_features(workspace: Workspace) -> list[int]:
    with pycolmap.Database.open(workspace.database) as source:
        return [source.num_keypoints_for_image(number) for number in workspace.image_ids]


def _forget_features(database: Path, image_ids: list[int]) -> None:
    """Remove features, so that the extractor does these images again (pycolmap has no call)."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for table in ("keypoints", "descriptors"):
            rows = [(number,) for number in image_ids]
            connection.executemany(f"DELETE FROM {table} WHERE image_id = ?", rows)
        connection.commit()
