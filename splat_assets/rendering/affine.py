"""One affine map of the colours of a whole picture, differentiable: what a camera's automatic
exposure and white balance do to it.

On the CPU value and gradients come from two numba kernels whose sums are kept per row, so that
they do not depend on the number of threads; CUDA tensors go through torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from splat_assets.rendering.cpu.tasks import next_task
from splat_assets.rendering.cpu.team import team

_ROWS = 16  # image rows a task


def affine_colours(image: Tensor, matrix: Tensor) -> Tensor:
    """[H, W, 3] with every colour c of `image` [H, W, 3] replaced by A c + b.

    Args:
        image: float32.
        matrix: [3, 4] float32, A and b side by side. Gradients flow to both.
    """
    if image.is_cuda:
        return image @ matrix[:, :3].T + matrix[:, 3]
    return _AffineColours.apply(image, matrix)


class _AffineColours(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, image: Tensor, matrix: Tensor) -> Tensor:
        image = image.contiguous()
        height, width = image.shape[:2]
        out = torch.empty_like(image)
        team().run(
            -(-height // _ROWS), _apply, _flat(image), _flat(matrix), height, width, _flat(out)
        )
        ctx.save_for_backward(image, matrix)
        return out

    @staticmethod
    def backward(ctx: Any, v_out: Tensor) -> Any:
        image, matrix = ctx.saved_tensors
        height, width = image.shape[:2]
        v_image = torch.empty_like(image)
        sums = np.empty((height, 12))
        team().run(
            -(-height // _ROWS), _apply_backward, _flat(image), _flat(matrix),
            _flat(v_out), height, width, _flat(v_image), sums,
        )  # fmt: skip
        v_matrix = torch.from_numpy(sums.sum(axis=0).reshape(3, 4)).to(matrix.dtype)
        return v_image, v_matrix


def _flat(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().view(-1).numpy()


@njit(cache=True, nogil=True, error_model="numpy")
def _apply(share, image, matrix, height, width, out):  # type: ignore[no-untyped-def]
    m = matrix
    while True:
        begin = next_task(share) * 16
        if begin >= height:
            break
        for pixel in range(begin * width, min(begin + 16, height) * width):
            at = np.uintp(3 * pixel)
            r, g, b = image[at], image[at + np.uintp(1)], image[at + np.uintp(2)]
            out[at] = m[0] * r + m[1] * g + m[2] * b + m[3]
            out[at + np.uintp(1)] = m[4] * r + m[5] * g + m[6] * b + m[7]
            out[at + np.uintp(2)] = m[8] * r + m[9] * g + m[10] * b + m[11]


@njit(cache=True, nogil=True, error_model="numpy")
def _apply_backward(  # type: ignore[no-untyped-def]
    share, image, matrix, v_out, height, width, v_image, sums
):
    """`sums` [height, 12] float64: the derivatives with respect to the matrix, a row of pixels."""
    m = matrix
    while True:
        begin = next_task(share) * 16
        if begin >= height:
            break
        for y in range(begin, min(begin + 16, height)):
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = s20 = s21 = s22 = s23 = np.float32(0)
            for pixel in range(y * width, (y + 1) * width):
                at = np.uintp(3 * pixel)
                r, g, b = image[at], image[at + np.uintp(1)], image[at + np.uintp(2)]
                x, y_, z = v_out[at], v_out[at + np.uintp(1)], v_out[at + np.uintp(2)]
                v_image[at] = m[0] * x + m[4] * y_ + m[8] * z
                v_image[at + np.uintp(1)] = m[1] * x + m[5] * y_ + m[9] * z
                v_image[at + np.uintp(2)] = m[2] * x + m[6] * y_ + m[10] * z
                s00 += x * r
                s01 += x * g
                s02 += x * b
                s03 += x
                s10 += y_ * r
                s11 += y_ * g
                s12 += y_ * b
                s13 += y_
                s20 += z * r
                s21 += z * g
                s22 += z * b
                s23 += z
            sums[y, 0], sums[y, 1], sums[y, 2], sums[y, 3] = s00, s01, s02, s03
            sums[y, 4], sums[y, 5], sums[y, 6], sums[y, 7] = s10, s11, s12, s13
            sums[y, 8], sums[y, 9], sums[y, 10], sums[y, 11] = s20, s21, s22, s23
