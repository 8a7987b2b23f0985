"""SOG v2, the compressed splat format of PlayCanvas: seven lossless WebP images and a `meta.json`.

Nothing but standard SOG comes out; what makes the files smaller and closer than usual is in
`precision`, `sog_texels`, `finetune`, `sorting` and `palette`. The same input and options give the
same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np

from splat_assets import __version__
from splat_assets.compression.fallback import Notes, first_that_works
from splat_assets.compression.finetune import Draft
from splat_assets.compression.palette import Palette, PaletteSearch
from splat_assets.compression.palette_images import DrawnPalette, PaletteArtist
from splat_assets.compression.paths import MOST as PATH_MOST
from splat_assets.compression.paths import shorter_path
from splat_assets.compression.plain import plain_palette
from splat_assets.compression.precision import Precision, Sensitivity
from splat_assets.compression.quantize import (
    Codebook,
    canonical_rotations,
    quantize_means,
    signed_log,
)
from splat_assets.compression.sh_metric import ShMetric
from splat_assets.compression.sog_bundle import META, EncodedSog
from splat_assets.compression.sog_images import encode_image, image_size
from splat_assets.compression.sog_texels import Rounder, Texels
from splat_assets.compression.sorting import Order, sort_gaussians
from splat_assets.compression.views import importance
from splat_assets.compute import available_threads
from splat_assets.errors import UserError
from splat_assets.formats.values import sigmoid
from splat_assets.gaussians.cleanup import CleanupReport, clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import Progress, silent

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
    palette_growth: float = 4.0  # from one size of palette that is tried to the next
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
        self._rounder = Rounder(
            ordered,
            logs.take(self.sorting.permutation, axis=0),
            canonical=options.canonical,
            thrifty=options.thrifty,
            sensitivity=self._sensitivity,
            importance=self._importance,
            notes=self._notes,
        )
        self._artist = PaletteArtist(self._positions, self.sorting.order == "hilbert", self._notes)
        self._search: PaletteSearch | None = None
        self._palette: tuple[float, Palette | None] | None = None
        self._texels: tuple[Precision, Texels] | None = None

    def encode(
        self,
        precision: Precision,
        progress: Progress | None = None,
        *,
        values: Mapping[str, np.ndarray] | None = None,
    ) -> EncodedSog:
        """The members of a SOG file. Raises `Cancelled` when asked to stop.

        Args:
            values: of the properties of `draft`, what they are to be instead.
        """
        progress = progress or silent()
        kept, size = self._gaussians, image_size(len(self._gaussians))
        progress.update(0.0, "Quantising positions, rotations and colours")
        palette = self.palette(precision, progress.span(0.1, 0.7))
        texels = self.texels(precision)
        if values is not None:
            texels = texels.with_values(values)
            if palette is not None and "entries" in values:
                palette = replace(palette, codes=palette.book.encode(values["entries"]))
        progress.update(0.7, "Encoding the pictures")
        drawn = None if palette is None else self._drawn(palette)
        order = np.arange(len(kept)) if drawn is None else drawn.order
        books = dict(texels.books)
        with ThreadPoolExecutor(available_threads()) as pool:
            encoded = pool.map(
                lambda picture: encode_image(picture[order], size, self._notes),
                texels.pictures.values(),
            )
            files = dict(zip(texels.pictures, encoded, strict=True))
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
            "mins": texels.mins.tolist(),
            "maxs": texels.maxs.tolist(),
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
        palette, kept = self.palette(precision), self._gaussians.select(rows)
        shN = np.zeros_like(kept.shN)
        if palette is not None:
            shN = palette.decoded(rows).reshape(kept.shN.shape)
        return replace(self.texels(precision).decoded(kept, rows), shN=shN)

    @property
    def gaussians(self) -> Gaussians:
        """In the order of `sorting`, as they are before anything is rounded."""
        return self._gaussians

    def draft(self, precision: Precision) -> Draft:
        """What may still change of what would be encoded."""
        texels, palette, search = self.texels(precision), self.palette(precision), self._search
        gaussians = self.adapted(precision)
        exact = {
            "sh0": gaussians.sh0,
            "opacities": gaussians.opacities,
            "scales": self._rounder.scales,
        }
        steps: dict[str, np.ndarray | float] = {
            "sh0": max(precision.sh0, texels.books["sh0"].typical_step),
            "scales": max(precision.scales, texels.books["scales"].typical_step),
            # of the logit, where it changes slowly
            "opacities": 8 * precision.opacities / 255,
        }
        if palette is not None and search is not None:
            exact["entries"] = palette.book.decode(palette.codes)
            steps["entries"] = palette.steps

        def rounded(name: str, values: np.ndarray) -> np.ndarray:
            if name == "entries":
                assert palette is not None and search is not None
                return search.rounded(palette, values, precision.bit_price)
            return self._rounder.rounded(texels, precision, name, values)

        labels = palette.labels if palette is not None and "entries" in exact else None
        return Draft(self.preview(precision), exact, steps, rounded, labels)

    def adapted(self, precision: Precision) -> Gaussians:
        """`gaussians` whose constant colours make up for what the palette does to the others."""
        kept = self._gaussians
        if self._sensitivity is None or not kept.sh_degree:
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

    def texels(self, precision: Precision) -> Texels:
        """What was asked for last is kept: it is looked at before it is encoded."""
        if self._texels is None or self._texels[0] != precision:
            colors = self.adapted(precision).sh0[:, 0]
            self._texels = precision, self._rounder.texels(precision, colors)
        return self._texels[1]


def _numbers(book: Codebook) -> list[float]:
    """The shortest decimals that give the same float32."""
    return [float(str(value)) for value in book.values]


def _sorting_features(g: Gaussians) -> np.ndarray:
    """[N, 14] what PLAS sorts by: positions (log), scales, rotation, opacity and colour."""
    quats, scales = canonical_rotations(g.quats, g.scales)
    logs = np.sign(g.means) * np.log1p(np.abs(g.means))
    parts = (logs, scales, quats, sigmoid(g.opacities)[:, None], g.sh0[:, 0])
    return np.concatenate(parts, axis=1).astype(np.float32)
