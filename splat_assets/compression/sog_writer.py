"""SOG v2, the compressed splat format of PlayCanvas: seven lossless WebP images and a `meta.json`.

Nothing but standard SOG comes out; what makes the files smaller and closer than usual is in
`precision`, `quantize`, `sorting` and `palette`. The same input and options give the same bytes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from splat_assets import __version__
from splat_assets.compression.fallback import Notes, first_that_works
from splat_assets.compression.palette import Palette, PaletteSearch
from splat_assets.compression.palette_images import DrawnPalette, PaletteArtist
from splat_assets.compression.paths import MOST as PATH_MOST
from splat_assets.compression.paths import shorter_path
from splat_assets.compression.plain import plain_codebook, plain_palette
from splat_assets.compression.precision import Precision, Sensitivity
from splat_assets.compression.quantize import (
    Choose,
    Codebook,
    canonical_rotations,
    dequantize_means,
    fit_codebook,
    pack_quats,
    quantize_means,
    signed_log,
    unpack_quats,
)
from splat_assets.compression.sh_metric import ShMetric
from splat_assets.compression.sog_bundle import META, EncodedSog
from splat_assets.compression.sog_images import encode_image, image_size
from splat_assets.compression.sog_reader import stored_logit
from splat_assets.compression.sorting import Order, sort_gaussians
from splat_assets.compression.views import importance
from splat_assets.compute import available_threads
from splat_assets.errors import UserError
from splat_assets.gaussians.cleanup import CleanupReport, clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import Progress, silent

# scales beyond these (natural log) are invisible or infinite for any renderer
_SCALE_RANGE = (-20.0, 20.0)
_THRIFT = 1.2  # times the price of a bit, in rounding: measured
_LEAST_IMPORTANCE = 1 / 16  # of the mean


@dataclass(frozen=True)
class SogOptions:
    """How to encode.

    `precision` comes from `precision.measure_sensitivity` for a wanted quality (see `targets`); by
    default everything is stored as finely as the format goes. `palette_size` None takes the palette
    that costs least at the precision's price of a bit.
    """

    order: Order = "hilbert"
    palette_size: int | None = None
    palette_growth: float = 2.0  # from one size of palette that is tried to the next
    precision: Precision = field(default_factory=Precision)
    drop_invisible: bool = False  # those that never reach 1/255, which nobody draws
    canonical: bool = True  # of the 24 forms of a rotation the smallest
    thrifty: bool = True  # frequent values for numbers that matter little (`rounding`)
    seed: int = 0
    extras: dict[str, Any] = field(default_factory=dict)  # application data kept in meta.json


def encode_sog(
    gaussians: Gaussians,
    options: SogOptions | None = None,
    progress: Progress | None = None,
    *,
    notes: Notes | None = None,
) -> EncodedSog:
    """Encode a splat.

    Raises `UserError` when no Gaussian has finite values, `Cancelled` when asked to stop.
    """
    options, progress = options or SogOptions(), progress or silent()
    kept, cleanup = clean(gaussians, drop_invisible=options.drop_invisible)
    if not len(kept):
        raise UserError(
            "The splat holds no Gaussian with finite values; there is nothing to encode."
        )
    if cleanup.dropped:
        progress.warn(cleanup.describe())
    encoder = SogEncoder(kept, options, cleanup=cleanup, progress=progress, notes=notes)
    return encoder.encode(options.precision, progress.span(0.1, 1.0))


# texels [N, 3 or 4] uint8 by file name, codebooks by property, and the box of positions
_Rounded = tuple[dict[str, np.ndarray], dict[str, Codebook], np.ndarray, np.ndarray]


class SogEncoder:
    """One splat, prepared once and then encoded at one or several precisions."""

    def __init__(
        self,
        gaussians: Gaussians,
        options: SogOptions,
        *,
        sensitivity: Sensitivity | None = None,
        cleanup: CleanupReport | None = None,
        progress: Progress | None = None,
        notes: Notes | None = None,
    ) -> None:
        """Bring the Gaussians into their order.

        Args:
            gaussians: cleaned, one at least.
            options: `precision` is not used.
            sensitivity: what errors in each Gaussian cost, where that was measured.
            notes: told which steps failed and what was done instead.
        """
        self._options = options
        self._notes = notes or Notes(progress)
        self._cleanup = cleanup or CleanupReport(len(gaussians), 0, 0)
        logs = signed_log(gaussians.means)
        positions = quantize_means(logs).values
        self.sorting = sort_gaussians(
            options.order, positions, lambda: _sorting_features(gaussians), options.seed
        )
        if self.sorting.note:
            self._notes(self.sorting.note)
        self._positions = positions[self.sorting.permutation]
        if self.sorting.order == "hilbert" and len(gaussians) <= PATH_MOST:
            path = first_that_works(
                "Shortening the path through the Gaussians",
                (
                    ("", lambda: shorter_path(self._positions, np.arange(len(gaussians)))),
                    ("it stays the curve", lambda: np.arange(len(gaussians))),
                ),
                self._notes,
            )
            permutation = self.sorting.permutation[path]
            self.sorting = replace(self.sorting, permutation=permutation)
            self._positions = self._positions[path]
        self._gaussians = gaussians.select(self.sorting.permutation)
        self._logs = logs.take(self.sorting.permutation, axis=0)
        self._given_colors = self._gaussians.sh0[:, 0]  # before they make up for anything
        self._sensitivity = None
        if sensitivity is not None:
            self._sensitivity = sensitivity.select(self.sorting.permutation)
        ordered = self._gaussians

        @cache
        def weights() -> np.ndarray:
            return first_that_works(
                "Weighing the Gaussians",
                (
                    ("", lambda: importance(ordered)),
                    ("all count alike", lambda: np.full(len(ordered), 1 / len(ordered))),
                ),
                self._notes,
            )

        self._importance: Callable[[], np.ndarray] = (
            weights  # [N]; seldom needed, so not found before
        )
        scales = np.clip(self._gaussians.scales, *_SCALE_RANGE)
        turns = [("rotations are stored as they are", lambda: (self._gaussians.quats, scales))]
        if options.canonical:
            turns.insert(0, ("", lambda: canonical_rotations(self._gaussians.quats, scales)))
        quats, self._scales = first_that_works("Reducing the rotations", turns, self._notes)
        self._quats = quats.astype(np.float64)
        self._artist = PaletteArtist(self._positions, self.sorting.order == "hilbert", self._notes)
        self._adapts = True
        self._search: PaletteSearch | None = None
        self._palette: tuple[float, Palette | None] | None = None
        self._rounded: tuple[Precision, _Rounded] | None = None

    def encode(self, precision: Precision, progress: Progress | None = None) -> EncodedSog:
        """The members of a SOG file. Raises `Cancelled` when asked to stop."""
        progress = progress or silent()
        kept, size = self._gaussians, image_size(len(self._gaussians))
        progress.update(0.0, "Quantising positions, rotations and colours")
        palette = self.palette(precision, progress.span(0.1, 0.7))
        progress.update(0.7, "Encoding the pictures")
        drawn = None if palette is None else self._drawn(palette)
        order = np.arange(len(kept)) if drawn is None else drawn.order
        pictures, shared, mins, maxs = self._pictures(precision)
        books = dict(shared)
        with ThreadPoolExecutor(available_threads()) as pool:
            encoded = pool.map(
                lambda texels: encode_image(texels[order], size, self._notes), pictures.values()
            )
            files = dict(zip(pictures, encoded, strict=True))
        meta: dict[str, Any] = {
            "version": 2,
            "asset": {"generator": f"splat-assets {__version__}"},
            "count": len(kept),
        }
        if kept.antialiased or kept.flat:
            meta["model"] = "2dgs" if kept.flat else "antialiased"
        if self._options.extras:
            meta["extras"] = self._options.extras
        meta["means"] = {
            "mins": mins.tolist(),
            "maxs": maxs.tolist(),
            "files": ["means_l.webp", "means_u.webp"],
        }
        meta["scales"] = {"codebook": _numbers(books["scales"]), "files": ["scales.webp"]}
        meta["quats"] = {"files": ["quats.webp"]}
        meta["sh0"] = {"codebook": _numbers(books["sh0"]), "files": ["sh0.webp"]}
        if palette is not None and drawn is not None:
            books["shN"] = palette.book
            files["shN_centroids.webp"], files["shN_labels.webp"] = drawn.entries, drawn.labels
            meta["shN"] = {
                "count": len(palette.codes),
                "bands": kept.sh_degree,
                "codebook": _numbers(palette.book),
                "files": ["shN_centroids.webp", "shN_labels.webp"],
            }
        progress.update(0.95, "Encoded")
        files[META] = json.dumps(meta, separators=(",", ":"), allow_nan=False).encode()
        return EncodedSog(
            files,
            len(kept),
            replace(self.sorting, permutation=self.sorting.permutation[order]),
            0 if palette is None else len(palette.codes),
            {name: book.kind for name, book in books.items()},
            self._cleanup,
            precision,
            tuple(self._notes),
            order,
        )

    def preview(self, precision: Precision, rows: np.ndarray | slice = slice(None)) -> Gaussians:
        """What a decoder will make of the Gaussians at `rows` of this order, without pictures being
        encoded."""
        palette = self.palette(precision)
        texels, books, mins, maxs = self._pictures(precision)
        low, high = texels["means_l.webp"][rows], texels["means_u.webp"][rows]
        sh0, kept = texels["sh0.webp"][rows], self._gaussians.select(rows)
        if palette is None:
            shN = np.zeros_like(kept.shN)
        else:
            codes = palette.codes[palette.labels[rows]]
            shN = palette.book.decode(codes).reshape(kept.shN.shape)
        return replace(
            kept,
            means=dequantize_means(high.astype(np.uint16) << 8 | low, mins, maxs),
            quats=unpack_quats(texels["quats.webp"][rows]),
            scales=books["scales"].decode(texels["scales.webp"][rows]),
            opacities=stored_logit(sh0[:, 3].astype(np.float64) / 255),
            sh0=books["sh0"].decode(sh0[:, None, :3]),
            shN=shN,
        )

    @property
    def gaussians(self) -> Gaussians:
        """In the order of `sorting`, as they are before anything is rounded."""
        return self._gaussians

    def recolored(self, gaussians: Gaussians) -> SogEncoder:
        """The same encoder for the same `gaussians` with other colours and opacities, which are
        final."""
        other = copy.copy(self)
        other._gaussians, other._adapts, other._rounded = gaussians, False, None
        return other

    def adapted(self, precision: Precision) -> Gaussians:
        """`gaussians` whose constant colours make up for what the palette does to the others."""
        kept = self._gaussians
        if not self._adapts or self._sensitivity is None or not kept.sh_degree:
            return kept
        metric, palette = self._sensitivity.sh_metric, self.palette(precision)
        change = -metric.folded(kept.shN.reshape(len(kept), -1))
        if palette is not None:
            change += metric.folded(palette.book.decode(palette.codes))[palette.labels]
        return replace(kept, sh0=(kept.sh0 + change[:, None]).astype(np.float32))

    def palette(self, precision: Precision, progress: Progress | None = None) -> Palette | None:
        """The palette of SH coefficients at this price of a bit; None where there are no
        coefficients, or none worth their bytes.
        """
        kept, progress = self._gaussians, progress or silent()
        if not kept.sh_degree:
            return None
        price = precision.bit_price
        if self._palette is not None and self._palette[0] == price:
            return self._palette[1]

        def search() -> Palette | None:
            worth = self._worth(precision)
            if self._search is None:
                entries, seed = self._options.palette_size, self._options.seed
                self._search = PaletteSearch(
                    points,
                    worth,
                    self._artist.size_of,
                    metric=self._sensitivity.sh_metric if self._sensitivity else None,
                    size=entries,
                    growth=self._options.palette_growth,
                    seed=seed,
                )
            return self._search.choose(price, progress)

        points = np.ascontiguousarray(kept.shN.reshape(len(kept), -1))
        palette = first_that_works(
            "The search for a palette of view-dependent colour",
            (
                ("", search),
                (
                    "a plain one was written",
                    lambda: plain_palette(
                        points,
                        self._worth(precision),
                        size_of=self._artist.size_of,
                        size=self._options.palette_size,
                    ),
                ),
                ("view-dependent colour was left out", lambda: None),
            ),
            self._notes,
        )
        self._palette = (price, palette)
        return palette

    def _drawn(self, palette: Palette) -> DrawnPalette:
        return first_that_works(
            "Ordering the palette",
            (
                ("", lambda: self._artist.draw(palette)),
                ("it is drawn as it was found", lambda: self._artist.draw_plainly(palette)),
            ),
            self._notes,
        )

    def sh_error(self, precision: Precision) -> float:
        """Mean squared error of the picture that the palette will leave."""
        palette = self.palette(precision)
        if palette is not None:
            return palette.error
        points = self._gaussians.shN.reshape(len(self._gaussians), -1)
        metric = ShMetric.plain(self._gaussians.shN.shape[1])
        if self._sensitivity is not None:
            metric = self._sensitivity.sh_metric
        return float(self._worth(precision) @ metric.squared(points))

    def _worth(self, precision: Precision) -> np.ndarray:
        if self._sensitivity is not None:
            return self._sensitivity.sh_worth
        weights = self._importance()
        mean = precision.sh_worth or 1 / len(weights)
        return np.maximum(weights * len(weights), _LEAST_IMPORTANCE) * mean

    def _pictures(self, precision: Precision) -> _Rounded:
        """What was asked for last is kept: it is looked at before it is encoded."""
        if self._rounded is None or self._rounded[0] != precision:
            self._rounded = precision, self._round(precision)
        return self._rounded[1]

    def _round(self, precision: Precision) -> _Rounded:
        kept = self._gaussians
        by_axis = [self._choose("means", precision, column=axis) for axis in range(3)]
        means = quantize_means(self._logs, precision.means, [c for c in by_axis if c] or None)
        books = {
            "scales": self._codebook("scales", self._scales, precision.scales),
            "sh0": self._codebook("colours", self._given_colors, precision.sh0),
        }
        colors = self.adapted(precision).sh0[:, 0]
        if books["sh0"].kind != "exact" and not np.may_share_memory(colors, self._given_colors):
            books["sh0"] = self._codebook("colours", colors, precision.sh0)
        sh0 = np.empty((len(kept), 4), np.uint8)
        as_colors = alone = None
        if len(self.sorting.permutation) <= PATH_MOST:  # with more it takes long
            as_colors = self._choose("sh0", precision, colors=True)
            alone = self._choose("opacities", precision)
        sh0[:, :3] = books["sh0"].encode(colors, as_colors)
        sh0[:, 3] = _opacity_bytes(kept.opacities, precision.opacities, alone)
        pictures = {
            "means_l.webp": (means.values & 255).astype(np.uint8),
            "means_u.webp": (means.values >> 8).astype(np.uint8),
            "quats.webp": pack_quats(
                self._quats, precision.quats, self._choose("quats", precision)
            ),
            "scales.webp": books["scales"].encode(self._scales, self._choose("scales", precision)),
            "sh0.webp": sh0,
        }
        return pictures, books, means.mins, means.maxs

    def _choose(
        self, name: str, precision: Precision, *, colors: bool = False, column: int | None = None
    ) -> Choose | None:
        """How to round this property; None to the nearest."""
        if not self._options.thrifty or self._sensitivity is None or precision.bit_price <= 0:
            return None
        worth, price = self._sensitivity.floored(name, precision), _THRIFT * precision.bit_price
        if column is not None:
            worth = worth[:, column]

        def choose(x: np.ndarray, levels: np.ndarray, unit: float = 1.0) -> np.ndarray:
            from splat_assets.compression.rounding import thrifty, thrifty_colors

            return (thrifty_colors if colors else thrifty)(x, levels, worth * unit**2, price)

        return choose

    def _codebook(self, name: str, x: np.ndarray, step: float) -> Codebook:
        return first_that_works(
            f"Fitting the codebook of {name}",
            (
                ("", lambda: fit_codebook(x, lambda: self._importance()[:, None], step)),
                ("it has even steps", lambda: plain_codebook(x)),
            ),
            self._notes,
        )


def _numbers(book: Codebook) -> list[float]:
    """The shortest decimals that give the same float32."""
    return [float(str(value)) for value in book.values]


def _opacity_bytes(logits: np.ndarray, step: int, choose: Choose | None) -> np.ndarray:
    """[N] multiples of `step` and 255; what is visible stays visible."""
    opacities = 255 * _sigmoid(logits)
    levels = np.append(np.arange(min(step, 255), 255, step), 255) if step > 1 else np.arange(256)
    if choose is not None:
        return levels[choose(opacities[:, None], levels, 1 / 255)[:, 0]]
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, opacities)]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60)))


def _sorting_features(g: Gaussians) -> np.ndarray:
    """[N, 14] what PLAS sorts by: positions (log), scales, rotation, opacity and colour."""
    quats, scales = canonical_rotations(g.quats, g.scales)
    logs = np.sign(g.means) * np.log1p(np.abs(g.means))
    parts = (logs, scales, quats, _sigmoid(g.opacities)[:, None], g.sh0[:, 0])
    return np.concatenate(parts, axis=1).astype(np.float32)
