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
import torch
from numba import njit
from torch import Tensor

from splat_assets.rendering.cpu import projection
from splat_assets.rendering.cpu.buffers import take
from splat_assets.rendering.cpu.draw import Drawn, Splats
from splat_assets.rendering.cpu.projection import TASK
from splat_assets.rendering.cpu.projection_backward import range_backward
from splat_assets.rendering.cpu.simd import (
    above,
    absolute,
    choose,
    every_lane,
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
_IMAGE_ROWS = 16  # a task of a picture
_NONE = np.empty(0, np.float32)


@dataclass(frozen=True)
class AdamTensors:
    """One parameter with its moments: float32, contiguous, of equal shape, on the CPU."""

    value: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    learning_rate: float
    step: int  # this one's number, from 1 on

    def addresses(self) -> list[int]:
        return [self.value.data_ptr(), self.exp_avg.data_ptr(), self.exp_avg_sq.data_ptr()]

    def factors(self) -> list[float]:
        """Of the first moment, and of the root of the second: rate and bias correction."""
        first, second = (1.0 - beta**self.step for beta in _BETAS)
        return [-self.learning_rate / first, 1.0 / math.sqrt(second)]


def adam(parameters: Sequence[AdamTensors], gradients: Sequence[Tensor]) -> None:
    """One step on all of them, in place. A gradient that is not finite counts as 0."""
    # addresses of the four arrays, how many numbers they hold, and the first task beyond them
    table = np.zeros((len(parameters), 6), np.int64)
    tasks = 0
    for row, (one, gradient) in enumerate(zip(parameters, gradients, strict=True)):
        count = one.value.numel()
        tasks += -(-count // _BLOCK)
        table[row] = [*one.addresses(), gradient.data_ptr(), count, tasks]
    team().run(tasks, _adam, table, _factors(parameters))


def backward_and_adam(
    splats: Splats,
    drawn: Drawn,
    sums: np.ndarray,
    parameters: Sequence[AdamTensors],
    *,
    opacity_weight: float,
    scale_weight: float,
    means2d: np.ndarray | None = None,
) -> tuple[np.ndarray, bool]:
    """Carry the sums over pixels back to the parameters and do Adam's step on them, a few hundred
    Gaussians at a time: their gradients never exist all at once.

    Args:
        splats: with `learnt`; activated by `draw`.
        sums: of `sum_pixels`.
        parameters: means, scales, quats, opacities, sh0 and, when `splats` has them, shN.
        opacity_weight, scale_weight: of the sums of opacities and of scales in the loss.
        means2d: [N, 4] takes the signed and absolute gradients of the projected means.

    Returns:
        what `view_gradient` takes, and whether every gradient was finite.
    """
    tasks = -(-len(splats) // projection.TASK)
    widths = [one.value[:1].numel() for one in parameters]
    table = np.array(
        [[*one.addresses(), width] for one, width in zip(parameters, widths, strict=True)], np.int64
    )
    v_camera, spoilt = np.zeros((tasks, 15)), np.zeros(tasks, np.uint8)
    crew = team()
    team().run(
        tasks, _backward_and_adam, *splats.arguments(), drawn.camera, drawn.rows, drawn.offsets,
        sums, means2d is not None, np.float32(opacity_weight), np.float32(scale_weight), table,
        _factors(parameters), take((crew.threads, projection.TASK * sum(widths)), np.float32),
        v_camera, _NONE if means2d is None else means2d.reshape(-1), spoilt,
    )  # fmt: skip
    return v_camera, not spoilt.any()


def _factors(parameters: Sequence[AdamTensors]) -> np.ndarray:
    return np.array([one.factors() for one in parameters], np.float32).reshape(-1, 2)


@njit(cache=True, nogil=True, error_model="numpy")
def _backward_and_adam(  # type: ignore[no-untyped-def]
    share, means, quats, scales, opacities, sh0, stride0, shN, strideN, offsetN, degree, camera,
    rows, offsets, sums, absgrad, opacity_weight, scale_weight, table, factors, blocks, v_camera,
    v_means2d, spoilt,
):  # fmt: skip
    """The gradients of a task's Gaussians lie in a row of `blocks`, in the order of `table`
    (addresses of value and moments, numbers a Gaussian)."""
    count = means.shape[0]
    block = blocks[share[1]]
    v_means = block[: 3 * TASK].reshape(TASK, 3)
    v_scales = block[3 * TASK : 6 * TASK].reshape(TASK, 3)
    v_quats = block[6 * TASK : 10 * TASK].reshape(TASK, 4)
    v_opacities = block[10 * TASK : 11 * TASK]
    v_sh0 = block[11 * TASK : 14 * TASK]
    v_shN = block[14 * TASK :] if degree > 0 else v_sh0
    last_few = np.zeros(64, np.float32)
    unit = np.float32(1.0)
    while True:
        task = next_task(share)
        begin = task * TASK
        if begin >= count:
            break
        end = min(begin + TASK, count)
        range_backward(
            begin, end, begin, means, quats, scales, opacities, sh0, stride0, shN, strideN, offsetN,
            degree, camera, False, rows, offsets, sums, absgrad, True, v_means, v_quats, v_scales,
            v_opacities, v_sh0, v_shN, v_camera[task], v_means2d,
        )  # fmt: skip
        # exp and sigmoid, and the regularisers on what comes out of them
        for i in range(begin, end):
            j = i - begin
            for n in range(3):
                v_scales[j, n] = (v_scales[j, n] + scale_weight) * scales[i, n]
            opacity = opacities[i]
            v_opacities[j] = (v_opacities[j] + opacity_weight) * opacity * (unit - opacity)
        gradient = np.int64(block.ctypes.data)
        for row in range(len(table)):
            width = table[row, 3]
            first = 4 * begin * width  # bytes
            if not _adam_on(
                table[row, 0] + first, table[row, 1] + first, table[row, 2] + first, gradient,
                (end - begin) * width, factors[row, 0], factors[row, 1], last_few,
            ):  # fmt: skip
                spoilt[task] = 1
            gradient += 4 * TASK * width


@njit(cache=True, nogil=True, error_model="numpy")
def _adam(share, table, factors):  # type: ignore[no-untyped-def]
    last_few = np.zeros(64, np.float32)
    tasks = table[-1, 5] if len(table) else 0
    while True:
        task = next_task(share)
        if task >= tasks:
            break
        row = 0
        while task >= table[row, 5]:
            row += 1
        begin = (task - (table[row - 1, 5] if row else 0)) * _BLOCK
        first = 4 * begin  # bytes
        _adam_on(
            table[row, 0] + first, table[row, 1] + first, table[row, 2] + first,
            table[row, 3] + first, min(_BLOCK, table[row, 4] - begin), factors[row, 0],
            factors[row, 1], last_few,
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _adam_on(  # type: ignore[no-untyped-def]
    value, exp_avg, exp_avg_sq, gradient, count, size, correction, last_few
):
    """Adam's step on `count` numbers at these addresses; whether every gradient was finite. A rest
    of less than sixteen goes through `last_few` [64]."""
    size, correction = fill(size), fill(correction)
    finite = True
    for at in range(0, count - 15, 16):
        g = load(gradient, at)
        p, m, v, sound = _adam_lanes(
            load(value, at), g, load(exp_avg, at), load(exp_avg_sq, at), size, correction
        )
        finite &= sound
        store(value, at, p)
        store(exp_avg, at, m)
        store(exp_avg_sq, at, v)
    rest = count % 16
    if rest:
        at = count - rest
        last_few[:] = 0.0
        for i in range(rest):
            last_few[i] = read(value, at + i)
            last_few[16 + i] = read(gradient, at + i)
            last_few[32 + i] = read(exp_avg, at + i)
            last_few[48 + i] = read(exp_avg_sq, at + i)
        p, m, v, sound = _adam_lanes(
            load(last_few, 0), load(last_few, 16), load(last_few, 32), load(last_few, 48),
            size, correction,
        )  # fmt: skip
        finite &= sound
        store(last_few, 0, p)
        store(last_few, 32, m)
        store(last_few, 48, v)
        for i in range(rest):
            write(value, at + i, last_few[i])
            write(exp_avg, at + i, last_few[32 + i])
            write(exp_avg_sq, at + i, last_few[48 + i])
    return finite


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
def _adam_lanes(p, g, m, v, size, correction):  # type: ignore[no-untyped-def]
    """Value and moments after a step, and whether no gradient was infinite or NaN (they count as
    zero)."""
    none = fill(np.float32(0.0))
    size_of_g = absolute(g)
    largest = fill(np.float32(3.4e38))
    sound = above(largest, size_of_g)
    g = choose(sound, g, none)
    m = fma(fill(np.float32(0.9)), m, fill(np.float32(0.1)) * g)
    v = fma(fill(np.float32(0.999)), v, (fill(np.float32(0.001)) * g) * g)
    p = fma(size, m / fma(square_root(v), correction, fill(np.float32(1e-15))), p)
    return p, m, v, every_lane(sound)


def over_background(pixels: np.ndarray, background: Tensor | None) -> Tensor:
    """[H, W, 3] float32 in 0..1: a picture [H, W, 3] uint8, or one premultiplied by its alpha
    [H, W, 4] laid over `background` [3] (black when None)."""
    height, width, channels = pixels.shape
    image = take((height, width, 3), np.float32)
    behind = np.zeros(3, np.float32) if background is None else background.numpy()
    team().run(
        -(-height // _IMAGE_ROWS), _over_background, np.ascontiguousarray(pixels).reshape(-1),
        channels, behind, width, image.reshape(-1),
    )  # fmt: skip
    return torch.from_numpy(image)


@njit(cache=True, nogil=True, error_model="numpy")
def _over_background(share, pixels, channels, behind, width, image):  # type: ignore[no-untyped-def]
    scale, one, none = np.float32(1.0 / 255.0), np.float32(1.0), np.float32(0.0)
    count = len(image) // 3
    while True:
        begin = next_task(share) * _IMAGE_ROWS * width
        if begin >= count:
            break
        end = min(begin + _IMAGE_ROWS * width, count)
        if channels == 3:
            for at in range(np.uintp(3 * begin), np.uintp(3 * end)):
                image[at] = np.float32(pixels[at]) * scale
            continue
        for pixel in range(np.uintp(begin), np.uintp(end)):
            clear = one - np.float32(pixels[np.uintp(4) * pixel + np.uintp(3)]) * scale
            for c in range(np.uintp(3)):
                value = np.float32(pixels[np.uintp(4) * pixel + c]) * scale + clear * behind[c]
                # resizing overshoots a little
                image[np.uintp(3) * pixel + c] = min(max(value, none), one)


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
