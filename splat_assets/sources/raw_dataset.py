"""`RawDataset`: the originals of a dataset, untouched, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from splat_assets.artifacts.contract import ArtifactFolder

# "ply" stands for a splat file of any format
Content = Literal["photos", "video", "lerobot", "colmap", "nerfstudio", "ply"]


@dataclass(frozen=True)
class RawDataset(ArtifactFolder):
    """Layout: `files/…` (the originals under their own relative paths), `docs/…` (README, licence;
    no part of the data version), `origin.json` (what the fetcher remembers for the next time),
    `manifest.json`.

    `manifest.summary` holds at least `content` (see `Content`), `source`, `revision` (a Hub commit,
    an HTTP ETag, or "" where the source has none), `license` ("" when unknown), `num_files`,
    `total_bytes`, `downloaded_files` (brought now and not linked from the previous artifact),
    `downloaded_bytes`, `unchanged` (bool: every file was already here), and `layout`: `root`,
    `model`, `images`, `transforms`, where in `files/` a reconstruction lies (`sources.layout`).
    A LeRobot dataset has `taken` (a line on what of it was taken) and `lerobot` too: `version`,
    `fps`, `robot`, `num_episodes`, the chosen `episodes` and `cameras`, `all_cameras`, `tasks`.
    """

    KIND: ClassVar[str] = "raw_dataset"

    @property
    def files(self) -> Path:
        return self.path / "files"

    @property
    def content(self) -> Content:
        return self.summary["content"]
