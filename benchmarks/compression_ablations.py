"""What each step of the SOG encoder buys: bytes and quality with one step changed at a time.

    python -m benchmarks.compression_ablations NAME=PATH … [--preset standard] [--out FILE]

PATH is a splat file or the folder of a `trained_splat`. All rows of a scene are aimed at the same
quality by the same sensitivity; PSNR is against the uncompressed splat, in views the encoder does
not know (cameras held out of training, or eight around the splat). "Bytes at equal PSNR" converts
the difference at the scene's own price, measured by encoding it 3 dB coarser and finer.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.compression import Scene, open_scenes
from splat_assets.compression import (
    aim,
    finetune,
    precision,
    quantize,
    sog_texels,
    sog_writer,
    targets,
)
from splat_assets.compression.quality import draw_views, psnr
from splat_assets.compression.quantize import Codebook
from splat_assets.compression.sh_metric import ShMetric
from splat_assets.compression.sog_bundle import bundle_bytes
from splat_assets.compression.sog_reader import decode_members
from splat_assets.compression.targets import PRESET_DB, encode_as_wished
from splat_assets.compute import Compute, available_threads
from splat_assets.datasets.options import CompressOptions
from splat_assets.progress import silent

_AROUND_DB = 3.0
CPU = Compute("cpu", "numba", "benchmark", available_threads())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("splats", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--preset", default="standard", choices=sorted(PRESET_DB))
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/compression_ablations.md")
    )
    arguments = parser.parse_args()
    lines = ["# Compression: what each step buys", ""]
    lines += [(__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(), ""]
    lines += [f"Preset `{arguments.preset}`.", ""]
    for text in arguments.splats:
        name, _, path = text.partition("=")
        lines += table(open_scenes(name, Path(path))[0], arguments.preset)
        print("\n".join(lines[-20:]), flush=True)
        arguments.out.write_text("\n".join(lines), encoding="utf-8")


def table(scene: Scene, preset: str) -> list[str]:
    exact = list(draw_views(scene.gaussians, scene.views, background=scene.background, compute=CPU))

    def row(offset: float = 0.0, **options: Any) -> tuple[int, float]:
        wishes = CompressOptions.model_validate({"preset": preset, **options})
        # one look each: the rows are to differ in one step, not in how they were aimed
        aims = {preset: PRESET_DB[preset] + offset}
        with mock.patch.dict(PRESET_DB, aims), mock.patch.object(aim, "_LOOKS", 1):
            found = encode_as_wished(
                scene.gaussians, wishes, scene.cameras or None, silent(),
                background=scene.background,
            )  # fmt: skip
        decoded = decode_members(found.encoded.files)
        drawn = draw_views(decoded, scene.views, background=scene.background, compute=CPU)
        quality = [psnr(a, b) for a, b in zip(drawn, exact, strict=True)]
        return len(bundle_bytes(found.encoded)), float(np.mean(quality))

    whole, coarser, finer = row(), row(-_AROUND_DB), row(_AROUND_DB)
    per_db = (finer[0] - coarser[0]) / max(finer[1] - coarser[1], 0.1)
    lines = [
        f"**{scene.name}** – {len(scene.gaussians):,} Gaussians, SH degree "
        f"{scene.gaussians.sh_degree}; 1 dB costs {per_db:,.0f} bytes",
        "",
        "| | bytes | PSNR dB | bytes at equal PSNR |",
        "|---|--:|--:|--:|",
        f"| everything | {whole[0]:,} | {whole[1]:.2f} | 1.000 × |",
    ]
    for name, options, changed in CHANGES:
        if name.startswith("palette") and not scene.gaussians.sh_degree:
            continue
        if "fine-tuning" in name and not scene.cameras:
            continue
        with changed():
            size, quality = row(**options)
        equal = size + per_db * (whole[1] - quality)
        lines.append(f"| {name} | {size:,} | {quality:.2f} | {equal / whole[0]:.3f} × |")
    return [*lines, ""]


@contextmanager
def unchanged() -> Iterator[None]:
    yield


@contextmanager
def truncating() -> Iterator[None]:
    """The next lower level instead of the nearest one, for positions and rotations."""

    def lower(values: np.ndarray) -> np.ndarray:
        return np.floor(values)

    numpy = SimpleNamespace(**{**vars(np), "rint": lower})
    with nearest(), mock.patch.object(quantize, "np", numpy):
        yield


@contextmanager
def as_trained() -> Iterator[None]:
    """Rotations in the form they have."""

    def same(quats: np.ndarray, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return quats / np.linalg.norm(quats, axis=1, keepdims=True), scales

    with mock.patch.object(sog_texels, "canonical_rotations", same):
        yield


@contextmanager
def lloyd_codebooks() -> Iterator[None]:
    """256 levels where they serve best, instead of even or exact ones."""

    def fit(x: np.ndarray, weights: Callable[[], np.ndarray], step: float = 0.0) -> Codebook:
        flat = x.ravel().astype(np.float64)
        w = np.broadcast_to(weights(), x.shape).ravel()
        counts, edges = np.histogram(flat, 4096, weights=w)
        filled = counts > 0
        centers = ((edges[1:] + edges[:-1]) / 2)[filled]
        return Codebook(quantize._lloyd(centers, counts[filled]).astype(np.float32), "lloyd")

    with mock.patch.object(sog_texels, "fit_codebook", fit):
        yield


@contextmanager
def fine_positions() -> Iterator[None]:
    """All 65536 levels."""
    whole = quantize.quantize_means

    def fine(logs: np.ndarray, *_: object) -> quantize.QuantizedMeans:
        return whole(logs)

    with mock.patch.object(sog_texels, "quantize_means", fine):
        yield


@contextmanager
def unweighted() -> Iterator[None]:
    """SH vectors all worth the same."""

    def same(encoder: Any, precision: object) -> np.ndarray:
        worth: np.ndarray = encoder._sensitivity.sh_worth
        return np.full(len(worth), worth.mean())

    with mock.patch.object(sog_writer.SogEncoder, "_worth", same):
        yield


@contextmanager
def any_direction() -> Iterator[None]:
    """SH vectors as far apart as their numbers are, wherever they were seen from."""

    def plain(sensitivity: precision.Sensitivity) -> ShMetric:
        return ShMetric.plain(sensitivity.sh_numbers // 3)

    with mock.patch.object(precision.Sensitivity, "sh_metric", property(plain)):
        yield


@contextmanager
def nearest() -> Iterator[None]:
    """Every number to the value nearest to it."""
    with mock.patch.object(sog_texels.Rounder, "_choose", lambda *_, **__: None):
        yield


@contextmanager
def colours_only() -> Iterator[None]:
    with mock.patch.dict(finetune._RATES, {"scales": 0.0, "entries": 0.0}):
        yield


@contextmanager
def at_the_end() -> Iterator[None]:
    with mock.patch.object(targets, "QUICK", replace(finetune.QUICK, rests=())):
        yield


CHANGES: Sequence[tuple[str, dict[str, Any], Callable[[], AbstractContextManager[None]]]] = (
    ("truncation instead of rounding", {}, truncating),
    ("rounding to the nearest", {}, nearest),
    ("rotations as trained", {}, as_trained),
    ("positions at 16 bits", {}, fine_positions),
    ("order morton", {"order": "morton"}, unchanged),
    ("order plas", {"order": "plas"}, unchanged),
    ("order none", {"order": "none"}, unchanged),
    ("codebooks of 256 fitted levels", {}, lloyd_codebooks),
    ("palette of 1024 entries", {"palette_size": 1024}, unchanged),
    ("palette of 16384 entries", {"palette_size": 16384}, unchanged),
    ("palette blind to what errors cost", {}, unweighted),
    ("palette blind to directions of view", {}, any_direction),
    ("no pruning", {"prune": False}, unchanged),
    ("no fine-tuning", {"finetune": False}, unchanged),
    ("fine-tuning of colours and opacities only", {}, colours_only),
    ("rounding at the end of fine-tuning, not part by part", {}, at_the_end),
)


if __name__ == "__main__":
    main()
