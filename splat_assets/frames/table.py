"""The rows of `frames.parquet`, and how they become a table with exactly the contract's columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from splat_assets.frames.frame_set import COLUMNS
from splat_assets.frames.scoring import FrameStats

if TYPE_CHECKING:
    import pandas as pd

NAN = math.nan


@dataclass(frozen=True)
class Frame:
    """One frame seen. Units as in `frame_set.COLUMNS`; `stats` is None where it was not decoded."""

    name: str
    source_file: str
    index: int
    camera: str = ""
    width: int | None = None
    height: int | None = None
    source_width: int | None = None
    source_height: int | None = None
    stats: FrameStats | None = None
    timestamp_sec: float = NAN
    focal_px: float = NAN
    gps_lat: float = NAN
    gps_lon: float = NAN
    gps_alt: float = NAN
    has_mask: bool = False
    split: str = ""
    sha256: str | None = None  # of the written image, where known (it was linked)
    episode: int | None = None  # of a robot dataset
    sequence: str = ""  # frames of one sequence are neighbours in time; others are not compared


def build_table(frames: Sequence[Frame], reasons: Sequence[str]) -> pd.DataFrame:
    """A row per frame; `reasons[i]` is "" for a kept frame, else why it was dropped."""
    import pandas as pd

    rows = []
    for frame, reason in zip(frames, reasons, strict=True):
        row = {key: getattr(frame, key) for key in COLUMNS if hasattr(frame, key)}
        row["name"] = "" if reason else frame.name
        row["sharpness"] = frame.stats.sharpness if frame.stats else NAN
        row["exposure"] = frame.stats.exposure if frame.stats else NAN
        row["has_mask"] = frame.has_mask and not reason
        row["kept"] = not reason
        row["dropped_reason"] = reason
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write the parquet file; the same table gives the same bytes."""
    table.to_parquet(path, engine="pyarrow", index=False, compression="zstd")
