"""`CompressedSplat`: what people receive, with the proof of its quality."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from splat_assets.artifacts.contract import ArtifactFolder


@dataclass(frozen=True)
class CompressedSplat(ArtifactFolder):
    """Layout: `scene.sog` (bundled SOG v2), `scene/` (the same unbundled), further formats asked
    for, `report.json` and the page `report.html`, `viewer.html` (self-contained, offline),
    `preview.jpg`, `manifest.json`; for large scenes `streamed/lod-meta.json` with its chunks, which
    the viewer then shows.

    `manifest.summary`: `num_gaussians`, `ply_bytes`, `sog_bytes`, `ratio`, `psnr_loss_db` (held-out
    PSNR against photos, before minus after; absent without photos), `psnr_vs_splat_db` (decoded
    render against uncompressed render), `order`, `palette_size`, `seconds`.
    """

    KIND: ClassVar[str] = "compressed_splat"

    @property
    def sog(self) -> Path:
        return self.path / "scene.sog"

    @property
    def viewer(self) -> Path:
        return self.path / "viewer.html"

    @property
    def report_page(self) -> Path:
        return self.path / "report.html"

    def report(self) -> dict[str, Any]:
        return json.loads((self.path / "report.json").read_text(encoding="utf-8"))
