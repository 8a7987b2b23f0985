"""Front-to-back blending of the Gaussians of a tile, and its derivative.

A tile of 32 × 32 pixels is 64 blocks of 4 × 4; a block is one SIMD value. For each Gaussian of the
tile, in depth order, the blocks its ellipse touches are found at once as a 64-bit set, blocks that
are already opaque are dropped from it, and the rest is blended without a further branch. Thresholds
are gsplat's: alpha at most 0.999, skipped below 1/255, a pixel ends before its transmittance would
fall to 1e-4 (remembered by a negative sign).

The backward pass walks the same way, front to back: with g the gradient of a pixel and R what is
still to come, R = g·C + … at first and less w (g·c) after each Gaussian, the gradient of alpha is
T (g·c) - R / (1 - alpha); no list per pixel and no second order is needed.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splat_assets.rendering.cpu.projection import ROW, TILE
from splat_assets.rendering.cpu.simd import (
    above,
    absolute,
    any_lane,
    at_least,
    both,
    choose,
    exp2,
    fill,
    fma,
    fnma,
    lane_sum,
    larger,
    load,
    lowest_bit,
    negative,
    prefetch,
    read,
    round_down,
    smaller,
    spans_to_bits,
    square_root,
    store,
    write,
)
from splat_assets.rendering.cpu.tasks import next_task

BLOCKS = 64  # of a tile
# float32 a block in a thread's scratch memory: T, r, g, b, depth, Σ w going forward; T, R and the
# gradients of r, g, b, depth going back. (1 - T is alpha too, but where alpha is small only Σ w is
# exact enough to divide depth by.) The stride is no multiple of 4096 bytes, which would make
# stores and loads of different planes collide in the L1 cache.
FORWARD_STRIDE = 6 * 16
BACKWARD_STRIDE = 6 * 16
SCRATCH = BLOCKS * BACKWARD_STRIDE
PIXEL_X, PIXEL_Y = 6 * 16, 14 * 16  # where they begin in the tables
AHEAD = 8  # entries: rows come from the caches of whichever core projected them
ONE = np.uint64(1)
EVERY_BLOCK = np.uint64(0xFFFFFFFFFFFFFFFF)


def lane_tables() -> np.ndarray:
    """Constant lanes of the kernels, 22 × 16 float32, flat.

    For lanes that hold the left (0–7) and right (8–15) ends of the eight rows of blocks: direction,
    first pixel centre of the row, what is added before rounding outwards to columns, least and
    largest column, and the mark of an empty row. Then the pixel centres within the tile: x in the
    eight columns of blocks, and y in the eight rows.
    """
    lane = np.arange(16)
    right = lane >= 8
    return np.concatenate(
        [
            np.where(right, 1.0, -1.0),
            4.0 * (lane % 8) + 0.5,
            np.where(right, -0.49, 3.51),
            np.where(right, -1.0, 0.0),
            np.where(right, 7.0, 8.0),
            np.where(right, -1.0, 8.0),
            *(lane % 4 + 0.5 + 4 * column for column in range(8)),
            *(lane // 4 + 0.5 + 4 * row for row in range(8)),
        ]
    ).astype(np.float32)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _touched(rows, r, tile_x, tile_y, tables):  # type: ignore[no-untyped-def]
    """The set of blocks of the tile at pixel (tile_x, tile_y) that the ellipse of a row touches.

    Left and right ends of the ellipse within the three pixels between the first and the last centre
    of a row of blocks: at the ellipse's own extreme where that lies in the row, else at the row's
    nearer edge.
    """
    direction = load(tables, 0)
    first = fill(tile_y - read(rows, r + 1)) + load(tables, 16)
    last = first + fill(np.float32(3.0))
    dy = smaller(larger(fill(read(rows, r + 7)) * direction, first), last)
    reach = fnma(fill(read(rows, r + 4)) * dy, dy, fill(read(rows, r + 6)))
    half = square_root(absolute(reach) * fill(read(rows, r + 8)))
    middle = fma(fill(read(rows, r + 2)), dy, fill(read(rows, r) - tile_x))
    outwards = fma(middle, direction, half)
    quarter = fill(np.float32(0.25))
    column = round_down((outwards + load(tables, 32)) * quarter) * direction
    column = smaller(larger(column, load(tables, 48)), load(tables, 64))
    column = choose(at_least(reach, fill(np.float32(0.0))), column, load(tables, 80))
    return spans_to_bits(column)


@njit(cache=True, nogil=True, error_model="numpy")
def blend(  # type: ignore[no-untyped-def]
    share, turns, rows, entries, starts, masks, save, tables, scratches, width, height,
    background, image, channels, colour_at, depth_at, alphas,
):  # fmt: skip
    """Blend the tiles, in the order `turns`, into `image` [H·W·channels] and `alphas` [H·W] (flat).

    Colour goes to the three channels from `colour_at` on, depth to channel `depth_at`; -1 means not
    wanted. With `save`, `masks` (uint64, one an entry) keeps the blocks that a Gaussian changed,
    which is what the backward pass visits.
    """
    tiles_x = (width + TILE - 1) // TILE
    tiles = len(starts) - 1
    scratch = scratches[share[1]]
    none = fill(np.float32(0.0))
    unit = fill(np.float32(1.0))
    threshold = fill(np.float32(1.0 / 255.0))
    ceiling = fill(np.float32(0.999))
    least = fill(np.float32(1e-4))
    floor = fill(np.float32(-64.0))
    red_behind, green_behind = fill(background[0]), fill(background[1])
    blue_behind = fill(background[2])
    while True:
        task = next_task(share)
        if task >= tiles:
            break
        tile = turns[task]
        x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        alive = np.uint64(0)
        for block in range(BLOCKS):
            at = block * FORWARD_STRIDE
            for plane in range(1, 6):
                store(scratch, at + 16 * plane, none)
            left, top = x0 + (block & 7) * 4, y0 + (block >> 3) * 4
            if left < width and top < height:
                alive |= ONE << np.uint64(block)
            store(scratch, at, unit)
            if left + 4 > width or top + 4 > height:
                for lane in range(16):
                    if left + (lane & 3) >= width or top + (lane >> 2) >= height:
                        write(scratch, at + lane, np.float32(-1.0))
        tile_x, tile_y = np.float32(x0), np.float32(y0)
        first, end = starts[tile], starts[tile + 1]
        # the blocks of the next Gaussian are found while those of this one are blended: the round
        # before the first one only looks ahead
        coming = np.uint64(0)
        for entry in range(first - 1 if first < end else end, end):
            if alive == 0:
                if save:
                    masks[entry] = 0
                    continue
                break
            r = np.int64(entries[max(entry, first)]) * ROW
            bits = coming & alive
            prefetch(rows, np.int64(entries[min(entry + AHEAD, end - 1)]) * ROW)
            following = np.int64(entries[min(entry + 1, end - 1)]) * ROW
            coming = _touched(rows, following, tile_x, tile_y, tables)
            used = np.uint64(0)
            slope, wide, tall = (
                fill(read(rows, r + 2)),
                fill(read(rows, r + 3)),
                fill(read(rows, r + 4)),
            )
            log_opacity = fill(read(rows, r + 5))
            red, green = fill(read(rows, r + 9)), fill(read(rows, r + 10))
            blue, depth = fill(read(rows, r + 11)), fill(read(rows, r + 12))
            from_x = fill(tile_x - read(rows, r))
            from_y = fill(tile_y - read(rows, r + 1))
            while bits != 0:
                block = lowest_bit(bits)
                bits &= bits - ONE
                dx = from_x + load(tables, PIXEL_X + ((block & 7) << 4))
                dy = from_y + load(tables, PIXEL_Y + ((block >> 3) << 4))
                u = fnma(slope, dy, dx)
                power = fnma(tall * dy, dy, fnma(wide * u, u, log_opacity))
                raw = exp2(larger(power, floor))
                alpha = smaller(raw, ceiling)
                at = block * FORWARD_STRIDE
                T = load(scratch, at)
                after = fnma(alpha, T, T)
                valid = at_least(raw, threshold)
                blended = both(valid, above(after, least))
                weight = choose(blended, alpha * T, none)
                store(scratch, at + 16, fma(weight, red, load(scratch, at + 16)))
                store(scratch, at + 32, fma(weight, green, load(scratch, at + 32)))
                store(scratch, at + 48, fma(weight, blue, load(scratch, at + 48)))
                if depth_at >= 0:
                    store(scratch, at + 64, fma(weight, depth, load(scratch, at + 64)))
                    store(scratch, at + 80, load(scratch, at + 80) + weight)
                ended = choose(valid, negative(T), T)
                T = choose(blended, after, ended)
                store(scratch, at, T)
                if any_lane(blended):
                    used |= ONE << np.uint64(block)
                if not any_lane(above(T, none)):
                    alive &= ~(ONE << np.uint64(block))
            if save and entry >= first:
                masks[entry] = used
        for block in range(BLOCKS):
            at = block * FORWARD_STRIDE
            left, top = x0 + (block & 7) * 4, y0 + (block >> 3) * 4
            if left >= width or top >= height:
                continue
            rest = absolute(load(scratch, at))
            store(scratch, at, unit - rest)
            store(scratch, at + 16, fma(rest, red_behind, load(scratch, at + 16)))
            store(scratch, at + 32, fma(rest, green_behind, load(scratch, at + 32)))
            store(scratch, at + 48, fma(rest, blue_behind, load(scratch, at + 48)))
            if depth_at >= 0:
                store(scratch, at, smaller(load(scratch, at + 80), unit))
            for y in range(min(4, height - top)):
                pixel = (top + y) * width + left
                source = at + 4 * y
                for _ in range(min(4, width - left)):
                    write(alphas, pixel, read(scratch, source))
                    out = pixel * channels
                    if colour_at >= 0:
                        write(image, out, read(scratch, source + 16))
                        write(image, out + 1, read(scratch, source + 32))
                        write(image, out + 2, read(scratch, source + 48))
                    if depth_at >= 0:
                        write(image, out + depth_at, read(scratch, source + 64))
                    pixel += 1
                    source += 1


@njit(cache=True, nogil=True, error_model="numpy")
def blend_backward(  # type: ignore[no-untyped-def]
    share, turns, rows, entries, slots, starts, masks, tables, scratches, width, height,
    image, channels, colour_at, depth_at, alphas, v_image, v_alphas, with_alpha, absgrad, sums,
):  # fmt: skip
    """Fill the row of `sums` (see projection.py) of every (Gaussian, tile) from the gradients of
    the image (and of alpha when `with_alpha`)."""
    tiles_x = (width + TILE - 1) // TILE
    tiles = len(starts) - 1
    scratch = scratches[share[1]]
    none = fill(np.float32(0.0))
    unit = fill(np.float32(1.0))
    threshold = fill(np.float32(1.0 / 255.0))
    ceiling = fill(np.float32(0.999))
    least = fill(np.float32(1e-4))
    floor = fill(np.float32(-64.0))
    while True:
        task = next_task(share)
        if task >= tiles:
            break
        tile = turns[task]
        x0, y0 = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
        tile_x, tile_y = np.float32(x0), np.float32(y0)
        for block in range(BLOCKS):
            at = block * BACKWARD_STRIDE
            store(scratch, at, none - unit)
            for plane in range(1, 6):
                store(scratch, at + 16 * plane, none)
            left, top = x0 + (block & 7) * 4, y0 + (block >> 3) * 4
            for y in range(max(0, min(4, height - top))):
                pixel = (top + y) * width + left
                target = at + 4 * y
                for _ in range(max(0, min(4, width - left))):
                    source = pixel * channels
                    rest = np.float32(0.0)
                    write(scratch, target, np.float32(1.0))
                    if colour_at >= 0:
                        red, green = read(v_image, source), read(v_image, source + 1)
                        blue = read(v_image, source + 2)
                        write(scratch, target + 32, red)
                        write(scratch, target + 48, green)
                        write(scratch, target + 64, blue)
                        rest += red * read(image, source) + green * read(image, source + 1)
                        rest += blue * read(image, source + 2)
                    if depth_at >= 0:
                        g = read(v_image, source + depth_at)
                        write(scratch, target + 80, g)
                        rest += g * read(image, source + depth_at)
                    if with_alpha:
                        rest -= (np.float32(1.0) - read(alphas, pixel)) * read(v_alphas, pixel)
                    write(scratch, target + 16, rest)
                    pixel += 1
                    target += 1
        for entry in range(starts[tile], starts[tile + 1]):
            later = min(entry + AHEAD, starts[tile + 1] - 1)
            prefetch(rows, np.int64(entries[later]) * ROW)
            prefetch(sums, np.int64(slots[later]) * ROW)
            bits = masks[entry]
            to = np.int64(slots[entry]) * ROW
            if bits == 0:
                store(sums, to, none)
                continue
            r = np.int64(entries[entry]) * ROW
            slope, wide, tall = (
                fill(read(rows, r + 2)),
                fill(read(rows, r + 3)),
                fill(read(rows, r + 4)),
            )
            log_opacity = fill(read(rows, r + 5))
            red, green = fill(read(rows, r + 9)), fill(read(rows, r + 10))
            blue, depth = fill(read(rows, r + 11)), fill(read(rows, r + 12))
            from_x = fill(tile_x - read(rows, r))
            from_y = fill(tile_y - read(rows, r + 1))
            # per-pixel gradient of the mean: (a v u, b v dy - k a v u)
            conic_a = fill(np.float32(1.3862943611198906) * read(rows, r + 3))
            conic_b = fill(np.float32(1.3862943611198906) * read(rows, r + 4))
            s_v = s_u = s_y = s_uu = s_uy = s_yy = none
            s_red = s_green = s_blue = s_depth = s_absx = s_absy = none
            while bits != 0:
                block = lowest_bit(bits)
                bits &= bits - ONE
                dx = from_x + load(tables, PIXEL_X + ((block & 7) << 4))
                dy = from_y + load(tables, PIXEL_Y + ((block >> 3) << 4))
                u = fnma(slope, dy, dx)
                power = fnma(tall * dy, dy, fnma(wide * u, u, log_opacity))
                raw = exp2(larger(power, floor))
                alpha = smaller(raw, ceiling)
                at = block * BACKWARD_STRIDE
                T = load(scratch, at)
                after = fnma(alpha, T, T)
                valid = at_least(raw, threshold)
                blended = both(valid, above(after, least))
                weight = choose(blended, alpha * T, none)
                ended = choose(valid, negative(T), T)
                store(scratch, at, choose(blended, after, ended))
                g_red, g_green = load(scratch, at + 32), load(scratch, at + 48)
                g_blue = load(scratch, at + 64)
                value = fma(blue, g_blue, fma(green, g_green, red * g_red))
                if depth_at >= 0:
                    g_depth = load(scratch, at + 80)
                    value = fma(depth, g_depth, value)
                    s_depth = fma(weight, g_depth, s_depth)
                change = weight * value
                rest = load(scratch, at + 16) - change
                store(scratch, at + 16, rest)
                s_red = fma(weight, g_red, s_red)
                s_green = fma(weight, g_green, s_green)
                s_blue = fma(weight, g_blue, s_blue)
                # alpha times the gradient of alpha, which is 0 at the ceiling
                v = fnma(alpha / (unit - alpha), rest, change)
                v = choose(both(blended, at_least(ceiling, raw)), v, none)
                vu = v * u
                vy = v * dy
                s_v = s_v + v
                s_u = s_u + vu
                s_y = s_y + vy
                s_uu = fma(vu, u, s_uu)
                s_uy = fma(vu, dy, s_uy)
                s_yy = fma(vy, dy, s_yy)
                if absgrad:
                    in_x = conic_a * vu
                    s_absx = s_absx + absolute(in_x)
                    s_absy = s_absy + absolute(fnma(slope, in_x, conic_b * vy))
            sums[to] = lane_sum(s_v)
            sums[to + 1] = lane_sum(s_u)
            sums[to + 2] = lane_sum(s_y)
            sums[to + 3] = lane_sum(s_uu)
            sums[to + 4] = lane_sum(s_uy)
            sums[to + 5] = lane_sum(s_yy)
            sums[to + 6] = lane_sum(s_red)
            sums[to + 7] = lane_sum(s_green)
            sums[to + 8] = lane_sum(s_blue)
            sums[to + 9] = lane_sum(s_depth) if depth_at >= 0 else np.float32(0.0)
            sums[to + 10] = lane_sum(s_absx) if absgrad else np.float32(0.0)
            sums[to + 11] = lane_sum(s_absy) if absgrad else np.float32(0.0)
