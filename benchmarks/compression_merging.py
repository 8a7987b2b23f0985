"""Does merging neighbours before encoding pay? Bytes at equal PSNR, beside pruning alone.

    python -m benchmarks.compression_merging NAME=PATH … [--preset web] [--shares 0.05 0.1 0.2]

PATH is a splat file or the folder of a `trained_splat`. After pruning, a share of the Gaussians is
merged away by `formats.decimate` (cheapest pairs first) and the rest weighed anew; colours are then
adjusted to the unmerged splat, as always where there are cameras. Each row is encoded at several
aims, and its bytes are divided by what the encoder without merging needs for the same PSNR, which
is against the uncompressed splat, in views that the encoder does not know.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.compression import Scene, open_scenes
from splat_assets.compression.precision import Sensitivity, measure_sensitivity
from splat_assets.compression.quality import draw_views, psnr
from splat_assets.compression.rate_control import RateControl
from splat_assets.compression.sog_bundle import bundle_bytes
from splat_assets.compression.sog_reader import decode_members
from splat_assets.compression.targets import PRESET_DB, encode_as_wished
from splat_assets.compression.views import around, frame_splat, views_between
from splat_assets.compute import Compute, available_threads
from splat_assets.datasets.options import CompressOptions
from splat_assets.formats.decimate import decimate
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import silent

CPU = Compute("cpu", "numba", "benchmark", available_threads())
PLAIN_AIMS, MERGED_AIMS = (-3.0, -1.5, 0.0, 1.5, 3.0), (0.0, 1.5, 3.0)  # dB beside the preset's

Point = tuple[float, int]  # PSNR, bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("splats", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--preset", default="web", choices=sorted(PRESET_DB))
    parser.add_argument("--shares", type=float, nargs="+", default=[0.05, 0.1, 0.2])
    arguments = parser.parse_args()
    for text in arguments.splats:
        name, _, path = text.partition("=")
        scene = open_scenes(name, Path(path))[0]
        exact = list(draw_views(scene.gaussians, scene.views, background=scene.background,
                                compute=CPU))  # fmt: skip
        plain = [encode(scene, exact, arguments.preset, aim) for aim in PLAIN_AIMS]
        print(f"{name}, {arguments.preset}: " + ", ".join(f"{b:,} B {d:.1f} dB" for d, b in plain))
        for share in arguments.shares:
            found = [encode(scene, exact, arguments.preset, aim, share) for aim in MERGED_AIMS]
            told = (f"{b / needed(plain, d):.3f} × at {d:.1f} dB" for d, b in found)
            print(f"{share:.0%} merged away: " + ", ".join(told), flush=True)


def encode(
    scene: Scene, exact: list[np.ndarray], preset: str, offset: float, share: float = 0.0
) -> Point:
    prune = RateControl._prune
    judges = [*scene.cameras, *views_between(scene.cameras, 24)] or around(
        *frame_splat(scene.gaussians)
    )

    def prune_and_merge(
        control: Any, kept: Gaussians, sensitivity: Sensitivity, goal: float
    ) -> Gaussians:
        rest = prune(control, kept, sensitivity, goal)
        if not share:
            return rest
        merged = decimate(rest, round((1 - share) * len(rest)))
        control._sensitivity = measure_sensitivity(merged, judges, background=scene.background)
        return merged

    goal = {preset: PRESET_DB[preset] + offset}
    wishes = CompressOptions.model_validate({"preset": preset})
    with (
        mock.patch.dict(PRESET_DB, goal),
        mock.patch.object(RateControl, "_prune", prune_and_merge),
    ):
        found = encode_as_wished(
            scene.gaussians, wishes, scene.cameras or None, silent(), background=scene.background
        ).encoded
    decoded = decode_members(found.files)
    drawn = draw_views(decoded, scene.views, background=scene.background, compute=CPU)
    quality = [psnr(a, b) for a, b in zip(drawn, exact, strict=True)]
    return float(np.mean(quality)), len(bundle_bytes(found))


def needed(plain: list[Point], db: float) -> float:
    """Bytes for `db`, on the line between the points around it; NaN beyond the finest."""
    qualities, sizes = zip(*sorted(plain), strict=True)
    if not qualities[0] <= db <= qualities[-1]:
        return float("nan")
    return float(np.exp(np.interp(db, qualities, np.log(sizes))))


if __name__ == "__main__":
    main()
