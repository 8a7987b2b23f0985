"""`FrameSet`: normalised, selected frames and the table that says where each came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from splat_assets.artifacts.contract import ArtifactFolder

if TYPE_CHECKING:
    import pandas as pd

# column → pandas dtype of frames.parquet; one row per frame seen, kept or not
COLUMNS = {
    "name": "string",  # file name below images/ (may hold "/"); unique; "" for a dropped frame
    "source_file": "string",  # POSIX path below the raw dataset's files/
    "index": "Int64",  # order of the frame in its source; LeRobot: frame_index
    "episode": "Int64",  # LeRobot: episode_index; <NA> elsewhere
    "timestamp_sec": "float64",  # video time, LeRobot: the row's timestamp; NaN for photos without
    "width": "Int64",  # of the image as written, pixels
    "height": "Int64",
    "source_width": "Int64",  # after EXIF orientation / rotation flag, before resizing
    "source_height": "Int64",
    "sharpness": "float64",  # variance of the Laplacian at a fixed working size
    "exposure": "float64",  # mean luma, 0..1
    "focal_px": "float64",  # EXIF focal length in pixels of the written width; NaN when unknown
    "gps_lat": "float64",  # degrees, WGS84; NaN when unknown
    "gps_lon": "float64",
    "gps_alt": "float64",  # metres
    "camera": "string",  # frames with equal values share one physical camera and its intrinsics
    "kept": "boolean",
    "dropped_reason": "string",  # "" for kept frames
    "has_mask": "boolean",
    "split": "string",  # "train" | "test" as the dataset itself gives it, else ""
}


@dataclass(frozen=True)
class FrameSet(ArtifactFolder):
    """Layout: `images/<name>`, `frames.parquet`, optional `masks/<name>.png` (8 bit, 255 = keep,
    0 = ignore, size of the image), `contact_sheet.jpg`, optional `given/`, `manifest.json`.

    Images with an alpha channel are written as RGBA PNG untouched and their alpha also as a mask.
    `manifest.summary`: `num_frames` (kept), `num_seen`, `num_dropped` by reason, `ordered` (bool:
    video order), `num_unreadable`, `unreadable` (names, at most 20), `median_sharpness`, `width`,
    `height`.
    """

    KIND: ClassVar[str] = "frames"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def masks(self) -> Path:
        return self.path / "masks"

    @property
    def ordered(self) -> bool:
        return bool(self.summary.get("ordered", False))

    def table(self) -> pd.DataFrame:
        """All rows of `frames.parquet`, columns as in `COLUMNS`."""
        import pandas as pd

        return pd.read_parquet(self.path / "frames.parquet")

    def kept(self) -> pd.DataFrame:
        """The kept frames in order."""
        table = self.table()
        return table[table["kept"].astype(bool)].reset_index(drop=True)
