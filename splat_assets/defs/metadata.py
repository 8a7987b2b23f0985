"""What a person sees of an artifact in the UI: figures, tables, pictures, paths.

The UI shows Markdown below 1000 characters in place and longer texts behind a click, so pictures
(inlined as small JPEGs: the web server serves no files of ours) are one click away.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from splat_assets.datasets.spec import DatasetSpec
from splat_assets.defs.checks import evaluate
from splat_assets.stages import StageOutcome

PICTURE_SIDE = 720  # pixels
MAX_PICTURES = 3
MAX_ROWS = 40
SMALL = (bool, int, float, str)


def materialized(outcome: StageOutcome, spec: DatasetSpec) -> dg.MaterializeResult:
    """The asset's result: data version, metadata and quality gates."""
    return dg.MaterializeResult(
        data_version=dg.DataVersion(outcome.manifest.data_version),
        metadata=describe(outcome, spec),
        check_results=evaluate(outcome, spec),
    )


def describe(outcome: StageOutcome, spec: DatasetSpec) -> dict[str, Any]:
    """Figures, tables and pictures of what a stage left current."""
    manifest, folder = outcome.manifest, outcome.artifact.path
    shown: dict[str, Any] = {}
    if manifest.skipped:
        shown["skipped"] = manifest.skipped
    shown |= {
        "path": dg.MetadataValue.path(outcome.location),
        "reused": outcome.reused,
        "preset": spec.preset,
        "seconds": round(manifest.seconds, 2),
        "bytes": manifest.total_bytes,
        "num_files": len(manifest.files),
    }
    for name, value in manifest.summary.items():
        if isinstance(value, SMALL):
            shown[name] = value
        elif value:
            shown[name] = dg.MetadataValue.json(value)
    shown["options"] = dg.MetadataValue.json(manifest.options)
    shown |= _EXTRAS[outcome.asset](folder, manifest.summary)
    return shown


def _raw_dataset(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    kinds = {".jpg", ".jpeg", ".png", ".webp"}
    found = sorted(p for p in (folder / "files").rglob("*") if p.suffix.lower() in kinds)
    return _pictures("thumbnails", found[:: max(1, len(found) // MAX_PICTURES)], side=240)


def _frames(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    return _pictures("contact_sheet", [folder / "contact_sheet.jpg"])


def _camera_poses(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _trained_splat(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    shown = _pictures("photo_and_render", sorted((folder / "renders").glob("*.jpg")))
    return shown | {"ply": dg.MetadataValue.path(str(folder / "splat.ply"))}


def _compressed_splat(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    shown = _pictures("preview", [folder / "preview.jpg"])
    for name in ("scene.sog", "viewer.html"):
        if (folder / name).is_file():
            key = name.replace("scene.sog", "sog").replace(".html", "")
            shown[key] = dg.MetadataValue.url((folder / name).as_uri())
    return shown


_EXTRAS = {
    "raw_dataset": _raw_dataset,
    "frames": _frames,
    "camera_poses": _camera_poses,
    "trained_splat": _trained_splat,
    "compressed_splat": _compressed_splat,
}


def table(rows: list[dict[str, Any]]) -> dg.MetadataValue:
    """Rows of plain values as a table the UI shows in place."""
    return dg.MetadataValue.table([dg.TableRecord(row) for row in rows[:MAX_ROWS]])


def _pictures(name: str, paths: list[Path], side: int = PICTURE_SIDE) -> dict[str, Any]:
    """`{name: markdown}` with the first few pictures, or nothing when there are none."""
    usable = [p for p in paths if p.is_file()][:MAX_PICTURES]
    if not usable:
        return {}
    text = "\n\n".join(f"![{p.name}]({_data_url(p, side)})" for p in usable)
    return {name: dg.MetadataValue.md(text)}


def _data_url(path: Path, side: int) -> str:
    """A picture as a data URL, reduced to `side` pixels and JPEG."""
    from PIL import Image

    with Image.open(path) as image:
        image.draft("RGB", (side, side))
        small = image.convert("RGB")
        small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
