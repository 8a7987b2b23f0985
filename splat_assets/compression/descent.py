"""Gradient descent in which rows come to rest one after the other, at values that are given to them
(Adam; Kingma and Ba, "Adam: A method for stochastic optimization", 2015). Compiled: on whole arrays
one step takes as long as drawing a small picture."""

from __future__ import annotations

import numpy as np
from numba import njit

_BETA1, _BETA2, _EPSILON = 0.8, 0.98, 1e-10


class Descent:
    """The numbers of one property on their way down."""

    def __init__(self, values: np.ndarray, units: np.ndarray | float) -> None:
        """
        Args:
            values: [N, ...] where to begin.
            units: [N] or one number, by what a number may change in one step at a rate of 1.
        """
        self.values = np.array(values, np.float32, order="C")
        self.at_rest = np.zeros(len(values), bool)
        self._units = np.ascontiguousarray(np.broadcast_to(np.float32(units), len(values)))
        self._first, self._second = np.zeros_like(self.values), np.zeros_like(self.values)
        self._steps = 0

    def step(self, gradient: np.ndarray, rate: float) -> None:
        """Along `gradient`, of the shape of the values."""
        self._steps += 1
        rows = (len(self.values), -1)
        _step(
            self.values.reshape(rows),
            self._first.reshape(rows),
            self._second.reshape(rows),
            np.ascontiguousarray(gradient, np.float32).reshape(rows),
            self._units,
            self.at_rest,
            rate / (1 - _BETA1**self._steps),
            1 / (1 - _BETA2**self._steps),
        )

    def rest(self, rows: np.ndarray, values: np.ndarray) -> None:
        """`rows` [M] int take `values` and keep them."""
        self.values[rows] = values
        self.at_rest[rows] = True


@njit(cache=True, nogil=True)
def sums_by(labels: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
    """[count, D] float32, the sums of those `rows` [N, D] that have the same of `labels` [N]."""
    sums = np.zeros((count, rows.shape[1]), np.float32)
    for i in range(len(rows)):
        for j in range(rows.shape[1]):
            sums[labels[i], j] += rows[i, j]
    return sums


@njit(cache=True, nogil=True)
def _step(
    values: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    gradient: np.ndarray,
    units: np.ndarray,
    at_rest: np.ndarray,
    rate: float,
    scale: float,
) -> None:
    """`rate` and `scale` are corrected for how few steps the moments have seen."""
    slow, slower = np.float32(1 - _BETA1), np.float32(1 - _BETA2)
    many, least = np.float32(scale), np.float32(_EPSILON)
    for i in range(len(values)):
        if at_rest[i]:
            continue
        by = np.float32(rate * units[i])
        for j in range(values.shape[1]):
            along = gradient[i, j]
            first[i, j] += slow * (along - first[i, j])
            second[i, j] += slower * (along * along - second[i, j])
            values[i, j] -= by * first[i, j] / (np.sqrt(many * second[i, j]) + least)
