"""What a training step does to every Gaussian besides rendering, as kernels for the CPU's team.

Adam (Kingma & Ba 2015) over all parameters in one pass, and the noise of MCMC densification (arXiv
2404.09591, eq. 8). torch would do both on one thread, or on threads of its own that spin beside
those of the rasteriser. Results do not depend on how the work is divided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from torch import Tensor

from splat_assets.rendering.cpu.simd import (
    above,
    absolute,
    choose,
    fill,
    fma,
    load,
    read,
    square_root,
    store,
    write,
)
from splat_assets.rendering.cpu.tasks import next_task
from splat_assets.rendering.cpu.team import team

_BETAS = (0.9, 0.999)  # literals in the kernel, as is eps, 1e-15
_BLOCK = 8192  # numbers a task of Adam; a multiple of 16
_ROWS = 512  # Gaussians a task of the noise


@dataclass(frozen=True)
class AdamTensors:
    """One parameter with gradient and moments: float32, contiguous, of equal shape, on the CPU."""

    value: Tensor
    gradient: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    learning_rate: float
    step: int  # this one's number, from 1 on


def adam(parameters: Sequence[AdamTensors]) -> None:
    """One step on all of them, in place. A gradient that is not finite counts as 0."""
    # addresses of the four arrays, how many numbers they hold, and the first task beyond them
    table = np.zeros((len(parameters), 6), np.int64)
    numbers = np.zeros((len(parameters), 2), np.float32)
    tasks = 0
    for row, one in enumerate(parameters):
        tensors = (one.value, one.gradient, one.exp_avg, one.exp_avg_sq)
        count = one.value.numel()
        tasks += -(-count // _BLOCK)
        table[row] = [*(tensor.data_ptr() for tensor in tensors), count, tasks]
        corrections = [1.0 - beta**one.step for beta in _BETAS]
        numbers[row] = [-one.learning_rate / corrections[0], 1.0 / math.sqrt(corrections[1])]
    team().run(tasks, _adam, table, numbers)


@njit(cache=True, nogil=True, error_model="numpy")
def _adam(share, table, numbers):  # type: ignore[no-untyped-def]
    none = fill(np.float32(0.0))
    largest = fill(np.float32(3.4e38))
    keep_1, keep_2 = fill(np.float32(0.9)), fill(np.float32(0.999))
    new_1, new_2 = fill(np.float32(0.1)), fill(np.float32(0.001))
    eps = fill(np.float32(1e-15))
    last_few = np.zeros(64, np.float32)
    tasks = table[-1, 5] if len(table) else 0
    while True:
        task = next_task(share)
        if task >= tasks:
            break
        row = 0
        while task >= table[row, 5]:
            row += 1
        value, gradient, exp_avg, exp_avg_sq = (
            table[row, 0],
            table[row, 1],
            table[row, 2],
            table[row, 3],
        )
        size, correction = fill(numbers[row, 0]), fill(numbers[row, 1])
        begin = (task - (table[row - 1, 5] if row else 0)) * 8192
        end = min(begin + 8192, table[row, 4])
        for at in range(begin, end - 15, 16):
            g = load(gradient, at)
            g = choose(above(largest, absolute(g)), g, none)
            m = fma(keep_1, load(exp_avg, at), new_1 * g)
            v = fma(keep_2, load(exp_avg_sq, at), (new_2 * g) * g)
            store(exp_avg, at, m)
            store(exp_avg_sq, at, v)
            p = fma(size, m / fma(square_root(v), correction, eps), load(value, at))
            store(value, at, p)
        rest = (end - begin) % 16
        if rest:
            at = end - rest
            for i in range(rest):
                last_few[i] = read(value, at + i)
                last_few[16 + i] = read(gradient, at + i)
                last_few[32 + i] = read(exp_avg, at + i)
                last_few[48 + i] = read(exp_avg_sq, at + i)
            g = load(last_few, 16)
            g = choose(above(largest, absolute(g)), g, none)
            m = fma(keep_1, load(last_few, 32), new_1 * g)
            v = fma(keep_2, load(last_few, 48), (new_2 * g) * g)
            p = fma(size, m / fma(square_root(v), correction, eps), load(last_few, 0))
            store(last_few, 0, p)
            store(last_few, 32, m)
            store(last_few, 48, v)
            for i in range(rest):
                write(value, at + i, last_few[i])
                write(exp_avg, at + i, last_few[32 + i])
                write(exp_avg_sq, at + i, last_few[48 + i])


def disturb(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, strength: float, seed: int
) -> None:
    """Add covariance × white noise × strength × sigmoid(100 (0.005 - opacity)) to the means.

    All float32 on the CPU and before activation: means [N, 3] (written), quats [N, 4], scales
    [N, 3], opacities [N]. The noise of a Gaussian depends on `seed` and its place alone.
    """
    arrays = [tensor.detach().numpy() for tensor in (means, quats, scales, opacities)]
    team().run(-(-len(opacities) // _ROWS), _disturb, *arrays, strength, np.uint64(seed))


@njit(cache=True, nogil=True, error_model="numpy")
def _disturb(share, means, quats, scales, opacities, strength, seed):  # type: ignore[no-untyped-def]
    count = len(opacities)
    while True:
        begin = next_task(share) * 512
        if begin >= count:
            break
        for i in range(begin, min(begin + 512, count)):
            # the gate is below 1e-4 where the opacity is beyond 0.1: those stay
            if not opacities[i] < -2.1972246:
                continue
            opacity = 1.0 / (1.0 + math.exp(-np.float64(opacities[i])))
            factor = strength / (1.0 + math.exp(-100.0 * (0.005 - opacity)))
            x, y = _normals(seed, np.uint64(2 * i))
            z, _ = _normals(seed, np.uint64(2 * i + 1))
            w, a = np.float64(quats[i, 0]), np.float64(quats[i, 1])
            b, c = np.float64(quats[i, 2]), np.float64(quats[i, 3])
            norm = w * w + a * a + b * b + c * c
            if not norm > 0.0:
                continue
            two = 2.0 / norm
            # columns of the rotation, and the noise along each axis times its variance
            r00, r10, r20 = 1 - two * (b * b + c * c), two * (a * b + w * c), two * (a * c - w * b)
            r01, r11, r21 = two * (a * b - w * c), 1 - two * (a * a + c * c), two * (b * c + w * a)
            r02, r12, r22 = two * (a * c + w * b), two * (b * c - w * a), 1 - two * (a * a + b * b)
            l0 = (r00 * x + r10 * y + r20 * z) * math.exp(2.0 * np.float64(scales[i, 0])) * factor
            l1 = (r01 * x + r11 * y + r21 * z) * math.exp(2.0 * np.float64(scales[i, 1])) * factor
            l2 = (r02 * x + r12 * y + r22 * z) * math.exp(2.0 * np.float64(scales[i, 2])) * factor
            means[i, 0] += r00 * l0 + r01 * l1 + r02 * l2
            means[i, 1] += r10 * l0 + r11 * l1 + r12 * l2
            means[i, 2] += r20 * l0 + r21 * l1 + r22 * l2


@njit(cache=True, nogil=True, error_model="numpy")
def _normals(seed, index):  # type: ignore[no-untyped-def]
    """Two standard normal numbers from a counter (SplitMix64, Steele et al. 2014; Box-Muller)."""
    u = _mix(seed + (np.uint64(2) * index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))
    v = _mix(seed + (np.uint64(2) * index + np.uint64(2)) * np.uint64(0x9E3779B97F4A7C15))
    radius = math.sqrt(-2.0 * math.log((np.float64(u >> np.uint64(11)) + 1.0) * 2.0**-53))
    angle = 6.283185307179586 * (np.float64(v >> np.uint64(11)) * 2.0**-53)
    return radius * math.cos(angle), radius * math.sin(angle)


@njit(cache=True, nogil=True, error_model="numpy")
def _mix(z):  # type: ignore[no-untyped-def]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
