"""What a person sees of an artifact in the UI: figures, tables, pictures, paths.

The UI shows Markdown below 1000 characters in place and longer texts behind a click, so pictures
(inlined as small JPEGs: the web server serves no files of ours) are one click away.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from splat_assets.datasets.spec import DatasetSpec
from splat_assets.defs.checks import evaluate
from splat_assets.housekeeping import used_bytes
from splat_assets.stages import StageOutcome

if TYPE_CHECKING:
    from splat_assets.compression.compressed_splat import CompressedSplat
    from splat_assets.frames.frame_set import FrameSet
    from splat_assets.gaussians.splat_model import SplatModel
    from splat_assets.poses.pose_model import PoseModel
    from splat_assets.sources.raw_dataset import RawDataset

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
    manifest = outcome.manifest
    shown: dict[str, Any] = {}
    if manifest.skipped:
        shown["skipped"] = manifest.skipped
    else:
        try:
            extras = _EXTRAS[outcome.asset](outcome.artifact)
            shown |= {name: _published(value, outcome) for name, value in extras.items()}
        except Exception as error:  # hours of work must not fail for a picture of them
            shown["pictures_failed"] = f"{type(error).__name__}: {error}"
    return shown | {
        **_plain(manifest.summary),
        "seconds": round(manifest.seconds, 2),
        "reused": outcome.reused,
        "preset": spec.preset,
        "bytes": manifest.total_bytes,
        "dataset_bytes_on_disk": used_bytes(outcome.artifact.path.parents[1]),
        "num_files": len(manifest.files),
        "path": dg.MetadataValue.path(outcome.location),
        "options": dg.MetadataValue.json(manifest.options),
    }


def _published(value: Any, outcome: StageOutcome) -> Any:
    """A path within the artifact as the store has it, which may be a bucket; else as it is."""
    if not isinstance(value, dg.PathMetadataValue) or value.path is None:
        return value
    inside = Path(value.path).relative_to(outcome.artifact.path)
    return dg.MetadataValue.path(f"{outcome.location.rstrip('/')}/{inside.as_posix()}")


def _plain(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as they are (the UI plots numbers over time), the rest as JSON; nothing empty."""
    shown: dict[str, Any] = {}
    for name, value in summary.items():
        if isinstance(value, SMALL) and value != "":
            shown[name] = value
        elif value:
            shown[name] = dg.MetadataValue.json(value)
    return shown


def _raw_dataset(artifact: RawDataset) -> dict[str, Any]:
    kinds = {".jpg", ".jpeg", ".png", ".webp"}
    found = sorted(p for p in artifact.files.rglob("*") if p.suffix.lower() in kinds)
    shown = _pictures("thumbnails", found[:: max(1, len(found) // MAX_PICTURES)], side=200)
    if "lerobot" in artifact.summary:
        shown["cameras"] = table(artifact.summary["lerobot"]["all_cameras"])
    return shown


def _frames(artifact: FrameSet) -> dict[str, Any]:
    shown = _pictures("contact_sheet", [artifact.path / "contact_sheet.jpg"])
    if (artifact.path / "frames.parquet").is_file():
        from splat_assets.viewing.plots import frames_plot

        shown["sharpness"] = _plot(frames_plot(artifact.table()))
    return shown


def _camera_poses(artifact: PoseModel) -> dict[str, Any]:
    if not artifact.sparse.is_dir():
        return {}
    from splat_assets.viewing.plots import camera_path_plot

    cameras, points = artifact.cameras(), artifact.points()
    directions = cameras.viewmats[:, 2, :3]  # the third row is the camera's z axis in the world
    plot = camera_path_plot(cameras.centers, directions, points.xyz, colors=points.rgb)
    return {"cameras_from_above": _plot(plot)}


def _trained_splat(artifact: SplatModel) -> dict[str, Any]:
    shown: dict[str, Any] = {"ply": dg.MetadataValue.path(str(artifact.ply))}
    if (artifact.path / "training.parquet").is_file():
        import pandas as pd

        from splat_assets.viewing.plots import training_plot

        curve = pd.read_parquet(artifact.path / "training.parquet")
        shown["training_curve"] = _plot(training_plot(curve))
    shown |= _pictures("photo_and_render", sorted((artifact.path / "renders").glob("*.jpg")))
    rows = artifact.evaluation().get("views", [])
    if rows:
        shown["held_out_views"] = table(rows)
    return shown


def _compressed_splat(artifact: CompressedSplat) -> dict[str, Any]:
    shown = _pictures("preview", [artifact.path / "preview.jpg"])
    shown["sog"] = dg.MetadataValue.path(str(artifact.sog))
    if artifact.viewer.is_file():
        shown["viewer"] = dg.MetadataValue.path(str(artifact.viewer))
    if artifact.report_page.is_file():
        shown["report_page"] = dg.MetadataValue.path(str(artifact.report_page))
    sizes = artifact.report().get("field_bytes", {})
    if sizes:
        total = sum(sizes.values())
        rows = [
            {"field": name, "bytes": size, "percent": round(100 * size / total, 1)}
            for name, size in sizes.items()
        ]
        shown["size_by_field"] = table(rows)
    return shown


_EXTRAS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "raw_dataset": _raw_dataset,
    "frames": _frames,
    "camera_poses": _camera_poses,
    "trained_splat": _trained_splat,
    "compressed_splat": _compressed_splat,
}


def table(rows: list[dict[str, Any]]) -> dg.MetadataValue:
    """Rows of plain values as a table the UI shows in place; other values are left out."""
    names = [n for n in rows[0] if all(isinstance(row.get(n), SMALL) for row in rows)]
    records = [dg.TableRecord({n: row[n] for n in names}) for row in rows[:MAX_ROWS]]
    columns = [dg.TableColumn(n, _column_type(rows[0][n])) for n in names]
    return dg.MetadataValue.table(records, schema=dg.TableSchema(columns))


def _column_type(value: object) -> str:
    kinds = ((bool, "bool"), (int, "int"), (float, "float"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "string")


def _plot(png: bytes) -> dg.MetadataValue:
    data = base64.b64encode(png).decode("ascii")
    return dg.MetadataValue.md(f"![plot](data:image/png;base64,{data})")


def _pictures(name: str, paths: list[Path], side: int = PICTURE_SIDE) -> dict[str, Any]:
    """`{name: markdown}` with the first few pictures, or nothing when there are none."""
    from splat_assets.viewing.preview import thumbnail_markdown

    usable = [p for p in paths if p.is_file()][:MAX_PICTURES]
    if not usable:
        return {}
    texts = [thumbnail_markdown(p, p.name, long_side=side) for p in usable]
    return {name: dg.MetadataValue.md("\n\n".join(texts))}
