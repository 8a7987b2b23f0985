"""Which Gaussians touch which tile, in depth order: a stable counting sort.

The Gaussians come in one total order (depth, then index; no ties), so every tile's list is the same
however the work is divided. An entry also remembers its slot among the entries of its Gaussian,
where the backward pass leaves its sums: no two tiles ever write to the same place.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splat_assets.rendering.cpu.projection import (
    LARGE,
    ONE,
    ROW,
    TILE,
    tile_columns,
    tile_rect,
)
from splat_assets.rendering.cpu.simd import fetch_add, lowest_bit


@njit(cache=True, nogil=True, error_model="numpy")
def count_tiles(  # type: ignore[no-untyped-def]
    counter, keys, chunks, corners, spans, rows, width, height, histogram
):
    """`histogram` [chunks, tiles] int64: how many of the Gaussians of a chunk of the depth order
    touch each tile. `keys` are those of visible Gaussians, sorted."""
    tiles_x = (width + TILE - 1) // TILE
    tiles_y = (height + TILE - 1) // TILE
    while True:
        chunk = fetch_add(counter, 0, 1)
        if chunk >= chunks:
            break
        histogram[chunk, :] = 0
        for rank in range(len(keys) * chunk // chunks, len(keys) * (chunk + 1) // chunks):
            gaussian = np.int64(keys[rank] & np.uint64(0xFFFFFFFF))
            span = spans[gaussian]
            if span != LARGE:
                corner = corners[gaussian]
                while span != 0:
                    bit = lowest_bit(span)
                    span &= span - ONE
                    histogram[chunk, corner + (bit >> 3) * tiles_x + (bit & 7)] += 1
                continue
            r = gaussian * ROW
            x0, x1, y0, y1 = tile_rect(rows, r, tiles_x, tiles_y)
            for tile_row in range(y0, y1 + 1):
                first, last = tile_columns(rows, r, tile_row, x0, x1)
                for column in range(first, last + 1):
                    histogram[chunk, tile_row * tiles_x + column] += 1


@njit(cache=True, nogil=True, error_model="numpy")
def place_chunks(histogram, starts):  # type: ignore[no-untyped-def]
    """Turn counts into the first entry of every (chunk, tile); `starts` is [tiles + 1]."""
    chunks, tiles = histogram.shape
    position = 0
    for tile in range(tiles):
        starts[tile] = position
        for chunk in range(chunks):
            amount = histogram[chunk, tile]
            histogram[chunk, tile] = position
            position += amount
    starts[tiles] = position


@njit(cache=True, nogil=True, error_model="numpy")
def fill_tiles(  # type: ignore[no-untyped-def]
    counter, keys, chunks, corners, spans, rows, width, height, histogram, offsets, entries, slots
):
    """`entries`: the Gaussians of every tile; `slots`: the place of each entry in the numbering of
    `offsets` (Gaussian by Gaussian). `histogram` is used up."""
    tiles_x = (width + TILE - 1) // TILE
    tiles_y = (height + TILE - 1) // TILE
    while True:
        chunk = fetch_add(counter, 0, 1)
        if chunk >= chunks:
            break
        for rank in range(len(keys) * chunk // chunks, len(keys) * (chunk + 1) // chunks):
            gaussian = np.int64(keys[rank] & np.uint64(0xFFFFFFFF))
            slot = offsets[gaussian]
            span = spans[gaussian]
            if span != LARGE:
                corner = corners[gaussian]
                while span != 0:
                    bit = lowest_bit(span)
                    span &= span - ONE
                    tile = corner + (bit >> 3) * tiles_x + (bit & 7)
                    at = histogram[chunk, tile]
                    histogram[chunk, tile] = at + 1
                    entries[at] = gaussian
                    slots[at] = slot
                    slot += 1
                continue
            r = gaussian * ROW
            x0, x1, y0, y1 = tile_rect(rows, r, tiles_x, tiles_y)
            for tile_row in range(y0, y1 + 1):
                first, last = tile_columns(rows, r, tile_row, x0, x1)
                for column in range(first, last + 1):
                    tile = tile_row * tiles_x + column
                    at = histogram[chunk, tile]
                    histogram[chunk, tile] = at + 1
                    entries[at] = gaussian
                    slots[at] = slot
                    slot += 1
