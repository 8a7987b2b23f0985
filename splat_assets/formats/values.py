"""What the formats have in common: bounded reading, logits and logarithms of stored bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splat_assets.errors import UserError
from splat_assets.gaussians.gaussians import SH_C0

# 180 degrees about x: y and z change sign, so "y up" becomes the "-y up" of 3DGS files
ABOUT_X = np.diag([1.0, -1.0, -1.0])
# 180 degrees about z: the other turn between the two, which keeps what is ahead ahead
ABOUT_Z = np.diag([-1.0, -1.0, 1.0])
_LEAST_SIGMA = 1e-9
_HALF_STEP = 0.5 / 255


class DamagedError(Exception):
    """What is wrong with a file, as the end of a sentence that begins with its name."""


def read_bytes(path: Path) -> bytes:
    """All of a file; `UserError` when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def logit_of_byte(alpha: np.ndarray) -> np.ndarray:
    """float32 logits of opacities stored as 0..255; the ends become finite, half a step inside."""
    inside = np.clip(alpha.astype(np.float64) / 255, _HALF_STEP / 2, 1 - _HALF_STEP / 2)
    return np.log(inside / (1 - inside)).astype(np.float32)


def logit(opacity: np.ndarray) -> np.ndarray:
    """float32 logits of opacities in 0..1, finite at the ends."""
    inside = np.clip(opacity.astype(np.float64), 1e-7, 1 - 1e-7)
    return np.log(inside / (1 - inside)).astype(np.float32)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """float64 opacities of logits."""
    return 1 / (1 + np.exp(-np.clip(logits.astype(np.float64), -60, 60)))


def log_sigma(sigma: np.ndarray) -> np.ndarray:
    """float32 natural logarithms of standard deviations, finite where one is 0."""
    return np.log(np.maximum(sigma.astype(np.float64), _LEAST_SIGMA)).astype(np.float32)


def sh0_of_byte(color: np.ndarray) -> np.ndarray:
    """float32 constant coefficients of colours stored as 0..255."""
    return ((color.astype(np.float64) / 255 - 0.5) / SH_C0).astype(np.float32)


def to_byte(values: np.ndarray) -> np.ndarray:
    """uint8, rounded and clipped."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
