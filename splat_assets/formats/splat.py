"""`.splat` (antimatter15): 32 bytes a Gaussian, no view-dependent colour, axes as in 3DGS files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splat_assets.formats.values import (
    DamagedError,
    log_sigma,
    logit_of_byte,
    read_bytes,
    sh0_of_byte,
    sigmoid,
    to_byte,
)
from splat_assets.gaussians.gaussians import SH_C0, Gaussians

_ROW = np.dtype([("mean", "<f4", 3), ("sigma", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def read_splat_file(path: Path) -> Gaussians:
    """Decode a `.splat`."""
    data = read_bytes(path)
    if not data or len(data) % _ROW.itemsize:
        raise DamagedError(f"is no whole .splat: its size is not a multiple of {_ROW.itemsize}")
    rows = np.frombuffer(data, _ROW)
    return Gaussians(
        means=rows["mean"].astype(np.float32),
        quats=(rows["quat"].astype(np.float32) - 128) / 128,
        scales=log_sigma(rows["sigma"]),
        opacities=logit_of_byte(rows["rgba"][:, 3]),
        sh0=sh0_of_byte(rows["rgba"][:, :3])[:, None, :],
        shN=np.zeros((len(rows), 0, 3), np.float32),
    )


def encode_splat_file(g: Gaussians) -> bytes:
    """Encode as `.splat`, the most visible first, as its viewers expect."""
    rows = np.empty(len(g), _ROW)
    opacity = sigmoid(g.opacities)
    order = np.argsort(-opacity * np.exp(g.scales.astype(np.float64).sum(1)), kind="stable")
    quats = g.quats / np.linalg.norm(g.quats, axis=1, keepdims=True)
    rows["mean"] = g.means
    rows["sigma"] = np.exp(g.scales)
    rows["rgba"][:, :3] = to_byte((g.sh0[:, 0] * SH_C0 + 0.5) * 255)
    rows["rgba"][:, 3] = to_byte(opacity * 255)
    rows["quat"] = to_byte(quats * 128 + 128)
    return rows[order].tobytes()
