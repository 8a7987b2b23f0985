"""Which Gaussians touch which tile, in depth order: stable counting sorts.

The Gaussians come in one total order (depth, then index; no ties), so every tile's list is the same
however the work is divided. An entry also remembers its slot among the entries of its Gaussian,
where the backward pass leaves its sums: no two tiles ever write to the same place.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splat_assets.rendering.cpu.projection import (
    HIDDEN,
    LARGE,
    ONE,
    ROW,
    TILE,
    tile_columns,
    tile_rect,
)
from splat_assets.rendering.cpu.simd import lowest_bit
from splat_assets.rendering.cpu.tasks import next_task


@njit(cache=True, nogil=True, error_model="numpy")
def depth_order(depths, offsets, order, pairs):  # type: ignore[no-untyped-def]
    """Sort the visible Gaussians by depth, then index, into `order` [N] int32; their number.

    A radix sort, least digit first, of the bits in which the depths differ; `pairs` [2, N] uint64
    is its room. Also turns the numbers of tiles in `offsets` into running sums.
    """
    low, high = HIDDEN, np.uint32(0)
    total = np.int64(0)
    for i in range(len(depths)):
        total += offsets[i + 1]
        offsets[i + 1] = total
        depth = depths[i]
        if depth != HIDDEN:
            low = min(low, depth)
            high = max(high, depth)
    if high < low:
        return 0
    bits = 1
    while (np.uint64(high - low) >> np.uint64(bits)) != 0:
        bits += 1
    passes = (bits + 10) // 11
    digit = np.uint64((bits + passes - 1) // passes)
    mask = (ONE << digit) - ONE
    places = np.zeros((passes, np.int64(mask) + 1), np.uint32)
    visible = 0
    for i in range(len(depths)):
        if depths[i] != HIDDEN:
            depth = np.uint64(depths[i] - low)
            pairs[0, visible] = (depth << np.uint64(32)) | np.uint64(i)
            visible += 1
            for k in range(passes):
                places[k, (depth >> (np.uint64(k) * digit)) & mask] += np.uint32(1)
    source = 0
    for k in range(passes):
        position = np.uint32(0)
        for value in range(places.shape[1]):
            amount = places[k, value]
            places[k, value] = position
            position += amount
        shift = np.uint64(32) + np.uint64(k) * digit
        last = k == passes - 1
        for rank in range(visible):
            pair = pairs[source, rank]
            value = (pair >> shift) & mask
            position = places[k, value]
            places[k, value] = position + np.uint32(1)
            if last:
                order[position] = np.int32(pair & np.uint64(0xFFFFFFFF))
            else:
                pairs[1 - source, position] = pair
        source = 1 - source
    return visible


@njit(cache=True, nogil=True, error_model="numpy")
def count_tiles(  # type: ignore[no-untyped-def]
    share, order, chunks, corners, spans, rows, width, height, histogram
):
    """`histogram` [chunks, tiles] int64: how many of the Gaussians of a chunk of the depth order
    touch each tile. `order` are the visible Gaussians, sorted."""
    tiles_x = (width + TILE - 1) // TILE
    tiles_y = (height + TILE - 1) // TILE
    while True:
        chunk = next_task(share)
        if chunk >= chunks:
            break
        histogram[chunk, :] = 0
        for rank in range(len(order) * chunk // chunks, len(order) * (chunk + 1) // chunks):
            gaussian = np.int64(order[rank])
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
    share, order, chunks, corners, spans, rows, width, height, histogram, offsets, entries, slots
):
    """`entries`: the Gaussians of every tile; `slots`: the place of each entry in the numbering of
    `offsets` (Gaussian by Gaussian). `histogram` is used up."""
    tiles_x = (width + TILE - 1) // TILE
    tiles_y = (height + TILE - 1) // TILE
    while True:
        chunk = next_task(share)
        if chunk >= chunks:
            break
        for rank in range(len(order) * chunk // chunks, len(order) * (chunk + 1) // chunks):
            gaussian = np.int64(order[rank])
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
