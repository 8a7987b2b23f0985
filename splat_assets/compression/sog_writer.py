"""SOG v2, the compressed splat format of PlayCanvas: seven lossless WebP images and a `meta.json`.

Written as one `.sog` (a stored ZIP) or as a folder. Nothing but standard SOG comes out; what makes
the files smaller and closer than usual is in `quantize`, `sorting` and `palette`. The same input
and options give the same bytes.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from splat_assets import __version__
from splat_assets.artifacts.manifest import write_bytes_atomic
from splat_assets.compression.palette import Palette, build_palette, nearest
from splat_assets.compression.precision import Precision
from splat_assets.compression.quantize import (
    Codebook,
    canonical_rotations,
    fit_codebook,
    pack_quats,
    quantize_means,
)
from splat_assets.compression.sorting import Order, Sorting, sort_gaussians
from splat_assets.errors import UserError
from splat_assets.gaussians.cleanup import CleanupReport, clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import Progress, silent

META = "meta.json"
PALETTE_COLUMNS = 64  # palette entries per image row, fixed by the format
# scales beyond these (natural log) are invisible or infinite for any renderer
_SCALE_RANGE = (-20.0, 20.0)
_CODEBOOK_SHARE = 0.1  # of the palette's error that its codebook may add
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class SogOptions:
    """How to encode.

    `precision` comes from `precision.measure_sensitivity` for a wanted quality (see `targets`); by
    default everything is stored as finely as the format goes. `palette_size` None
    searches for the smallest palette that has its `palette_mse`, or where that is 0, an estimated
    colour error, seen alone, of at most that of `palette_db`.
    """

    order: Order = "hilbert"
    palette_size: int | None = None
    palette_db: float = 32.0
    precision: Precision = field(default_factory=Precision)
    drop_invisible: bool = False  # those that never reach 1/255, which nobody draws
    seed: int = 0
    extras: dict[str, Any] = field(default_factory=dict)  # application data kept in meta.json


@dataclass(frozen=True)
class EncodedSog:
    """The members of a SOG file, `meta.json` last, and what the encoder chose."""

    files: dict[str, bytes]
    count: int
    sorting: Sorting
    palette_size: int  # 0 without view-dependent colour
    codebooks: dict[str, str]  # property → kind of codebook
    cleanup: CleanupReport
    precision: Precision

    @property
    def field_bytes(self) -> dict[str, int]:
        return {name: len(data) for name, data in self.files.items()}


def encode_sog(
    gaussians: Gaussians, options: SogOptions | None = None, progress: Progress | None = None
) -> EncodedSog:
    """Encode a splat.

    Raises `UserError` when no Gaussian has finite values, `Cancelled` when asked to stop.
    """
    options, progress = options or SogOptions(), progress or silent()
    precision = options.precision
    kept, cleanup = clean(gaussians, drop_invisible=options.drop_invisible)
    if not len(kept):
        raise UserError(
            "The splat holds no Gaussian with finite values; there is nothing to encode."
        )
    if cleanup.dropped:
        progress.warn(cleanup.describe())
    means = quantize_means(kept.means, precision.means)
    sorting = sort_gaussians(
        options.order, means.values, lambda: _sorting_features(kept), options.seed
    )
    if sorting.note:
        progress.warn(f"Order: {sorting.note}")
    kept = kept.select(sorting.permutation)
    progress.update(0.1, "Quantising positions, rotations and colours")
    quats, scales = canonical_rotations(kept.quats, np.clip(kept.scales, *_SCALE_RANGE))
    weights = importance(kept)
    scale_book = fit_codebook(scales, weights[:, None], precision.scales)
    color_book = fit_codebook(kept.sh0[:, 0], weights[:, None], precision.sh0)
    values = means.values[sorting.permutation]
    sh0 = np.empty((len(kept), 4), np.uint8)
    sh0[:, :3] = color_book.encode(kept.sh0[:, 0])
    sh0[:, 3] = _opacity_bytes(kept.opacities, precision.opacities)

    size = _image_size(len(kept))
    files = {
        "means_l.webp": _encode_image((values & 255).astype(np.uint8), size),
        "means_u.webp": _encode_image((values >> 8).astype(np.uint8), size),
        "quats.webp": _encode_image(pack_quats(quats, precision.quats), size),
        "scales.webp": _encode_image(scale_book.encode(scales), size),
        "sh0.webp": _encode_image(sh0, size),
    }
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": f"splat-assets {__version__}"},
        "count": len(kept),
    }
    if kept.antialiased or kept.flat:
        meta["model"] = "2dgs" if kept.flat else "antialiased"
    if options.extras:
        meta["extras"] = options.extras
    meta["means"] = {
        "mins": means.mins.tolist(),
        "maxs": means.maxs.tolist(),
        "files": ["means_l.webp", "means_u.webp"],
    }
    meta["scales"] = {"codebook": _numbers(scale_book), "files": ["scales.webp"]}
    meta["quats"] = {"files": ["quats.webp"]}
    meta["sh0"] = {"codebook": _numbers(color_book), "files": ["sh0.webp"]}
    codebooks = {"scales": scale_book.kind, "sh0": color_book.kind}
    palette_size = 0
    if kept.sh_degree:
        progress.update(0.3, "Building the palette of view-dependent colour")
        palette = _fit_palette(kept, weights, options, progress.span(0.3, 0.9))
        book, centroids, labels = _quantize_palette(kept, palette)
        palette_size, codebooks["shN"] = len(centroids), book.kind
        pictures = _smallest_palette_pictures(centroids, labels, size)
        files["shN_centroids.webp"], files["shN_labels.webp"] = pictures
        meta["shN"] = {
            "count": palette_size,
            "bands": kept.sh_degree,
            "codebook": _numbers(book),
            "files": ["shN_centroids.webp", "shN_labels.webp"],
        }
    progress.update(0.95, "Encoded")
    files[META] = json.dumps(meta, separators=(",", ":"), allow_nan=False).encode()
    return EncodedSog(files, len(kept), sorting, palette_size, codebooks, cleanup, precision)


def bundle_bytes(encoded: EncodedSog) -> bytes:
    """The contents of a `.sog` file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for name, data in encoded.files.items():
            info = zipfile.ZipInfo(name, _ZIP_DATE)
            info.create_system = 3  # else the platform's
            bundle.writestr(info, data)
    return buffer.getvalue()


def write_bundle(path: Path | str, encoded: EncodedSog) -> int:
    """Write a `.sog` file atomically; returns its size in bytes."""
    data = bundle_bytes(encoded)
    write_bytes_atomic(Path(path), data)
    return len(data)


def write_folder(folder: Path | str, encoded: EncodedSog) -> int:
    """Write the members into a folder, `meta.json` last; returns their size in bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in encoded.files.items():
        write_bytes_atomic(folder / name, data)
    return sum(encoded.field_bytes.values())


def importance(gaussians: Gaussians) -> np.ndarray:
    """[N] float64, how much of a picture each Gaussian is likely to fill: opacity times its area
    as seen from around the scene's centre. Relative values only."""
    means = gaussians.means.astype(np.float64)
    center = np.median(means, axis=0)
    distance2 = ((means - center) ** 2).sum(axis=1)
    radius2 = np.median(distance2)
    scales = np.sort(np.clip(gaussians.scales.astype(np.float64), *_SCALE_RANGE), axis=1)
    area = np.exp(scales[:, 1] + scales[:, 2])
    # the viewer stands about as far from the centre as the scene is wide
    seen = _sigmoid(gaussians.opacities) * area / (distance2 + 4 * radius2 + 1e-12)
    total = seen.sum()
    return seen / total if total > 0 else np.full(len(means), 1 / len(means))


def _fit_palette(
    g: Gaussians, weights: np.ndarray, options: SogOptions, progress: Progress
) -> Palette:
    # an orthonormal basis: the mean over the sphere of the squared colour error of a channel is
    # the squared distance of its coefficients over 4 pi; over three channels, 12 pi
    max_mse = options.precision.palette_mse or 12 * math.pi * 10 ** (-options.palette_db / 10)
    points = np.ascontiguousarray(g.shN.reshape(len(g), -1))
    return build_palette(
        points,
        weights,
        size=options.palette_size,
        max_mse=max_mse,
        seed=options.seed,
        report=lambda fraction: progress.update(fraction, "Building the palette"),
    )


def _quantize_palette(g: Gaussians, palette: Palette) -> tuple[Codebook, np.ndarray, np.ndarray]:
    """The palette's codebook, its entries as bytes [K, C, 3], and labels [N] for what a decoder
    will see of it."""
    usage = np.bincount(palette.labels, minlength=len(palette.vectors)).astype(np.float64)
    share = _CODEBOOK_SHARE * palette.mse / palette.vectors.shape[1]
    book = fit_codebook(palette.vectors, usage[:, None], math.sqrt(12 * share))
    codes = book.encode(palette.vectors)
    labels = palette.labels
    if not palette.is_exact:
        labels, _ = nearest(g.shN.reshape(len(g), -1), book.decode(codes))
    return book, codes.reshape(len(codes), -1, 3), labels


def _smallest_palette_pictures(
    centroids: np.ndarray, labels: np.ndarray, size: tuple[int, int]
) -> tuple[bytes, bytes]:
    """Entries in the order they have (like beside like), or in the order of their first use (with
    many entries the labels then mostly count up), whichever makes the smaller images."""
    first = np.full(len(centroids), len(labels), np.int64)
    np.minimum.at(first, labels, np.arange(len(labels)))
    candidates = []
    for order in (np.arange(len(centroids)), np.argsort(first, kind="stable")):
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order))
        renamed = rank[labels]
        texels = np.zeros((len(labels), 3), np.uint8)
        texels[:, 0], texels[:, 1] = renamed & 255, renamed >> 8
        candidates.append((_encode_palette(centroids[order]), _encode_image(texels, size)))
    return min(candidates, key=lambda pair: len(pair[0]) + len(pair[1]))


def _encode_palette(codes: np.ndarray) -> bytes:
    """64 entries a row, the coefficients of one beside each other, RGB in the channels."""
    count, coefficients, _ = codes.shape
    height = -(-count // PALETTE_COLUMNS)
    rows = np.empty((height * PALETTE_COLUMNS, coefficients, 3), np.uint8)
    rows[:count], rows[count:] = codes, codes[-1]
    return _encode_webp(rows.reshape(height, PALETTE_COLUMNS * coefficients, 3))


def _image_size(count: int) -> tuple[int, int]:
    """(height, width), multiples of four, nearly square."""
    width = 4 * math.ceil(math.sqrt(count) / 4)
    return 4 * math.ceil(count / width / 4), width


def _encode_image(texels: np.ndarray, size: tuple[int, int]) -> bytes:
    """[N, 3 or 4] uint8 in row order; what is left of the image repeats the last."""
    height, width = size
    pixels = np.empty((height * width, texels.shape[1]), np.uint8)
    pixels[: len(texels)], pixels[len(texels) :] = texels, texels[-1]
    return _encode_webp(pixels.reshape(height, width, -1))


def _encode_webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    # exact: without it the encoder may change colours where alpha is 0
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exact=True, quality=75, method=4)
    return buffer.getvalue()


def _numbers(book: Codebook) -> list[float]:
    """The shortest decimals that give the same float32."""
    return [float(str(value)) for value in book.values]


def _opacity_bytes(logits: np.ndarray, step: int) -> np.ndarray:
    """[N] multiples of `step` and 255; what is visible stays visible."""
    values = step * np.rint(_sigmoid(logits) * 255 / step)
    return np.clip(values, min(step, 255), 255) if step > 1 else values


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60)))


def _sorting_features(g: Gaussians) -> np.ndarray:
    """[N, 14] what PLAS sorts by: positions (log), scales, rotation, opacity and colour."""
    quats, scales = canonical_rotations(g.quats, g.scales)
    logs = np.sign(g.means) * np.log1p(np.abs(g.means))
    parts = (logs, scales, quats, _sigmoid(g.opacities)[:, None], g.sh0[:, 0])
    return np.concatenate(parts, axis=1).astype(np.float32)
