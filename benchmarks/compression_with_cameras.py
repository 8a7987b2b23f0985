"""Compress a splat whose cameras are known, as the stage `compressed_splat` does.

    python -m benchmarks.compression_with_cameras IN.ply CAMERAS.json OUT.sog [option=value …]

A program of its own, so that `benchmarks.compression` can measure it like the others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from splat_assets.compression.sog_bundle import write_bundle
from splat_assets.compression.targets import encode_as_wished
from splat_assets.datasets.options import CompressOptions
from splat_assets.gaussians.ply import read_ply
from splat_assets.gaussians.splat_model import View
from splat_assets.progress import silent


def main() -> None:
    ply, cameras, out, *options = sys.argv[1:]
    stored = json.loads(Path(cameras).read_text(encoding="utf-8"))
    views = [
        View(v["name"], v["width"], v["height"], np.array(v["K"]), np.array(v["viewmat"]), False,
             None)
        for v in stored["views"]
    ]  # fmt: skip
    wishes = CompressOptions.model_validate(dict(text.split("=", 1) for text in options))
    found = encode_as_wished(
        read_ply(Path(ply)), wishes, views, silent(), background=stored["background"]
    )
    write_bundle(Path(out), found.encoded)


def write_cameras(path: Path, views: Sequence[View], background: Sequence[float]) -> None:
    """The file that `main` reads."""
    entries = [
        {
            "name": v.name,
            "width": v.width,
            "height": v.height,
            "K": v.K.tolist(),
            "viewmat": v.viewmat.tolist(),
        }
        for v in views
    ]
    text = json.dumps({"views": entries, "background": list(background)})
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
