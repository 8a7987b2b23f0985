"""Compress and describe single splat files, without a dataset around them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from splat_assets.compression.sog_reader import META, read_sog, read_sog_meta
from splat_assets.compression.sog_writer import write_bundle
from splat_assets.compression.targets import encode_as_wished
from splat_assets.compression.views import frame_splat
from splat_assets.compute import Compute
from splat_assets.datasets.options import CompressOptions
from splat_assets.errors import UserError
from splat_assets.formats.registry import format_of, read_splat
from splat_assets.progress import Progress, silent
from splat_assets.viewing.camera import orbit_views


def compress_file(
    source: Path | str,
    target: Path | str,
    options: CompressOptions | None = None,
    *,
    progress: Progress | None = None,
    compute: Compute | None = None,
) -> dict[str, Any]:
    """Encode a splat file as `.sog` and return the figures.

    Args:
        target: a path that ends in `.sog`; replaced atomically.
        compute: measure the loss in pictures as well, rendering there (`psnr_vs_splat_db`).
    """
    source, target = Path(source), Path(target)
    options, progress = options or CompressOptions.model_validate({}), progress or silent()
    if target.suffix.lower() != ".sog":
        raise UserError(f"{target} should end in .sog.")
    if not target.parent.is_dir():
        raise UserError(f"The folder {target.parent} does not exist.")
    began = time.perf_counter()
    progress.update(0.0, f"Reading {source.name}")
    gaussians = read_splat(source)
    targeted = encode_as_wished(gaussians, options, None, progress.span(0.05, 0.8))
    encoded = targeted.encoded
    sog_bytes = write_bundle(target, encoded)
    seconds = time.perf_counter() - began
    source_bytes = _size(source)
    figures: dict[str, Any] = {
        "num_gaussians": encoded.count,
        "dropped_gaussians": encoded.cleanup.dropped,
        "pruned_gaussians": targeted.pruned,
        "finetuned": targeted.finetuned,
        "sh_degree": gaussians.sh_degree,
        "ply_bytes": source_bytes,
        "sog_bytes": sog_bytes,
        "ratio": round(source_bytes / sog_bytes, 2),
        "order": encoded.sorting.order,
        "order_note": encoded.sorting.note,
        "palette_size": encoded.palette_size,
        "aimed_db": round(targeted.aimed_db, 2),
        "notes": list(targeted.notes),
        "codebooks": encoded.codebooks,
        "field_bytes": encoded.field_bytes,
        "seconds": round(seconds, 2),
    }
    if compute is not None:
        from splat_assets.compression.quality import measure_loss

        views = orbit_views(*frame_splat(gaussians))
        quality = measure_loss(
            gaussians, read_sog(target), views, compute=compute, progress=progress.span(0.8, 1.0)
        ).to_dict()
        figures["psnr_vs_splat_db"] = quality["psnr_vs_splat_db"]
        figures["ssim_vs_splat"] = quality["ssim_vs_splat"]
    progress.update(1.0, f"Wrote {target.name}")
    return figures


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
    folder = path.parent if path.name == META else path
    if folder.is_dir():
        return sum(p.stat().st_size for p in folder.iterdir() if p.is_file())
    return path.stat().st_size
