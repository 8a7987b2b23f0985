"""SPZ (Niantic): versions 1 to 4 are read, 4 is written.

A header, then one attribute after the other: 24-bit fixed-point positions, bytes for the rest,
gzip as a whole up to version 3, Zstandard by attribute in version 4. Its axes have y up and look
along -z; reading and writing turn by 180 degrees about x.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from splat_assets.compression.quantize import from_smallest_three, smallest_three
from splat_assets.formats.values import (
    ABOUT_X,
    DamagedError,
    logit_of_byte,
    read_bytes,
    sigmoid,
    to_byte,
)
from splat_assets.gaussians.gaussians import SH_REST, Gaussians
from splat_assets.gaussians.transform import rotate

MAGIC = 0x5053474E
_HEADER = struct.Struct("<IIIBBBB")
_HEADER_4 = struct.Struct("<IIIBBBBI12x")
_ANTIALIASED = 1
_COLOR_SCALE = 0.15
# unpacked bytes that are believed of a small file, and so many times the packed ones of others
_SMALL, _MAX_RATIO = 1 << 20, 64
_LEVEL = 12  # of Zstandard


def read_spz(path: Path) -> Gaussians:
    """Decode an SPZ file of version 1 to 4."""
    data = read_bytes(path)
    if data[:2] == b"\x1f\x8b":
        head = _gunzip(data, _HEADER.size)
        legacy = True
    else:
        head, legacy = data[: _HEADER.size], False
    if len(head) < _HEADER.size or struct.unpack_from("<I", head)[0] != MAGIC:
        raise DamagedError("is not an SPZ file")
    _, version, n, degree, bits, flags, last = _HEADER.unpack(head)
    if not 1 <= version <= 4:
        raise DamagedError(f"has SPZ version {version}; 1 to 4 can be read")
    if degree not in SH_REST:
        raise DamagedError(f"has spherical harmonics of degree {degree}; 0 to 3 can be held")
    sizes = _sizes(version, n, degree)
    total = sum(sizes.values())
    if not n or total > max(_SMALL, _MAX_RATIO * len(data)):
        raise DamagedError(f"is damaged: {len(data)} bytes cannot hold {n} Gaussians")
    if version == 4 and not legacy:
        parts = _streams(data, sizes, last)
    else:
        body = data[_HEADER.size :] if not legacy else None
        raw = body if body is not None else _gunzip(data, _HEADER.size + total)[_HEADER.size :]
        if len(raw) < total:
            raise DamagedError(f"is truncated: {n} Gaussians need {total} bytes, it has {len(raw)}")
        parts, at = {}, 0
        for name, size in sizes.items():
            parts[name] = np.frombuffer(raw, np.uint8, size, at)
            at += size
    return _decode(parts, version, n, degree, bits, bool(flags & _ANTIALIASED))


def encode_spz(g: Gaussians) -> bytes:
    """Encode as SPZ version 4, with as many fractional bits as the extent of the scene allows."""
    g = rotate(g, ABOUT_X)
    n = len(g)
    reach = float(np.abs(g.means).max()) if n else 0.0
    bits = int(np.clip(np.floor(np.log2((2**23 - 1) / max(reach, 1e-3))), 0, 20))
    fixed = np.clip(np.rint(g.means.astype(np.float64) * 2**bits), -(2**23), 2**23 - 1)
    words = fixed.astype("<i4").reshape(-1, 1).view(np.uint8)[:, :3]
    parts = {
        "positions": words.tobytes(),
        "alphas": to_byte(sigmoid(g.opacities) * 255).tobytes(),
        "colors": to_byte((g.sh0[:, 0] * _COLOR_SCALE + 0.5) * 255).tobytes(),
        "scales": to_byte((g.scales.astype(np.float64) + 10) * 16).tobytes(),
        "rotations": _pack_rotation(g.quats).tobytes(),
        "sh": to_byte(g.shN.astype(np.float64) * 128 + 128).tobytes(),
    }
    import pyarrow as pa

    codec = pa.Codec("zstd", compression_level=_LEVEL)
    streams = [(codec.compress(raw, asbytes=True), len(raw)) for raw in parts.values() if raw]
    flags = _ANTIALIASED if g.antialiased else 0
    header = _HEADER_4.pack(MAGIC, 4, n, g.sh_degree, bits, flags, len(streams), _HEADER_4.size)
    toc = b"".join(struct.pack("<QQ", len(packed), size) for packed, size in streams)
    return b"".join([header, toc, *(packed for packed, _ in streams)])


def _sizes(version: int, n: int, degree: int) -> dict[str, int]:
    """Bytes of each attribute, in the order of the file."""
    return {
        "positions": n * (6 if version == 1 else 9),
        "alphas": n,
        "colors": 3 * n,
        "scales": 3 * n,
        "rotations": n * (4 if version >= 3 else 3),
        "sh": n * 3 * SH_REST[degree],
    }


def _gunzip(data: bytes, size: int) -> bytes:
    """The first `size` bytes, or fewer at the end; never more memory than that."""
    try:
        return zlib.decompressobj(31).decompress(data, size)
    except zlib.error as error:
        raise DamagedError(f"is damaged: it cannot be unpacked ({error})") from None


def _streams(data: bytes, sizes: dict[str, int], count: int) -> dict[str, np.ndarray]:
    """The attributes of a version 4 file."""
    import pyarrow as pa

    if len(data) < _HEADER_4.size:
        raise DamagedError("is truncated: its header is not complete")
    toc = _HEADER_4.unpack_from(data)[7]
    at = toc + 16 * count
    if toc < _HEADER_4.size or at > len(data) or count < sum(s > 0 for s in sizes.values()):
        raise DamagedError("is damaged: its table of contents lies outside it")
    codec = pa.Codec("zstd")
    parts = {}
    for i, (name, size) in enumerate(sizes.items()):
        packed, unpacked = struct.unpack_from("<QQ", data, toc + 16 * i) if i < count else (0, 0)
        if unpacked != size or at + packed > len(data):
            raise DamagedError(f"is damaged: its {name} are of another size than announced")
        try:
            raw = codec.decompress(data[at : at + packed], size) if size else b""
        except (OSError, ValueError) as error:
            raise DamagedError(f"is damaged: its {name} cannot be unpacked ({error})") from None
        if len(raw) != size:
            raise DamagedError(f"is damaged: its {name} are of another size than announced")
        parts[name] = np.frombuffer(raw, np.uint8)
        at += packed
    return parts


def _decode(
    parts: dict[str, np.ndarray], version: int, n: int, degree: int, bits: int, antialiased: bool
) -> Gaussians:
    means: np.ndarray
    if version == 1:
        means = parts["positions"].view("<f2").reshape(n, 3)
    else:
        words = np.zeros((3 * n, 4), np.uint8)
        words[:, 1:] = parts["positions"].reshape(-1, 3)
        # the shift back keeps the sign
        means = (words.view("<i4").reshape(n, 3) >> 8) / np.float64(2.0**bits)
    rotations = parts["rotations"].reshape(n, -1)
    colors = parts["colors"].reshape(n, 3).astype(np.float64)
    sh = parts["sh"].reshape(n, SH_REST[degree], 3)
    decoded = Gaussians(
        means=means.astype(np.float32),
        quats=_unpack_rotation(rotations) if version >= 3 else _unpack_first_three(rotations),
        scales=parts["scales"].reshape(n, 3).astype(np.float32) / 16 - 10,
        opacities=logit_of_byte(parts["alphas"]),
        sh0=((colors / 255 - 0.5) / _COLOR_SCALE).astype(np.float32)[:, None, :],
        shN=(sh.astype(np.float32) - 128) / 128,
        antialiased=antialiased,
    )
    return rotate(decoded, ABOUT_X)


def _unpack_first_three(packed: np.ndarray) -> np.ndarray:
    """[N, 4] (w, x, y, z) from x, y, z as bytes."""
    xyz = packed.astype(np.float64) / 127.5 - 1
    w = np.sqrt(np.maximum(0.0, 1 - (xyz**2).sum(axis=1)))
    return np.concatenate([w[:, None], xyz], axis=1).astype(np.float32)


def _unpack_rotation(packed: np.ndarray) -> np.ndarray:
    """[N, 4] (w, x, y, z): in a word, the index of the largest of (x, y, z, w), then the others
    as sign and nine bits, the first one highest."""
    words = np.ascontiguousarray(packed).view("<u4").reshape(-1)
    small = np.stack([(words >> s) & 1023 for s in (20, 10, 0)], axis=1)
    values = (small & 511) / 511.0 * np.sqrt(0.5)
    values = np.where(small & 512, -values, values)
    xyzw = from_smallest_three((words >> 30).astype(np.int64), values)
    return np.roll(xyzw, 1, axis=1).astype(np.float32)


def _pack_rotation(quats: np.ndarray) -> np.ndarray:
    """[N] words; the inverse of `_unpack_rotation`."""
    xyzw = np.roll(quats.astype(np.float64), -1, axis=1)
    xyzw /= np.linalg.norm(xyzw, axis=1, keepdims=True)
    largest, small = smallest_three(xyzw)
    magnitude = np.minimum(511, np.rint(np.abs(small) / np.sqrt(0.5) * 511)).astype(np.uint32)
    parts = magnitude | np.where(small < 0, np.uint32(512), np.uint32(0))
    words = largest.astype(np.uint32) << np.uint32(30)
    for column, shift in enumerate((20, 10, 0)):
        words = words | (parts[:, column] << np.uint32(shift))
    return words.astype("<u4")
