"""Frame sets made by hand, so that these tests do not depend on the frames stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.frames.frame_set import COLUMNS, FrameSet


def frame_set(
    folder: Path,
    pictures: Iterable[tuple[str, Image.Image | Path]],
    *,
    long_side: int | None = None,
    ordered: bool = False,
    columns: Mapping[str, Any] | None = None,
) -> FrameSet:
    """A frame set of `pictures` (name, image or file), reduced to `long_side`.

    `columns` sets table columns: a value for all rows, or a list with one for each.
    """
    rows = []
    for index, (name, picture) in enumerate(pictures):
        opened = Image.open(picture) if isinstance(picture, Path) else picture
        source_size = opened.size
        if long_side is not None and max(opened.size) > long_side:
            opened = opened.copy()
            opened.thumbnail((long_side, long_side), Image.Resampling.LANCZOS)
        target = folder / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        opened.save(target, **({} if target.suffix == ".png" else {"quality": 95}))
        rows.append(
            {
                "name": name,
                "source_file": name,
                "index": index,
                "timestamp_sec": float("nan"),
                "width": opened.size[0],
                "height": opened.size[1],
                "source_width": source_size[0],
                "source_height": source_size[1],
                "sharpness": 100.0,
                "exposure": 0.5,
                "focal_px": float("nan"),
                "gps_lat": float("nan"),
                "gps_lon": float("nan"),
                "gps_alt": float("nan"),
                "camera": "one",
                "kept": True,
                "dropped_reason": "",
                "has_mask": False,
                "split": "",
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    for column, value in (columns or {}).items():
        table[column] = value
    table.astype(COLUMNS).to_parquet(folder / "frames.parquet")
    write_manifest(
        folder,
        build_manifest(
            folder, FrameSet.KIND, summary={"num_frames": len(rows), "ordered": ordered}
        ),
    )
    return FrameSet.open(folder)
