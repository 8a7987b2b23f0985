"""`report.html`: what compression cost, on one page that needs nothing else.

Pictures are embedded, nothing is loaded from anywhere, there is no script; it reads well on a phone
and on paper. The figures are those of `report.json`.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.viewing.preview import thumbnail_url

DIFFERENCE_GAIN = 8.0  # by how much differences are amplified to be seen
_LONG_SIDE = 900  # pixels of an embedded picture
_QUALITY = 88

FIELDS = {
    "means_l.webp": "positions, low bytes",
    "means_u.webp": "positions, high bytes",
    "quats.webp": "rotations",
    "scales.webp": "sizes",
    "sh0.webp": "colours and opacities",
    "shN_centroids.webp": "view-dependent colours, palette",
    "shN_labels.webp": "view-dependent colours, labels",
    "meta.json": "codebooks and ranges",
}
# key of report.json: (label, form)
_DETAILS = {
    "aimed_db": ("Precision chosen for", "{:.1f} dB"),
    "bytes_per_gaussian": ("Bytes a Gaussian", "{:.2f}"),
    "sh_degree": ("SH degree", "{}"),
    "palette_size": ("SH palette entries", "{:,}"),
    "order": ("Order", "{}"),
    "sorter": ("Sorter", "{}"),
    "sorted_per_second": ("Gaussians sorted a second", "{:,}"),
    "dropped_gaussians": ("Gaussians dropped, invalid or invisible", "{:,}"),
    "pruned_gaussians": ("Gaussians left out, worth less than their bytes", "{:,}"),
    "finetuned": ("Fine-tuned while rounded", "{}"),
    "antialiased": ("Antialiased", "{}"),
    "encode_seconds": ("Seconds to encode", "{:.1f}"),
    "seconds": ("Seconds in all", "{:.1f}"),
    "cpu_seconds": ("CPU seconds", "{:.1f}"),
    "peak_memory_bytes": ("Peak memory", "bytes"),
}


@dataclass(frozen=True)
class Comparison:
    """Pictures [H, W, 3] in 0..1 of one view."""

    name: str
    uncompressed: np.ndarray
    compressed: np.ndarray
    photo: np.ndarray | None = None

    @property
    def difference(self) -> np.ndarray:
        """Amplified difference between the two renders, grey where they agree."""
        gap = (self.compressed.astype(np.float64) - self.uncompressed) * DIFFERENCE_GAIN
        return np.clip(0.5 + gap, 0, 1)


def write_report_html(
    path: Path | str,
    report: Mapping[str, Any],
    *,
    title: str,
    worst: Comparison | None = None,
    links: Mapping[str, str] | None = None,
) -> int:
    """Write the page; returns its size in bytes.

    Args:
        report: the contents of `report.json`; what it lacks is left out of the page.
        worst: the view that lost most.
        links: text → address relative to the page, for files beside it.
    """
    quality = report.get("quality") or {}
    parts = [
        _header(title, report, links or {}),
        _tiles(report, quality),
        _notes(report.get("notes") or []),
        _worst(worst, quality),
        _views(quality),
        _bytes(report),
        _details(report),
    ]
    page = _PAGE.replace("TITLE", html.escape(title)).replace("STYLE", _STYLE)
    page = page.replace("BODY", "\n".join(part for part in parts if part))
    write_text_atomic(Path(path), page)
    return len(page.encode("utf-8"))


def _header(title: str, report: Mapping[str, Any], links: Mapping[str, str]) -> str:
    listed = " ".join(
        f'<a href="{html.escape(address)}">{html.escape(text)}</a>'
        for text, address in links.items()
    )
    count = report.get("num_gaussians")
    what = f"{count:,} Gaussians, compressed to SOG" if isinstance(count, int) else "Compressed"
    return f"<header><h1>{html.escape(title)}</h1><p>{what}</p><nav>{listed}</nav></header>"


def _tiles(report: Mapping[str, Any], quality: Mapping[str, Any]) -> str:
    """The figures a person asks for first."""
    ply, sog = report.get("ply_bytes"), report.get("sog_bytes")
    tiles = [
        ("Size", _size(sog), f"of {_size(ply)} as PLY" if ply else ""),
        ("Ratio", _form(report.get("ratio"), "{:.1f}×"), "smaller than the PLY"),
        (
            "Against the uncompressed splat",
            _form(quality.get("psnr_vs_splat_db"), "{:.2f} dB"),
            _form(quality.get("ssim_vs_splat"), "SSIM {:.4f}"),
        ),
        (
            "Lost against the photos",
            _form(quality.get("psnr_loss_db"), "{:.3f} dB"),
            _form(quality.get("ssim_loss"), "SSIM {:.4f}"),
        ),
        (
            "Against the photos now",
            _form(quality.get("psnr_after_db"), "{:.2f} dB"),
            _form(quality.get("ssim_after"), "SSIM {:.4f}"),
        ),
    ]
    return _section(
        "",
        '<div class="tiles">'
        + "".join(
            f"<div><span>{html.escape(name)}</span><b>{value}</b><small>{html.escape(more)}</small>"
            "</div>"
            for name, value, more in tiles
            if value
        )
        + "</div>",
    )


def _notes(notes: Sequence[str]) -> str:
    listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return _section("Notes", f"<ul>{listed}</ul>") if notes else ""


def _worst(worst: Comparison | None, quality: Mapping[str, Any]) -> str:
    if worst is None:
        return ""
    pictures = [("Uncompressed", worst.uncompressed), ("Compressed", worst.compressed)]
    if worst.photo is not None:
        pictures.insert(0, ("Photo", worst.photo))
    pictures.append((f"Difference × {DIFFERENCE_GAIN:.0f}", worst.difference))
    figures = "".join(
        f'<figure><img alt="{html.escape(text)}" '
        f'src="{thumbnail_url(picture, long_side=_LONG_SIDE, quality=_QUALITY)}">'
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
        for text, picture in pictures
    )
    rows: list[dict[str, Any]] = quality.get("views", [])
    row = next((v for v in rows if v.get("name") == worst.name), {})
    said = _form(row.get("psnr_vs_splat_db"), ": {:.2f} dB against the uncompressed splat")
    text = f"<p>{html.escape(worst.name)}{said}</p>"
    return _section("The view that lost most", f'{text}<div class="pictures">{figures}</div>')


def _views(quality: Mapping[str, Any]) -> str:
    rows = quality.get("views") or []
    columns = [
        ("psnr_vs_splat_db", "dB to splat", "{:.2f}"),
        ("ssim_vs_splat", "SSIM to splat", "{:.4f}"),
        ("psnr_before_db", "dB to photo before", "{:.2f}"),
        ("psnr_after_db", "dB to photo after", "{:.2f}"),
        ("ssim_after", "SSIM to photo", "{:.4f}"),
    ]
    known = [c for c in columns if any(row.get(c[0]) is not None for row in rows)]
    if not known:
        return ""
    head = "<th>View</th>" + "".join(f"<th>{name}</th>" for _, name, _ in known)
    body = "".join(
        f"<tr><td>{html.escape(str(row.get('name', '')))}</td>"
        + "".join(f"<td>{_form(row.get(key), form)}</td>" for key, _, form in known)
        + "</tr>"
        for row in sorted(rows, key=lambda row: row.get("psnr_vs_splat_db") or 0)
    )
    table = f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    return _section("By view, the worst first", table)


def _bytes(report: Mapping[str, Any]) -> str:
    sizes: Mapping[str, int] = report.get("field_bytes") or {}
    total = sum(sizes.values())
    if not total:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(FIELDS.get(name, name))}</td><td>{_size(size)}</td>"
        f"<td>{100 * size / total:.1f} %</td>"
        f'<td class="bar"><i style="width:{100 * size / max(sizes.values()):.1f}%"></i></td></tr>'
        for name, size in sorted(sizes.items(), key=lambda item: -item[1])
    )
    return _section("Where the bytes are", f'<table class="sizes">{rows}</table>')


def _details(report: Mapping[str, Any]) -> str:
    rows = []
    for key, (label, form) in _DETAILS.items():
        value = report.get(key)
        if value is not None:
            text = _size(value) if form == "bytes" else _form(value, form)
            rows.append((label, text))
    rows += [(f"Codebook of {k}", str(v)) for k, v in (report.get("codebooks") or {}).items()]
    streamed = report.get("streamed") or {}
    for key, label in (("levels", "Levels of detail"), ("chunks", "Chunks"), ("bytes", "bytes")):
        if key in streamed:
            value = streamed[key]
            rows.append((f"Streamed: {label}", _size(value) if key == "bytes" else str(value)))
    body = "".join(
        f"<tr><td>{html.escape(label)}</td><td>{html.escape(text)}</td></tr>"
        for label, text in rows
    )
    return _section("Details", f"<table>{body}</table>") if rows else ""


def _section(title: str, body: str) -> str:
    head = f"<h2>{html.escape(title)}</h2>" if title else ""
    return f"<section>{head}{body}</section>"


def _form(value: Any, form: str) -> str:
    """ "" for what is not there."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    try:
        return form.format(value)
    except ValueError:
        return str(value)


def _size(count: Any) -> str:
    from splat_assets.sources.media import human_bytes

    return human_bytes(count) if isinstance(count, int | float) else ""


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TITLE: compression report</title>
<style>STYLE</style></head>
<body>
BODY
</body></html>
"""

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --ink: #3b82c4; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1000px; padding: 16px; font: 16px/1.5 system-ui, sans-serif; }
header { border-bottom: 1px solid var(--line); padding-bottom: 12px; }
h1 { margin: 0; font-size: 1.5em; overflow-wrap: anywhere; }
h2 { margin: 28px 0 8px; font-size: 1.1em; }
header p { margin: 4px 0; opacity: .75; }
nav a { display: inline-block; margin: 4px 14px 0 0; color: var(--ink); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px;
  margin-top: 16px; }
.tiles div { background: var(--soft); border-radius: 8px; padding: 10px 12px; }
.tiles span, .tiles b, .tiles small { display: block; }
.tiles span, .tiles small { font-size: .8em; opacity: .75; }
.tiles b { font-size: 1.35em; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr));
  gap: 10px; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; border-radius: 6px; }
figcaption { font-size: .85em; opacity: .75; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td, th { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line);
  font-size: .9em; vertical-align: top; overflow-wrap: anywhere; }
.wide td, .wide th, .sizes td + td { white-space: nowrap; }
.bar { width: 35%; vertical-align: middle; }
.bar i { display: block; height: 10px; border-radius: 3px; background: var(--ink); }
"""
