"""What a SOG file stores of every Gaussian by itself, at one precision: the texels of position,
rotation, scale, colour and opacity, each rounded to levels of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from splat_assets.compression.fallback import Notes, first_that_works
from splat_assets.compression.paths import MOST as PATH_MOST
from splat_assets.compression.plain import plain_codebook
from splat_assets.compression.precision import Precision, Sensitivity
from splat_assets.compression.quantize import (
    Choose,
    Codebook,
    canonical_rotations,
    dequantize_means,
    fit_codebook,
    pack_quats,
    quantize_means,
    unpack_quats,
)
from splat_assets.formats.values import logit_of_byte, sigmoid
from splat_assets.gaussians.gaussians import Gaussians

# scales beyond these (natural log) are invisible or infinite for any renderer
_SCALE_RANGE = (-20.0, 20.0)
_THRIFT = 1.2  # times the price of a bit, in rounding: measured


@dataclass(frozen=True)
class Texels:
    """Rounded numbers, and what they mean."""

    pictures: dict[str, np.ndarray]  # [N, 3 or 4] uint8 by file name
    books: dict[str, Codebook]  # of "scales" and "sh0"
    mins: np.ndarray  # [3] of the box of positions, in signed logarithms
    maxs: np.ndarray  # [3]

    def decoded(self, like: Gaussians, rows: np.ndarray | slice = slice(None)) -> Gaussians:
        """`like` with the properties that are in `rows` of these texels."""
        low, high = self.pictures["means_l.webp"][rows], self.pictures["means_u.webp"][rows]
        sh0 = self.pictures["sh0.webp"][rows]
        return replace(
            like,
            means=dequantize_means(high.astype(np.uint16) << 8 | low, self.mins, self.maxs),
            quats=unpack_quats(self.pictures["quats.webp"][rows]),
            scales=self.books["scales"].decode(self.pictures["scales.webp"][rows]),
            opacities=logit_of_byte(sh0[:, 3]),
            sh0=self.books["sh0"].decode(sh0[:, None, :3]),
        )

    def with_values(self, values: Mapping[str, np.ndarray]) -> Texels:
        """With the numbers nearest to some properties' `values`, as in `Rounder.rounded`."""
        sh0 = self.pictures["sh0.webp"].copy()
        sh0[:, :3] = self.books["sh0"].encode(values["sh0"])[:, 0]
        sh0[:, 3] = np.rint(255 * sigmoid(values["opacities"]))
        scales = self.books["scales"].encode(values["scales"])
        return replace(self, pictures=self.pictures | {"sh0.webp": sh0, "scales.webp": scales})


class Rounder:
    """Rounds the Gaussians of one file, at any precision."""

    def __init__(
        self,
        gaussians: Gaussians,
        logs: np.ndarray,
        *,
        canonical: bool,
        thrifty: bool,
        sensitivity: Sensitivity | None,
        importance: Callable[[], np.ndarray],
        notes: Notes,
    ) -> None:
        """
        Args:
            gaussians: in the order of the file.
            logs: [N, 3] signed logarithms of their positions.
            canonical: whether rotations take the smallest of their 24 forms.
            thrifty: whether numbers that matter little take frequent values (`rounding`).
            sensitivity: what errors cost, where that is known.
            importance: gives [N] how much each Gaussian counts; seldom needed.
            notes: told which steps failed and what was done instead.
        """
        self._logs, self._thrifty, self._sensitivity = logs, thrifty, sensitivity
        self._importance, self._notes = importance, notes
        self._opacities = gaussians.opacities
        self._colors = gaussians.sh0[:, 0]
        scales = np.clip(gaussians.scales, *_SCALE_RANGE)
        turns = [("rotations are stored as they are", lambda: (gaussians.quats, scales))]
        if canonical:
            turns.insert(0, ("", lambda: canonical_rotations(gaussians.quats, scales)))
        quats, self.scales = first_that_works("Reducing the rotations", turns, notes)
        self._quats = quats.astype(np.float64, copy=False)

    def texels(self, precision: Precision, colors: np.ndarray) -> Texels:
        """At this precision, with `colors` [N, 3] in the place of sh0."""
        by_axis = [self._choose("means", precision, column=axis) for axis in range(3)]
        means = quantize_means(self._logs, precision.means, [c for c in by_axis if c] or None)
        books = {
            "scales": self._codebook("scales", self.scales, precision.scales),
            "sh0": self._codebook("colours", self._colors, precision.sh0),
        }
        if books["sh0"].kind != "exact" and not np.may_share_memory(colors, self._colors):
            books["sh0"] = self._codebook("colours", colors, precision.sh0)
        sh0 = np.empty((len(colors), 4), np.uint8)
        as_colors = alone = None
        if len(colors) <= PATH_MOST:  # with more it takes long
            as_colors = self._choose("sh0", precision, colors=True)
            alone = self._choose("opacities", precision)
        sh0[:, :3] = books["sh0"].encode(colors, as_colors)
        sh0[:, 3] = _opacity_bytes(self._opacities, precision.opacities, alone)
        pictures = {
            "means_l.webp": (means.values & 255).astype(np.uint8),
            "means_u.webp": (means.values >> 8).astype(np.uint8),
            "quats.webp": pack_quats(
                self._quats, precision.quats, self._choose("quats", precision)
            ),
            "scales.webp": books["scales"].encode(self.scales, self._choose("scales", precision)),
            "sh0.webp": sh0,
        }
        return Texels(pictures, books, means.mins, means.maxs)

    def rounded(
        self, texels: Texels, precision: Precision, name: str, values: np.ndarray
    ) -> np.ndarray:
        """A property's `values` as they can be stored beside `texels`: of "sh0" [N, 1, 3], "scales"
        [N, 3] or "opacities" [N]."""
        choose = self._choose(name, precision, colors=name == "sh0")
        if name == "opacities":
            return logit_of_byte(_opacity_bytes(values, precision.opacities, choose))
        book = texels.books[name]
        return book.decode(book.encode(values.reshape(-1, 3), choose)).reshape(values.shape)

    def _choose(
        self,
        name: str,
        precision: Precision,
        *,
        colors: bool = False,
        column: int | None = None,
    ) -> Choose | None:
        """How to round this property; None to the nearest."""
        if not self._thrifty or self._sensitivity is None or precision.bit_price <= 0:
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


def _opacity_bytes(logits: np.ndarray, step: int, choose: Choose | None) -> np.ndarray:
    """[N] multiples of `step` and 255; what is visible stays visible."""
    opacities = 255 * sigmoid(logits)
    levels = np.append(np.arange(min(step, 255), 255, step), 255) if step > 1 else np.arange(256)
    if choose is not None:
        return levels[choose(opacities[:, None], levels, 1 / 255)[:, 0]]
    return levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, opacities)]
