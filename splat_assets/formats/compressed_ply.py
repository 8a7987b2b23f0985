"""Compressed PLY (PlayCanvas): 16 bytes a Gaussian, quantised within chunks of 256.

Elements `chunk` (ranges), `vertex` (four packed words) and, with view-dependent colour, `sh`.
The axes are those of 3DGS files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from splat_assets.compression.quantize import from_smallest_three, smallest_three
from splat_assets.compression.sorting import morton_key
from splat_assets.formats.values import DamagedError, logit_of_byte, read_bytes, sigmoid, to_byte
from splat_assets.gaussians.gaussians import SH_C0, SH_REST, Gaussians
from splat_assets.gaussians.ply import mode_comments, mode_of_comment

_CHUNK = 256
_MAX_HEADER = 1 << 16
_KINDS = {"float": "<f4", "uint": "<u4", "uchar": "u1"}
_AXES = ("x", "y", "z")
_WORDS = ("position", "rotation", "scale", "color")
_SH_SPAN = 8.0  # coefficients lie in -4..4
_RANGE_NAMES = [
    f"{side}_{part}{axis}"
    for part in ("", "scale_")
    for side in ("min", "max")
    for axis in ("x", "y", "z")
]
_COLOR_NAMES = [f"{side}_{channel}" for side in ("min", "max") for channel in "rgb"]


def is_compressed_ply(head: bytes) -> bool:
    """Whether the first bytes of a PLY announce this layout."""
    return head.startswith(b"ply") and b"packed_position" in head.partition(b"end_header")[0]


def read_compressed_ply(path: Path) -> Gaussians:
    """Decode a compressed PLY."""
    data = read_bytes(path)
    tables, mode = _tables(data)
    missing = [name for name in ("chunk", "vertex") if name not in tables]
    if missing:
        raise DamagedError(f"is damaged: its header has no element {missing[0]!r}")
    chunk, vertex = tables["chunk"], tables["vertex"]
    wanted = [f"packed_{word}" for word in _WORDS]
    for table, names, kind in ((vertex, wanted, "u4"), (chunk, _RANGE_NAMES, "f4")):
        for name in names:
            if name not in (table.dtype.names or ()) or table.dtype[name] != kind:
                raise DamagedError(
                    f"is damaged: the property {name!r} is missing or of a wrong type"
                )
    n = len(vertex)
    if not n or len(chunk) * _CHUNK < n:
        raise DamagedError(f"is damaged: {len(chunk)} chunks do not cover {n} Gaussians")
    of = np.arange(n) // _CHUNK
    colors = _bytes_of(vertex["packed_color"])
    rgb = colors[:, :3] / 255.0
    if set(_COLOR_NAMES) <= set(chunk.dtype.names or ()):  # older files have none
        low, high = (_columns(chunk, side, "", "rgb")[of] for side in ("min", "max"))
        rgb = low + (high - low) * rgb
    packed = {}
    for word, part in (("position", ""), ("scale", "scale_")):
        low, high = (_columns(chunk, side, part, _AXES)[of] for side in ("min", "max"))
        packed[word] = low + (high - low) * _unpack_11_10_11(vertex[f"packed_{word}"])
    return Gaussians(
        means=packed["position"].astype(np.float32),
        quats=_unpack_rotation(vertex["packed_rotation"]),
        scales=packed["scale"].astype(np.float32),
        opacities=logit_of_byte(colors[:, 3]),
        sh0=((rgb - 0.5) / SH_C0).astype(np.float32)[:, None, :],
        shN=_read_sh(tables.get("sh"), n),
        **dict.fromkeys(mode, True),
    )


def encode_compressed_ply(g: Gaussians) -> bytes:
    """Encode as a compressed PLY, in Morton order so that chunks are small in space."""
    logs = g.means.astype(np.float64)
    span = np.ptp(logs, axis=0)
    grid = (logs - logs.min(axis=0)) / np.where(span > 0, span, 1) * 65535
    g = g.select(np.argsort(morton_key(grid.astype(np.uint16)), kind="stable"))
    n = len(g)
    chunks = -(-n // _CHUNK)
    starts = np.arange(chunks) * _CHUNK
    of = np.arange(n) // _CHUNK
    rgb = g.sh0[:, 0].astype(np.float64) * SH_C0 + 0.5
    scales = np.clip(g.scales.astype(np.float64), -20, 20)
    bounds, unit = [], []
    for values in (g.means.astype(np.float64), scales, rgb):
        low = np.minimum.reduceat(values, starts).astype(np.float32).astype(np.float64)
        high = np.maximum.reduceat(values, starts).astype(np.float32).astype(np.float64)
        width = np.where(high > low, high - low, 1)
        bounds += [low, high]
        unit.append(np.clip((values - low[of]) / width[of], 0, 1))
    words = np.empty((n, 4), "<u4")
    words[:, 0] = _pack_11_10_11(unit[0])
    words[:, 1] = _pack_rotation(g.quats)
    words[:, 2] = _pack_11_10_11(unit[1])
    color = to_byte(np.concatenate([unit[2], sigmoid(g.opacities)[:, None]], axis=1) * 255)
    words[:, 3] = color.astype(np.uint32) @ np.array([1 << 24, 1 << 16, 1 << 8, 1], np.uint32)
    names = [*_RANGE_NAMES, *_COLOR_NAMES]
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += mode_comments(g)
    lines += [f"element chunk {chunks}", *(f"property float {name}" for name in names)]
    lines += [f"element vertex {n}", *(f"property uint packed_{word}" for word in _WORDS)]
    rest = g.shN.shape[1]
    if rest:
        lines += [f"element sh {n}"]
        lines += [f"property uchar f_rest_{i}" for i in range(3 * rest)]
    body = [np.concatenate(bounds, axis=1).astype("<f4").tobytes(), words.tobytes()]
    if rest:
        coefficients = g.shN.transpose(0, 2, 1).reshape(n, 3 * rest).astype(np.float64)
        steps = np.floor((coefficients / _SH_SPAN + 0.5) * 256)
        body.append(np.clip(steps, 0, 255).astype(np.uint8).tobytes())
    return b"".join([("\n".join([*lines, "end_header"]) + "\n").encode("ascii"), *body])


def _tables(data: bytes) -> tuple[dict[str, np.ndarray], frozenset[str]]:
    """Every element as a structured array over `data`, and the flags of `Gaussians` set."""
    head, found, _ = data[:_MAX_HEADER].partition(b"end_header\n")
    if not found:
        raise DamagedError("is not a complete PLY: its header has no end")
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    mode: frozenset[str] = frozenset()
    try:
        for line in head.decode("ascii").splitlines()[1:]:
            words = line.split()
            if words[:1] == ["format"] and words[1] != "binary_little_endian":
                raise DamagedError(f"is a PLY in the format {words[1]!r}, which is not read here")
            if words[:1] == ["comment"]:
                mode |= mode_of_comment(words)
            elif words[:1] == ["element"]:
                elements.append((words[1], int(words[2]), []))
            elif words[:1] == ["property"]:
                elements[-1][2].append((words[2], _KINDS[words[1]]))
    except (ValueError, IndexError, KeyError) as error:
        raise DamagedError(f"has a damaged PLY header ({error})") from None
    tables, at = {}, len(head) + len(found)
    for name, count, fields in elements:
        try:
            dtype = np.dtype(fields)
        except ValueError as error:
            raise DamagedError(f"has a damaged PLY header ({error})") from None
        if count < 0 or at + count * dtype.itemsize > len(data):
            raise DamagedError(f"is truncated: {count} rows of {name!r} do not fit into it")
        if fields:
            tables[name] = np.frombuffer(data, dtype, count, at)
        at += count * dtype.itemsize
    return tables, mode


def _read_sh(table: np.ndarray | None, n: int) -> np.ndarray:
    if table is None:
        return np.zeros((n, 0, 3), np.float32)
    columns = len(table.dtype.names or ())
    if len(table) != n or columns % 3 or columns // 3 not in SH_REST.values():
        raise DamagedError(f"is damaged: its element 'sh' has {len(table)} rows of {columns}")
    names = [f"f_rest_{i}" for i in range(columns)]
    if set(names) != set(table.dtype.names or ()):
        raise DamagedError("is damaged: its element 'sh' does not hold f_rest_*")
    codes = np.stack([table[name] for name in names], axis=1).astype(np.float64)
    # the first and the last step reach to the end of the range, the others are middles
    unit = np.where(codes == 0, 0.0, np.where(codes == 255, 1.0, (codes + 0.5) / 256))
    values = ((unit - 0.5) * _SH_SPAN).astype(np.float32)
    return np.ascontiguousarray(values.reshape(n, 3, columns // 3).transpose(0, 2, 1))


def _columns(chunk: np.ndarray, side: str, part: str, axes: str | tuple[str, ...]) -> np.ndarray:
    return np.stack([chunk[f"{side}_{part}{axis}"].astype(np.float64) for axis in axes], axis=1)


def _bytes_of(words: np.ndarray) -> np.ndarray:
    """[N, 4] the bytes of words, highest first."""
    return words.astype(">u4").view(np.uint8).reshape(-1, 4)


def _unpack_11_10_11(words: np.ndarray) -> np.ndarray:
    """[N, 3] in 0..1."""
    parts = (words >> 21) / 2047.0, ((words >> 11) & 1023) / 1023.0, (words & 2047) / 2047.0
    return np.stack(parts, axis=1)


def _pack_11_10_11(unit: np.ndarray) -> np.ndarray:
    x, y, z = np.rint(unit * (2047, 1023, 2047)).astype(np.uint32).T
    return (x << np.uint32(21)) | (y << np.uint32(11)) | z


def _unpack_rotation(words: np.ndarray) -> np.ndarray:
    """[N, 4] float32 (w, x, y, z): two bits name the largest component, ten each the others."""
    small = np.stack([(words >> s) & 1023 for s in (20, 10, 0)], axis=1)
    small = (small / 1023.0 - 0.5) * np.sqrt(2)
    return from_smallest_three((words >> 30).astype(np.int64), small).astype(np.float32)


def _pack_rotation(quats: np.ndarray) -> np.ndarray:
    q = quats.astype(np.float64)
    q /= np.linalg.norm(q, axis=1, keepdims=True)
    largest, small = smallest_three(q)
    words = largest.astype(np.uint32) << np.uint32(30)
    codes = np.clip(np.rint((small / np.sqrt(2) + 0.5) * 1023), 0, 1023).astype(np.uint32)
    for column, shift in enumerate((20, 10, 0)):
        words |= codes[:, column] << np.uint32(shift)
    return words
