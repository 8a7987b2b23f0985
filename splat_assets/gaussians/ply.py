"""3D Gaussian splats as PLY files, in the layout that INRIA's 3DGS trainer introduced.

Reading takes binary (of either byte order) and ASCII, properties in any order, SH degrees 0 to 3,
and ignores what it does not know. Writing gives the standard order (normals included, which some
viewers insist on). How a splat is to be drawn stands in a comment: `antialiased`, `antialiased 1`
(Postshot) or `SplatRenderMode: mip|2dgs` (Brush) are read; the first and the last are written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splat_assets.errors import UserError
from splat_assets.gaussians.gaussians import SH_REST, Gaussians

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_REQUIRED = (
    "x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip
_MAX_HEADER = 64 * 1024
_ROWS_AT_ONCE = 1 << 18
_ROWS_IN_CACHE = 1 << 12


def read_ply(path: Path | str) -> Gaussians:
    """Read a 3DGS PLY.

    Raises `UserError`, in one sentence, when the file is missing, truncated, not a PLY, or holds a
    mesh, a point cloud or a packed (compressed) splat rather than plain 3D Gaussians.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            header = _read_header(stream.read(_MAX_HEADER), path)
            rest = _check_layout(header, path)
            table = _read_vertices(path, header)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    return _to_gaussians(table, rest, header.mode)


class PlyRows:
    """A 3DGS PLY of which only what is asked for is taken into memory."""

    def __init__(self, path: Path | str) -> None:
        """Raises `UserError` as `read_ply` does."""
        path = Path(path)
        try:
            with path.open("rb") as stream:
                header = _read_header(stream.read(_MAX_HEADER), path)
            self._rest = _check_layout(header, path)
            self._table = _read_vertices(path, header)
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
        self._mode = header.mode

    def __len__(self) -> int:
        return len(self._table)

    @property
    def sh_degree(self) -> int:
        return self.take(slice(0, 0)).sh_degree

    def means(self) -> np.ndarray:
        """[N, 3] float32."""
        out = np.empty((len(self), 3), np.float32)
        for i, name in enumerate("xyz"):
            out[:, i] = self._table[name]
        return out

    def take(self, index: np.ndarray | slice) -> Gaussians:
        """The Gaussians at `index`, in its order."""
        return _to_gaussians(self._table[index], self._rest, self._mode)


def write_ply(path: Path | str, gaussians: Gaussians) -> None:
    """Write a 3DGS PLY atomically: `path` holds the old content or all of the new, never a part."""
    path = Path(path)
    rest = gaussians.shN.shape[1]
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(3 * rest)]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    lines = ["ply", "format binary_little_endian 1.0"]
    lines += mode_comments(gaussians)
    lines += [f"element vertex {len(gaussians)}"]
    lines += [f"property float {name}" for name in names]
    lines += ["end_header"]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(("\n".join(lines) + "\n").encode("ascii"))
            # in blocks, so that writing millions does not double the memory
            for start in range(0, len(gaussians), _ROWS_AT_ONCE):
                block = slice(start, min(start + _ROWS_AT_ONCE, len(gaussians)))
                stream.write(_pack_rows(gaussians, block, len(names)).tobytes())
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def mode_comments(gaussians: Gaussians) -> list[str]:
    """Header lines that say how a splat is to be drawn."""
    lines = ["comment antialiased"] if gaussians.antialiased else []
    return lines + (["comment SplatRenderMode: 2dgs"] if gaussians.flat else [])


def mode_of_comment(words: list[str]) -> frozenset[str]:
    """What a comment of a PLY, split into words, says of how it is to be drawn."""
    text = " ".join(words[1:]).lower()
    if text in ("antialiased", "antialiased 1", "splatrendermode: mip"):
        return frozenset(["antialiased"])
    return frozenset(["flat"]) if text == "splatrendermode: 2dgs" else frozenset()


def _pack_rows(g: Gaussians, block: slice, width: int) -> np.ndarray:
    """[rows, width] little-endian float32; the higher SH go channel by channel, as 3DGS has it."""
    rows = np.zeros((block.stop - block.start, width), dtype="<f4")
    rest = g.shN.shape[1]
    rows[:, 0:3] = g.means[block]
    rows[:, 6:9] = g.sh0[block, 0]
    rows[:, 9 : 9 + 3 * rest] = g.shN[block].transpose(0, 2, 1).reshape(len(rows), 3 * rest)
    rows[:, -8] = g.opacities[block]
    rows[:, -7:-4] = g.scales[block]
    rows[:, -4:] = g.quats[block]
    return rows


@dataclass(frozen=True)
class _Header:
    """What precedes the data: `dtype` is the vertex row, `skip` the bytes or lines before it."""

    ascii: bool
    count: int
    dtype: np.dtype
    offset: int  # bytes of the header
    skip: int  # bytes (binary) or lines (ascii) of elements before the vertices
    elements: tuple[str, ...]
    mode: frozenset[str]  # names of the flags of `Gaussians` that are set


def _read_header(head: bytes, path: Path) -> _Header:
    if not head.startswith((b"ply\n", b"ply\r\n")):
        raise UserError(f"{path} is not a PLY file.")
    marker = head.find(b"end_header")
    end = head.find(b"\n", marker)
    if marker < 0 or end < 0:
        raise UserError(f"{path} is not a complete PLY file: its header has no end.")
    encoding = ""
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    mode: frozenset[str] = frozenset()
    try:
        for line in head[:end].decode("utf-8", "replace").splitlines()[1:]:
            words = line.split()
            if not words:
                continue
            if words[0] == "format":
                encoding = words[1]
            elif words[0] == "comment":
                mode |= mode_of_comment(words)
            elif words[0] == "element":
                elements.append((words[1], int(words[2]), []))
            elif words[0] == "property":
                kind = "list" if words[1] == "list" else _TYPES[words[1]]
                elements[-1][2].append((words[-1], kind))
    except (IndexError, KeyError, ValueError) as error:
        raise UserError(f"{path} has a damaged PLY header ({error}).") from None
    if encoding not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise UserError(f"{path} is a PLY in the format {encoding!r}, which is not read here.")
    names = tuple(name for name, _, _ in elements)
    if "vertex" not in names:
        raise UserError(f"{path} holds no Gaussians: the PLY has no element 'vertex'.")
    at = names.index("vertex")
    is_ascii = encoding == "ascii"
    skip = 0
    for name, count, fields in elements[:at]:
        if not is_ascii and any(kind == "list" for _, kind in fields):
            raise UserError(f"{path} is not a 3D Gaussian splat: a list element {name!r} precedes.")
        row = sum(np.dtype(kind).itemsize for _, kind in fields if kind != "list")
        if count < 0:
            raise UserError(f"{path} has a damaged PLY header ({count} rows of {name!r}).")
        skip += count if is_ascii else count * row
    count, fields = elements[at][1], elements[at][2]
    if count < 0 or any(kind == "list" for _, kind in fields):
        raise UserError(f"{path} is not a 3D Gaussian splat: its vertices are not plain numbers.")
    try:
        order = ">" if encoding == "binary_big_endian" else "<"
        dtype = np.dtype([(name, order + kind) for name, kind in fields])
    except ValueError as error:
        raise UserError(f"{path} has a damaged PLY header ({error}).") from None
    return _Header(is_ascii, count, dtype, end + 1, skip, names, mode)


def _check_layout(header: _Header, path: Path) -> int:
    """The number of higher SH coefficients (a channel), once everything needed is there."""
    names = set(header.dtype.names or ())
    missing = [name for name in _REQUIRED if name not in names]
    if missing:
        if "packed_position" in names:
            what = "a packed PlayCanvas splat; convert it to a plain 3DGS PLY first"
        elif "face" in header.elements:
            what = "a mesh, not a 3D Gaussian splat"
        elif not any(name.startswith(("f_dc", "scale_", "rot_")) for name in names):
            what = "a point cloud, not a 3D Gaussian splat"
        else:
            what = f"not a complete 3D Gaussian splat: the property {missing[0]!r} is missing"
        raise UserError(f"{path} is {what}.")
    rest = sum(name.startswith("f_rest_") for name in names)
    wanted = {f"f_rest_{i}" for i in range(rest)}
    if rest % 3 or rest // 3 not in SH_REST.values() or not wanted <= names:
        raise UserError(
            f"{path} holds {rest} properties f_rest_*; 0, 9, 24 or 45 make spherical harmonics."
        )
    return rest // 3


def _read_vertices(path: Path, header: _Header) -> np.ndarray:
    """The vertex rows as a structured array; a memory map for binary files."""
    if header.ascii:
        return _read_ascii(path, header)
    need = header.offset + header.skip + header.count * header.dtype.itemsize
    have = path.stat().st_size
    if have < need:
        raise UserError(
            f"{path} is truncated: {header.count} Gaussians need {need} bytes, it has {have}."
        )
    if header.count == 0:
        return np.zeros(0, header.dtype)
    start = header.offset + header.skip
    return np.memmap(path, header.dtype, "r", start, (header.count,))


def _read_ascii(path: Path, header: _Header) -> np.ndarray:
    with path.open("rb") as stream:
        stream.seek(header.offset)
        lines = stream.read().splitlines()[header.skip : header.skip + header.count]
    if len(lines) < header.count:
        raise UserError(
            f"{path} is truncated: it announces {header.count} Gaussians and has {len(lines)}."
        )
    fields = header.dtype.names or ()
    try:
        numbers = np.array([line.split()[: len(fields)] for line in lines], dtype=np.float64)
        numbers = numbers.reshape(header.count, len(fields))
    except ValueError:
        raise UserError(f"{path} is damaged: a row does not hold {len(fields)} numbers.") from None
    table = np.zeros(header.count, header.dtype)
    for column, name in enumerate(fields):
        table[name] = numbers[:, column]
    return table


def _to_gaussians(table: np.ndarray, rest: int, mode: frozenset[str]) -> Gaussians:
    n = len(table)
    wanted = {
        "means": ("x", "y", "z"),
        "quats": ("rot_0", "rot_1", "rot_2", "rot_3"),
        "scales": ("scale_0", "scale_1", "scale_2"),
        "opacities": ("opacity",),
        "sh0": ("f_dc_0", "f_dc_1", "f_dc_2"),
        # by coefficient; the file has them by channel
        "shN": tuple(f"f_rest_{c * rest + k}" for k in range(rest) for c in range(3)),
    }
    parts = {name: np.empty((n, len(fields)), np.float32) for name, fields in wanted.items()}
    for start in range(0, n, _ROWS_IN_CACHE):  # each row is fetched once and not for every column
        block = slice(start, start + _ROWS_IN_CACHE)
        rows = table[block]
        for name, fields in wanted.items():
            for i, field in enumerate(fields):
                parts[name][block, i] = rows[field]
    return Gaussians(
        means=parts["means"],
        quats=parts["quats"],
        scales=parts["scales"],
        opacities=parts["opacities"][:, 0],
        sh0=parts["sh0"][:, None, :],
        shN=parts["shN"].reshape(n, rest, 3),
        **dict.fromkeys(mode, True),
    )
