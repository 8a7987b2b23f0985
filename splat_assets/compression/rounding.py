"""Rounding that weighs what an error costs in the picture against the bits of what is stored.

Numbers that matter little take a frequent value near them instead of the nearest one, so that the
entropy coder has less to write (rate-distortion optimised quantisation; Sullivan and Wiegand,
"Rate-distortion optimization for video compression", 1998).
"""

from __future__ import annotations

import numpy as np
from numba import njit

_ROUNDS = 3  # of choosing values and counting them
_REACH = 6  # levels to either side of the nearest
_RARE = 0.3  # how often a value not seen counts as seen
_COUNTED = 1 << 16  # numbers among which frequencies are counted, at least


def thrifty(x: np.ndarray, levels: np.ndarray, worth: np.ndarray, bit_price: float) -> np.ndarray:
    """[N, C] int16 index of the level that costs least.

    Args:
        x: [N, C].
        levels: [K] ascending.
        worth: [N] error of the picture per squared distance of a number from its level.
        bit_price: error of the picture that is worth one bit.
    """
    levels, worth = levels.astype(np.float64), worth.astype(np.float64)
    codes = np.empty(x.shape, np.int16)
    sample = slice(None, None, max(1, len(x) // _COUNTED))
    for channel in range(x.shape[1]):
        numbers = np.ascontiguousarray(x[:, channel], np.float64)
        some, its_worth = np.ascontiguousarray(numbers[sample]), worth[sample]
        chosen = np.empty(len(some), np.int16)
        prices = np.zeros(len(levels))  # to begin with, the nearest
        for _ in range(_ROUNDS):
            _cheapest(some, levels, its_worth, prices, chosen)
            seen = np.bincount(chosen, minlength=len(levels)) + _RARE
            prices = bit_price * -np.log2(seen / seen.sum())
        chosen = np.empty(len(numbers), np.int16)
        _cheapest(numbers, levels, worth, prices, chosen)
        codes[:, channel] = chosen
    return codes


@njit(cache=True, nogil=True)
def _cheapest(
    numbers: np.ndarray,
    levels: np.ndarray,
    worth: np.ndarray,
    prices: np.ndarray,
    chosen: np.ndarray,
) -> None:
    least = prices.min()
    last = len(levels) - 1
    for i in range(len(numbers)):
        number = numbers[i]
        low, high = 0, last
        while low < high:  # the nearest level
            middle = (low + high) // 2
            if number > (levels[middle] + levels[middle + 1]) / 2:
                low = middle + 1
            else:
                high = middle
        off = levels[low] - number
        best, found = worth[i] * off * off + prices[low], low
        for step in (-1, 1):
            k = low + step
            while 0 <= k <= last and abs(k - low) <= _REACH:
                off = levels[k] - number
                error = worth[i] * off * off
                if error + least >= best:  # those farther away cost more
                    break
                if error + prices[k] < best:
                    best, found = error + prices[k], k
                k += step
        chosen[i] = found
