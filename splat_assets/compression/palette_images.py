"""The two pictures of a palette: its entries, and which of them each Gaussian uses.

Entries may be numbered in any order, and with many of them it pays to put the Gaussians in another
one, too: those that use an entry first before all others, so that their labels count up.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from splat_assets.compression.palette import Palette
from splat_assets.compression.paths import MOST as PATH_MOST
from splat_assets.compression.paths import shorter_path
from splat_assets.compression.sog_images import Note, encode_image, encode_webp, image_size

PALETTE_COLUMNS = 64  # palette entries per image row, fixed by the format
_MANY = 4  # Gaussians an entry, below which entries are probably best in the order of their use


@dataclass(frozen=True)
class DrawnPalette:
    """The encoded pictures, and the order of the Gaussians that they are for."""

    entries: bytes
    labels: bytes
    order: np.ndarray  # [N]


@dataclass(frozen=True)
class PaletteArtist:
    """Draws palettes of the Gaussians at `positions` [N, 3] uint16, in that order or, if it
    `reorders`, in a better one."""

    positions: np.ndarray
    reorders: bool
    note: Note  # told when the encoder had to be used in a plainer way

    def size_of(self, codes: np.ndarray, labels: np.ndarray, tier: np.ndarray) -> int:
        """About how many bytes both pictures will have; quick, and a little too many."""
        many = len(codes) * _MANY > len(labels)
        order = self._as_they_are
        if many and self.reorders:
            order = self._by_first_use(labels, tier, len(codes), quick=True)
        return sum(map(len, self._pictures(codes, labels[order], by_use=many, trial=True)))

    def draw(self, palette: Palette) -> DrawnPalette:
        """In the orders of entries and of Gaussians that quick trials found smallest."""
        codes, labels = palette.codes, palette.labels
        ways = [(self._as_they_are, False), (self._as_they_are, True)]
        if self.reorders and len(codes) * _MANY > len(labels):
            ways.append((self._by_first_use(labels, palette.tier, len(codes)), True))
        sizes = []
        for order, by_use in ways:
            drawn = self._pictures(codes, labels[order], by_use=by_use, trial=True)
            more = 0 if len(ways) == 2 else self._size_of_positions(order)
            sizes.append(sum(map(len, drawn)) + more)
        order, by_use = ways[int(np.argmin(sizes))]
        return DrawnPalette(*self._pictures(codes, labels[order], by_use=by_use), order)

    def draw_plainly(self, palette: Palette) -> DrawnPalette:
        """As everything is, without trials."""
        pictures = self._pictures(palette.codes, palette.labels, by_use=False)
        return DrawnPalette(*pictures, self._as_they_are)

    @property
    def _as_they_are(self) -> np.ndarray:
        return np.arange(len(self.positions))

    def _size_of_positions(self, order: np.ndarray) -> int:
        """Of their high bytes, which any order but that of neighbours makes larger."""
        high = (self.positions[order] >> 8).astype(np.uint8)
        return len(encode_image(high, image_size(len(order)), self.note, trial=True))

    def _by_first_use(
        self, labels: np.ndarray, tier: np.ndarray, entries: int, *, quick: bool = False
    ) -> np.ndarray:
        """[N] the order in which the first users of entries come before all others, those of the
        finest entries first of all; like beside like among each."""
        first = _first_uses(labels, entries)
        used = np.flatnonzero(first < len(labels))
        group = np.full(len(labels), tier.max() + 1)
        group[first[used]] = tier.max() - tier[used]
        order = np.argsort(group, kind="stable")
        if quick or len(labels) > PATH_MOST:
            return order
        bounds = np.searchsorted(group[order], np.arange(tier.max() + 3))
        parts = [order[first:last] for first, last in pairwise(bounds)]
        return np.concatenate([shorter_path(self.positions, part) for part in parts])

    def _pictures(
        self, codes: np.ndarray, labels: np.ndarray, *, by_use: bool, trial: bool = False
    ) -> tuple[bytes, bytes]:
        """Of entries and of labels; entries are in the order they have (like beside like), or in
        that of their first use."""
        if by_use:
            order = _first_uses(labels, len(codes)).argsort(kind="stable")
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            codes, labels = codes[order], rank[labels]
        texels = np.zeros((len(labels), 3), np.uint8)
        texels[:, 0], texels[:, 1] = labels & 255, labels >> 8
        size = image_size(len(labels))
        return (
            self._encode_entries(codes.reshape(len(codes), -1, 3), trial),
            encode_image(texels, size, self.note, trial=trial),
        )

    def _encode_entries(self, codes: np.ndarray, trial: bool) -> bytes:
        """64 entries a row, the coefficients of one beside each other, RGB in the channels."""
        count, coefficients, _ = codes.shape
        height = -(-count // PALETTE_COLUMNS)
        rows = np.empty((height * PALETTE_COLUMNS, coefficients, 3), np.uint8)
        rows[:count], rows[count:] = codes, codes[-1]
        pixels = rows.reshape(height, PALETTE_COLUMNS * coefficients, 3)
        return encode_webp(pixels, self.note, trial=trial)


def _first_uses(labels: np.ndarray, entries: int) -> np.ndarray:
    """[K] where each entry is used first in `labels` [N]; N where never."""
    first = np.full(entries, len(labels), np.int64)
    np.minimum.at(first, labels, np.arange(len(labels)))
    return first
