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


def thrifty(x: np.ndarray, levels: np.ndarray, worth: np.ndarray, bit_price: float) -> np.ndarray:
    """[N, C] int64 index of the level that costs least.

    Args:
        x: [N, C].
        levels: [K] ascending.
        worth: [N] error of the picture per squared distance of a number from its level.
        bit_price: error of the picture that is worth one bit.
    """
    levels, worth = levels.astype(np.float64), worth.astype(np.float64)
    middles = (levels[1:] + levels[:-1]) / 2
    codes = np.empty(x.shape, np.int64)
    for channel in range(x.shape[1]):
        numbers = np.ascontiguousarray(x[:, channel], np.float64)
        near = np.searchsorted(middles, numbers)
        chosen = near.copy()
        for _ in range(_ROUNDS):
            seen = np.bincount(chosen, minlength=len(levels)) + _RARE
            prices = bit_price * -np.log2(seen / seen.sum())
            _cheapest(numbers, near, levels, worth, prices, chosen)
        codes[:, channel] = chosen
    return codes


@njit(cache=True, nogil=True)
def _cheapest(
    numbers: np.ndarray,
    near: np.ndarray,
    levels: np.ndarray,
    worth: np.ndarray,
    prices: np.ndarray,
    chosen: np.ndarray,
) -> None:
    for i in range(len(numbers)):
        best = np.inf
        for k in range(max(0, near[i] - _REACH), min(len(levels), near[i] + _REACH + 1)):
            off = levels[k] - numbers[i]
            cost = worth[i] * off * off + prices[k]
            if cost < best:
                best = cost
                chosen[i] = k
