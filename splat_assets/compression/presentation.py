"""`report.json` and `report.html`: the figures of a compression, and the view that lost most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.compression.quality import Quality, draw_views, load_photo
from splat_assets.compute import Compute
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View
from splat_assets.viewing.camera import turn_view
from splat_assets.viewing.report_page import Comparison, write_report_html

REPORT, REPORT_PAGE = "report.json", "report.html"
_LINKS = {"Viewer": "viewer.html", "scene.sog": "scene.sog", "All figures": REPORT}


def write_report(
    out: Path,
    report: dict[str, Any],
    *,
    title: str,
    before: Gaussians,
    after: Gaussians,
    views: list[View],
    quality: Quality,
    folder: Path,
    compute: Compute,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    rotation: np.ndarray | None = None,
) -> None:
    """Write both into `out`.

    Args:
        before: the uncompressed splat, and `after` the decoded one, turned by `rotation` [3, 3].
        views: those of `quality`, in the frame of `before`; their photos lie below `folder`.
    """
    write_text_atomic(out / REPORT, json.dumps(report, indent=1) + "\n")
    worst = next(view for view in views if view.name == quality.worst.name)
    turned = worst if rotation is None else turn_view(worst, rotation)
    photo = load_photo(folder, worst)[0] if worst.photo else None
    pictures = [
        next(draw_views(splat, [view], background=background, compute=compute))
        for splat, view in ((before, worst), (after, turned))
    ]
    write_report_html(
        out / REPORT_PAGE,
        report,
        title=title or "Gaussian splat",
        worst=Comparison(worst.name, pictures[0], pictures[1], photo),
        links={text: name for text, name in _LINKS.items() if (out / name).exists()},
    )
