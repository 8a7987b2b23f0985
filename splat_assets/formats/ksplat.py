"""`.ksplat` (GaussianSplats3D), read only: sections of bucketed Gaussians, in three precisions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splat_assets.formats.merge import merge
from splat_assets.formats.values import (
    DamagedError,
    log_sigma,
    logit_of_byte,
    read_bytes,
    sh0_of_byte,
)
from splat_assets.gaussians.gaussians import SH_REST, Gaussians

_HEADER, _SECTION = 4096, 1024
_MAX_SECTIONS = 1 << 16
# (centre, scale, rotation, harmonics) of the compression levels 0 to 2
_KINDS = (("<f4", "<f4", "<f4", "<f4"), ("<u2", "<f2", "<f2", "<f2"), ("<u2", "<f2", "<f2", "u1"))
_SH_RANGE = (-1.5, 1.5)


@dataclass(frozen=True)
class _Section:
    """Where a section's parts are."""

    count: int
    degree: int
    rows: np.ndarray  # structured, [count]
    centers: np.ndarray | None  # [count, 3] of each Gaussian's bucket
    step: float
    zero: int


def read_ksplat(path: Path) -> Gaussians:
    """Decode a `.ksplat`; view-dependent colour of the degree that all sections have."""
    data = read_bytes(path)
    if len(data) < _HEADER:
        raise DamagedError("is not a .ksplat: its header is not complete")
    major, minor = data[0], data[1]
    if major != 0 or minor < 1:
        raise DamagedError(f"has .ksplat version {major}.{minor}; 0.1 and later can be read")
    sections, level = _number(data, 4), int(np.frombuffer(data, "<u2", 1, 20)[0])
    if level >= len(_KINDS):
        raise DamagedError(f"has the compression level {level}; 0 to 2 can be read")
    if not 0 < sections <= _MAX_SECTIONS or _HEADER + sections * _SECTION > len(data):
        raise DamagedError(f"is damaged: it announces {sections} sections")
    least, most = (float(v) for v in np.frombuffer(data, "<f4", 2, 36))
    span = (least or _SH_RANGE[0], most or _SH_RANGE[1])
    found, at = [], _HEADER + sections * _SECTION
    for index in range(sections):
        section, at = _open_section(data, _HEADER + index * _SECTION, at, level)
        if section.count:
            found.append(section)
    if not found:
        raise DamagedError("holds no Gaussians")
    degree = min(section.degree for section in found)
    return merge([_decode(section, level, SH_REST[degree], span) for section in found])


def _number(data: bytes, at: int) -> int:
    return int(np.frombuffer(data, "<u4", 1, at)[0])


def _open_section(data: bytes, header: int, at: int, level: int) -> tuple[_Section, int]:
    """The section whose header is at `header` and whose data begins at `at`, and where it ends."""
    count, capacity, bucket_size, buckets = (_number(data, header + 4 * i) for i in range(4))
    block = float(np.frombuffer(data, "<f4", 1, header + 16)[0])
    bucket_bytes, degree = (int(np.frombuffer(data, "<u2", 1, header + o)[0]) for o in (20, 40))
    zero = _number(data, header + 24) or (1 if level == 0 else 32767)
    full, partial = _number(data, header + 32), _number(data, header + 36)
    if degree not in SH_REST:
        raise DamagedError(f"has spherical harmonics of degree {degree}; 0 to 3 can be held")
    dtype = _row(level, degree)
    centers_at = at + 4 * partial
    rows_at = centers_at + bucket_bytes * buckets
    end = rows_at + dtype.itemsize * capacity
    if count > capacity or end > len(data) or not np.isfinite(block):
        raise DamagedError(f"is truncated: a section of {capacity} Gaussians does not fit into it")
    rows = np.frombuffer(data, dtype, count, rows_at)
    if level == 0 or not count:
        return _Section(count, degree, rows, None, 1.0, 0), end
    lengths = np.full(full, bucket_size, np.int64)
    rest = np.frombuffer(data, "<u4", partial, at).astype(np.int64)
    lengths = np.concatenate([lengths, rest])
    ends = np.cumsum(lengths)
    if bucket_bytes != 12 or not len(ends) or ends[-1] < count or len(ends) > buckets:
        raise DamagedError("is damaged: its buckets do not hold its Gaussians")
    owner = np.searchsorted(ends, np.arange(count), side="right")
    centers = np.frombuffer(data, "<f4", 3 * buckets, centers_at).reshape(-1, 3)[owner]
    return _Section(count, degree, rows, centers, block / 2 / zero, zero), end


def _row(level: int, degree: int) -> np.dtype:
    center, scale, rotation, harmonics = _KINDS[level]
    return np.dtype(
        [
            ("center", center, 3),
            ("sigma", scale, 3),
            ("quat", rotation, 4),
            ("rgba", "u1", 4),
            ("sh", harmonics, (3 * SH_REST[degree],)),
        ]
    )


def _decode(section: _Section, level: int, rest: int, span: tuple[float, float]) -> Gaussians:
    rows = section.rows
    means = rows["center"].astype(np.float64)
    if section.centers is not None:
        means = (means - section.zero) * section.step + section.centers
    sh = rows["sh"].astype(np.float64)
    if level == 2:
        sh = span[0] + sh / 255 * (span[1] - span[0])
    # within each degree, all of R, then G, then B
    shN = np.zeros((section.count, rest, 3))
    first = 0
    for degree in (1, 2, 3):
        width = 2 * degree + 1
        if first + width > rest:
            break
        part = sh[:, 3 * first : 3 * (first + width)].reshape(-1, 3, width)
        shN[:, first : first + width] = part.transpose(0, 2, 1)
        first += width
    return Gaussians(
        means=means.astype(np.float32),
        quats=rows["quat"].astype(np.float32),
        scales=log_sigma(rows["sigma"]),
        opacities=logit_of_byte(rows["rgba"][:, 3]),
        sh0=sh0_of_byte(rows["rgba"][:, :3])[:, None, :],
        shN=shN.astype(np.float32),
    )
