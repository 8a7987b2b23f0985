"""One line per asset: the figures a person asks for first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from splat_assets.cli.output import show_bytes

Summary = dict[str, Any]


def headline(asset: str, summary: Summary, skipped: str | None = None) -> str:
    """The figures of one asset in a line; says why when the stage had nothing to do."""
    if skipped:
        return skipped
    parts = _HEADLINES.get(asset, lambda _: [])(summary)
    return ", ".join(part for part in parts if part)


def _raw_dataset(s: Summary) -> list[str]:
    size = show_bytes(s["total_bytes"]) if "total_bytes" in s else ""
    content = str(s.get("taken") or s.get("content", ""))
    return [content, _count(s, "num_files", "files"), size]


def _frames(s: Summary) -> list[str]:
    kept = s.get("num_frames")
    size = f"{s['width']}×{s['height']}" if s.get("width") and s.get("height") else ""
    unreadable = _count(s, "num_unreadable", "unreadable") if s.get("num_unreadable") else ""
    return [f"{kept} of {s.get('num_seen', kept)} kept", size, unreadable]


def _camera_poses(s: Summary) -> list[str]:
    given = "poses given by the source" if s.get("poses_given") else ""
    return [
        f"{s.get('num_registered')} of {s.get('num_frames')} registered",
        _number(s, "reprojection_error_px", "{:.2f} px"),
        given,
    ]


def _trained_splat(s: Summary) -> list[str]:
    return [
        _number(s, "psnr_db", "PSNR {:.2f} dB"),
        _number(s, "ssim", "SSIM {:.3f}"),
        _count(s, "num_gaussians", "Gaussians"),
        show_bytes(s["ply_bytes"]) if "ply_bytes" in s else "",
    ]


def _compressed_splat(s: Summary) -> list[str]:
    return [
        show_bytes(s["sog_bytes"]) if "sog_bytes" in s else "",
        _number(s, "ratio", "{:.1f}× smaller"),
        _number(s, "psnr_loss_db", "{:+.2f} dB lost"),
    ]


_HEADLINES: dict[str, Callable[[Summary], list[str]]] = {
    "raw_dataset": _raw_dataset,
    "frames": _frames,
    "camera_poses": _camera_poses,
    "trained_splat": _trained_splat,
    "compressed_splat": _compressed_splat,
}


def _number(summary: Summary, name: str, form: str) -> str:
    value = summary.get(name)
    return form.format(value) if isinstance(value, int | float) else ""


def _count(summary: Summary, name: str, noun: str) -> str:
    value = summary.get(name)
    return f"{value:,} {noun}".replace(",", " ") if isinstance(value, int) else ""
