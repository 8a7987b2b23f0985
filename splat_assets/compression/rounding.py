"""Rounding that weighs what an error costs in the picture against the bits of what is stored.

Numbers that matter little take a frequent value near them instead of the nearest one, so that the
entropy coder has less to write (rate-distortion optimised quantisation; Sullivan and Wiegand,
"Rate-distortion optimization for video compression", 1998).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from splat_assets.compression.kernels import nearest_level

_ROUNDS = 3  # of choosing values and counting them
_REACH = 24  # levels to either side of the nearest
_RARE = 0.3  # how often a value not seen counts as seen
_COUNTED = 1 << 16  # numbers of a channel among which frequencies are counted, at least


def thrifty(x: np.ndarray, levels: np.ndarray, worth: np.ndarray, bit_price: float) -> np.ndarray:
    """[N, C] int16 index of the level that costs least, each channel coded for itself.

    Args:
        x: [N, C].
        levels: [K] ascending.
        worth: [N] or [N, C] error of the picture per squared distance of a number from its level.
        bit_price: error of the picture that is worth one bit.
    """
    levels, worth = levels.astype(np.float64), _of_each(worth, x)
    codes = np.empty(x.shape, np.int16)
    sample = slice(None, None, max(1, len(x) // _COUNTED))
    for channel in range(x.shape[1]):
        numbers = np.ascontiguousarray(x[:, channel], np.float64)
        weights = np.ascontiguousarray(worth[:, channel])
        some, their_weights = np.ascontiguousarray(numbers[sample]), weights[sample].copy()
        prices = np.zeros(len(levels))  # to begin with, the nearest
        for _ in range(_ROUNDS):
            chosen = _cheapest(some, levels, their_weights, prices)
            prices = _prices(chosen, len(levels), bit_price)
        codes[:, channel] = _cheapest(numbers, levels, weights, prices)
    return codes


def thrifty_colors(
    x: np.ndarray, levels: np.ndarray, worth: np.ndarray, bit_price: float
) -> np.ndarray:
    """The same for red, green and blue [N, 3] and at most 256 levels, where what is coded is green
    and by how much the others differ from it (as lossless WebP may), or each for itself where that
    takes fewer bits."""
    levels, worth = levels.astype(np.float64), _of_each(worth, x)
    sample = slice(None, None, max(1, len(x) // _COUNTED))
    numbers = np.ascontiguousarray(x, np.float64)
    some, their_weights = np.ascontiguousarray(numbers[sample]), np.ascontiguousarray(worth[sample])
    none = np.zeros(256)
    chosen = _cheapest_colors(some, levels, their_weights, none, none, none)
    apart = _bits(chosen[:, 0] - chosen[:, 1]) + _bits(chosen[:, 2] - chosen[:, 1])
    if apart >= _bits(chosen[:, 0]) + _bits(chosen[:, 2]):
        return thrifty(x, levels, worth, bit_price)
    for _ in range(_ROUNDS):
        red, green, blue = (chosen[:, 0] - chosen[:, 1], chosen[:, 1], chosen[:, 2] - chosen[:, 1])
        prices = [_prices(codes & 255, 256, bit_price) for codes in (red, green, blue)]
        chosen = _cheapest_colors(some, levels, their_weights, *prices)
    return _cheapest_colors(numbers, levels, worth, *prices) if len(some) < len(x) else chosen


def thrifty_vectors(
    x: np.ndarray,
    levels: np.ndarray,
    worth: np.ndarray,
    metric: np.ndarray,
    bit_price: float,
) -> np.ndarray:
    """[N, K, 3] int16, `thrifty_colors` of K colours whose errors are seen together: what the error
    of one leaves, the next ones make up for (as in Babai, "On Lovász' lattice reduction and the
    nearest lattice point problem", 1986).

    Args:
        x: [N, K, 3].
        worth: [N] error of the picture per squared length of an error.
        metric: [K, K] of errors, positive definite.
    """
    levels, x = levels.astype(np.float64), np.ascontiguousarray(x, np.float64)
    stride = max(1, x[..., 0].size // _COUNTED)
    some = np.ascontiguousarray(x[::stride])
    their_worth = np.ascontiguousarray(worth[::stride], np.float64)
    metric = np.ascontiguousarray(metric)
    chosen = np.searchsorted((levels[1:] + levels[:-1]) / 2, some)
    red, green, blue = np.moveaxis(chosen.reshape(-1, 3), -1, 0)
    jointly = _bits(red - green) + _bits(blue - green) < _bits(red) + _bits(blue)
    for _ in range(_ROUNDS - 1):
        prices = _vector_prices(chosen, jointly, bit_price)
        chosen = _cheapest_vectors(some, levels, their_worth, metric, prices, jointly, 1)
    prices = _vector_prices(chosen, jointly, bit_price)
    return _cheapest_vectors(x, levels, worth.astype(np.float64), metric, prices, jointly, 2)


def _vector_prices(chosen: np.ndarray, jointly: bool, bit_price: float) -> np.ndarray:
    """[3, 256] of red, green and blue, or of green and of what the others differ from it by."""
    red, green, blue = np.moveaxis(chosen.reshape(-1, 3), -1, 0).astype(np.int64)
    coded = (red - green, green, blue - green) if jointly else (red, green, blue)
    return np.stack([_prices(codes & 255, 256, bit_price) for codes in coded])


def _of_each(worth: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[N, C] float64."""
    worth = worth.astype(np.float64)
    columns = worth[:, None] if worth.ndim == 1 else worth
    return np.ascontiguousarray(np.broadcast_to(columns, x.shape))


def _prices(codes: np.ndarray, count: int, bit_price: float) -> np.ndarray:
    seen = np.bincount(codes, minlength=count) + _RARE
    return bit_price * -np.log2(seen / seen.sum())


def _bits(codes: np.ndarray) -> float:
    """If every value of a byte is coded by how frequent it is."""
    seen = np.bincount(codes & 255)
    seen = seen[seen > 0]
    return float(-(seen * np.log2(seen / seen.sum())).sum())


@njit(cache=True, nogil=True)
def _cheapest(
    numbers: np.ndarray, levels: np.ndarray, worth: np.ndarray, prices: np.ndarray
) -> np.ndarray:
    chosen = np.empty(len(numbers), np.int16)
    least, count = prices.min(), len(prices)
    for i in range(len(numbers)):
        near = nearest_level(numbers[i], levels)
        chosen[i] = _best(numbers[i], near, levels, worth[i], prices, least, 0, count)[0]
    return chosen


@njit(cache=True, nogil=True)
def _cheapest_colors(
    numbers: np.ndarray,
    levels: np.ndarray,
    worth: np.ndarray,
    red: np.ndarray,
    green: np.ndarray,
    blue: np.ndarray,
) -> np.ndarray:
    chosen = np.empty(numbers.shape, np.int16)
    least_red, least_blue = red.min(), blue.min()
    least = green.min() + least_red + least_blue
    for i in range(len(numbers)):
        chosen[i] = _best_color(
            numbers[i], levels, worth[i], red, green, blue, least_red, least_blue, least
        )
    return chosen


@njit(cache=True, nogil=True)
def _best_color(
    number: np.ndarray,
    levels: np.ndarray,
    worth: np.ndarray,
    red: np.ndarray,
    green: np.ndarray,
    blue: np.ndarray,
    least_red: float,
    least_blue: float,
    least: float,
) -> tuple[int, int, int]:
    near = nearest_level(number[0], levels)
    middle = nearest_level(number[1], levels)
    far = nearest_level(number[2], levels)
    best, found = np.inf, (near, middle, far)
    for step in (-1, 1):
        k = middle if step > 0 else middle - 1
        while 0 <= k < len(levels) and abs(k - middle) <= _REACH:
            off = levels[k] - number[1]
            cost = worth[1] * off * off
            if cost + least >= best:  # those farther away cost more
                break
            cost += green[k]
            r, more = _best(number[0], near, levels, worth[0], red, least_red, k, 256)
            cost += more
            if cost + least_blue < best:
                b, more = _best(number[2], far, levels, worth[2], blue, least_blue, k, 256)
                cost += more
                if cost < best:
                    best, found = cost, (r, k, b)
            k += step
    return found


@njit(cache=True, nogil=True)
def _cheapest_vectors(
    x: np.ndarray,
    levels: np.ndarray,
    worth: np.ndarray,
    metric: np.ndarray,
    prices: np.ndarray,
    jointly: bool,
    rounds: int,
) -> np.ndarray:
    """`prices` [3, 256]. Numbers are chosen one after the other, those that count most first."""
    count = x.shape[1]
    own = np.diag(metric)
    turns = np.argsort(-own)
    codes = np.empty(x.shape, np.int16)
    off = np.empty((count, 3))  # what has become of each number, less what it was
    wanted, costs = np.empty(3), np.empty(3)
    red, green, blue = prices[0], prices[1], prices[2]
    least_red, least_green, least_blue = red.min(), green.min(), blue.min()
    least = least_red + least_green + least_blue
    for i in range(len(x)):
        off[:] = 0
        for _ in range(rounds):
            for k in turns:
                costs[:] = own[k] * worth[i]
                for c in range(3):
                    # where this number would have to be, given the errors of the others
                    others = 0.0
                    for other in range(count):
                        others += metric[k, other] * off[other, c]
                    wanted[c] = x[i, k, c] - (others / own[k] - off[k, c])
                if jointly:
                    codes[i, k] = _best_color(
                        wanted, levels, costs, red, green, blue, least_red, least_blue, least
                    )
                else:
                    alone = least_red, least_green, least_blue
                    for c in range(3):
                        near = nearest_level(wanted[c], levels)
                        codes[i, k, c] = _best(
                            wanted[c], near, levels, costs[c], prices[c], alone[c], 0, 256
                        )[0]
                for c in range(3):
                    off[k, c] = levels[codes[i, k, c]] - x[i, k, c]
    return codes


@njit(cache=True, nogil=True)
def _best(
    number: float,
    near: int,
    levels: np.ndarray,
    worth: float,
    prices: np.ndarray,
    least: float,
    base: int,
    modulus: int,
) -> tuple[int, float]:
    """The level that costs least and what it costs; `prices` are those of the distance from
    `base`, the smallest of them `least`."""
    off = levels[near] - number
    best, found = worth * off * off + prices[(near - base) % modulus], near
    for step in (-1, 1):
        k = near + step
        while 0 <= k < len(levels) and abs(k - near) <= _REACH:
            off = levels[k] - number
            cost = worth * off * off
            if cost + least >= best:  # those farther away cost more
                break
            cost += prices[(k - base) % modulus]
            if cost < best:
                best, found = cost, k
            k += step
    return found, best
