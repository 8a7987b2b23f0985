"""Compress and describe single splat files, without a dataset around them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from splat_assets.compression.sog_bundle import write_bundle
from splat_assets.compression.sog_reader import META, read_sog_meta
from splat_assets.compression.streamed import StreamOptions, write_streamed
from splat_assets.compression.targets import encode_as_wished
from splat_assets.compression.views import frame_splat
from splat_assets.compute import Compute
from splat_assets.datasets.options import CompressOptions
from splat_assets.errors import UserError
from splat_assets.formats.registry import LOD_META, format_of, open_rows, read_splat
from splat_assets.progress import Progress, silent
from splat_assets.viewing.camera import orbit_views


def output_path(named: Path | str) -> Path:
    """The file that an output is named by: a `.sog`, or the `lod-meta.json` of a streamed SOG, also
    where only its folder is named. Raises `UserError` for other names."""
    path = Path(named)
    if path.name == LOD_META or path.suffix.lower() == ".sog":
        return path
    if path.is_dir():
        return path / LOD_META
    stem = path.with_suffix("")
    raise UserError(
        f"{path} names nothing that is written here: {stem.name}.sog is one file, "
        f"{stem.name}/{LOD_META} a streamed SOG; `splat-assets convert` writes other formats."
    )


def compress_file(
    source: Path | str,
    target: Path | str,
    options: CompressOptions | None = None,
    *,
    progress: Progress | None = None,
    compute: Compute | None = None,
) -> dict[str, Any]:
    """Encode a splat file as SOG and return the figures.

    Args:
        target: a `.sog`, replaced atomically, or what `output_path` makes a streamed SOG of.
        compute: measure the loss in pictures as well, rendering there (`psnr_vs_splat_db`).
    """
    source, target = Path(source), output_path(target)
    options, progress = options or CompressOptions.model_validate({}), progress or silent()
    began = time.perf_counter()
    progress.update(0.0, f"Reading {source.name}")
    write = _write_streamed if target.name == LOD_META else _write_file
    figures = write(source, target, options, progress.span(0.05, 0.8))
    source_bytes = _size(source)
    figures |= {
        "ply_bytes": source_bytes,
        "ratio": round(source_bytes / figures["sog_bytes"], 2),
        "seconds": round(time.perf_counter() - began, 2),
    }
    if compute is not None:
        from splat_assets.compression.quality import measure_loss

        gaussians, span = read_splat(source), progress.span(0.8, 1.0)
        views = orbit_views(*frame_splat(gaussians))
        quality = measure_loss(
            gaussians, read_splat(target), views, compute=compute, progress=span
        ).to_dict()
        figures["psnr_vs_splat_db"] = quality["psnr_vs_splat_db"]
        figures["ssim_vs_splat"] = quality["ssim_vs_splat"]
    progress.update(1.0, f"Wrote {target.name}")
    return figures


def _write_file(
    source: Path, target: Path, options: CompressOptions, progress: Progress
) -> dict[str, Any]:
    if options.streamed == "always":
        raise UserError(
            f"{target.name} is one file; name FOLDER/{LOD_META} for a streamed SOG "
            "(compress.streamed=always)."
        )
    if not target.parent.is_dir():
        raise UserError(f"The folder {target.parent} does not exist.")
    gaussians = read_splat(source)
    targeted = encode_as_wished(gaussians, options, None, progress)
    encoded = targeted.encoded
    return {
        "num_gaussians": encoded.count,
        "dropped_gaussians": encoded.cleanup.dropped,
        "pruned_gaussians": targeted.pruned,
        "finetuned": targeted.finetuned,
        "sh_degree": gaussians.sh_degree,
        "sog_bytes": write_bundle(target, encoded),
        "order": encoded.sorting.order,
        "order_note": encoded.sorting.note,
        "palette_size": encoded.palette_size,
        "aimed_db": round(targeted.aimed_db, 2),
        "notes": list(targeted.notes),
        "codebooks": encoded.codebooks,
        "field_bytes": encoded.field_bytes,
    }


def _write_streamed(
    source: Path, target: Path, options: CompressOptions, progress: Progress
) -> dict[str, Any]:
    """The whole folder of `target`. A 3DGS PLY is never in memory as a whole."""
    defaults = CompressOptions.model_validate({})
    names = ("target_db", "max_mb", "order")
    unmet = [name for name in names if getattr(options, name) != getattr(defaults, name)]
    if options.streamed == "never":
        unmet.append("streamed")
    if unmet:
        raise UserError(
            f"A streamed SOG has no compress.{unmet[0]}={getattr(options, unmet[0])}: its chunks "
            "have a preset and an order of their own; name a .sog for one file."
        )
    rows = open_rows(source)
    wishes = StreamOptions(
        preset=options.preset, palette_size=options.palette_size, seed=options.seed
    )
    written = write_streamed(target, rows, wishes, progress=progress)
    return {
        **written.to_dict(),
        "num_gaussians": written.counts[0] + written.environment,
        "sog_bytes": written.bytes,
        "sh_degree": rows.sh_degree,
        "notes": list(written.notes),
    }


def describe_file(path: Path | str) -> dict[str, Any]:
    """What a splat file holds: format, count, SH degree, bounds (of finite centres), bytes."""
    path = Path(path)
    gaussians = read_splat(path)
    finite = gaussians.means[np.isfinite(gaussians.means).all(axis=1)]
    form = format_of(path)
    assert form is not None  # it could be read
    described: dict[str, Any] = {
        "path": str(path),
        "format": form.name,
        "axes": form.axes,
        "bytes": _size(path),
        "num_gaussians": len(gaussians),
        "sh_degree": gaussians.sh_degree,
        "antialiased": gaussians.antialiased,
        "num_not_finite": len(gaussians) - len(finite),
        "bounds_min": finite.min(axis=0).tolist() if len(finite) else None,
        "bounds_max": finite.max(axis=0).tolist() if len(finite) else None,
    }
    if form.name == "sog":
        meta = read_sog_meta(path)
        shN = meta.get("shN") or {}
        described["format"] = f"sog v{meta.get('version', 1)}"
        described["generator"] = (meta.get("asset") or {}).get("generator", "")
        described["palette_size"] = shN.get("count", 0)
    described["bytes_per_gaussian"] = round(described["bytes"] / max(len(gaussians), 1), 2)
    return described


def _size(path: Path) -> int:
    """Of a file, or of all files of a SOG folder, streamed or not."""
    folder = path.parent if path.name in (META, LOD_META) else path
    if folder.is_dir():
        return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return path.stat().st_size
