"""Which Gaussians touch which tile, in depth order: a stable counting sort.

The Gaussians come in one total order (depth, then index; no ties), so every tile's list is the same
however the work is divided. An entry also remembers its slot among the entries of its Gaussian,
where the backward pass leaves its sums: no two tiles ever write to the same place.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splat_assets.rendering.cpu.projection import ROW, TILE, tile_columns, tile_rect
from splat_assets.rendering.cpu.simd import fetch_add


@njit(cache=True, nogil=True)
def count_tiles(counter, keys, chunks, rows, width, height, histogram):  # type: ignore[no-untyped-def]
    """`histogram` [chunks, tiles] int32: how many of the Gaussians of a chunk of the depth order
    touch each tile. `keys` are those of visible Gaussians, sorted."""
    tiles_x = (width + TILE - 1) // TILE
    tiles_y = (height + TILE - 1) // TILE
    while True:
        chunk = fetch_add(counter, 0, 1)
        if chunk >= chunks:
            break
        histogram[chunk, :] = 0
        for rank in range(len(keys) * chunk // chunks, len(keys) * (chunk + 1) // chunks):
            r = np.int64(keys[rank] & np.uint64(0xFFFFFFFF)) * ROW
            x0, x1, y0, y1 = tile_rect(rows, r, tiles_x, tiles_y)
            if x0 == x1 and y0 == y1:
                histogram[chunk, y0 * tiles_x + x0] += 1
                continue
            for tile_row in range(y0, y1 + 1):
                first, last = tile_columns(rows, r, tile_row, x0, x1)
                for column in range(first, last + 1):
                    histogram[chunk, tile_row * tiles_x + column] += 1


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def fill_tiles(  # type: ignore[no-untyped-def]
    counter, keys, chunks, rows, width, height, histogram, offsets, entries, slots
):
    """`entries`: row offsets of the Gaussians of every tile; `slots`: their place in `offsets`'s
    numbering (Gaussian by Gaussian). Both int32, one value an entry; `histogram` is used up."""
    tiles_x = (width + TILE - 1) // TILE
    tiles_y = (height + TILE - 1) // TILE
    while True:
        chunk = fetch_add(counter, 0, 1)
        if chunk >= chunks:
            break
        for rank in range(len(keys) * chunk // chunks, len(keys) * (chunk + 1) // chunks):
            gaussian = np.int64(keys[rank] & np.uint64(0xFFFFFFFF))
            r = gaussian * ROW
            slot = offsets[gaussian]
            x0, x1, y0, y1 = tile_rect(rows, r, tiles_x, tiles_y)
            single = x0 == x1 and y0 == y1
            for tile_row in range(y0, y1 + 1):
                first, last = x0, x1
                if not single:
                    first, last = tile_columns(rows, r, tile_row, x0, x1)
                for column in range(first, last + 1):
                    tile = tile_row * tiles_x + column
                    at = histogram[chunk, tile]
                    histogram[chunk, tile] = at + 1
                    entries[at] = gaussian
                    slots[at] = slot
                    slot += 1
