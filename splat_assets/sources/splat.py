"""Is this file a 3D Gaussian splat? Of a `.ply` the header tells, and what it is instead.

The layout is the one of the 3DGS paper's reference code (Kerbl et al. 2023): one `vertex` element
with x, y, z, f_dc_0..2, opacity, scale_0..2, rot_0..3 and, for SH bands above 0, f_rest_*.
Other formats (compressed PLY, SOG, SPZ, `.splat`, `.ksplat`) are decoded, which also finds damage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splat_assets.errors import SourceError, UserError

HEADER_LIMIT = 64 * 1024
REQUIRED = (
    *("x", "y", "z", "opacity"),
    *(f"f_dc_{i}" for i in range(3)),
    *(f"scale_{i}" for i in range(3)),
    *(f"rot_{i}" for i in range(4)),
)
_SIZES = {
    **dict.fromkeys(("char", "uchar", "int8", "uint8"), 1),
    **dict.fromkeys(("short", "ushort", "int16", "uint16"), 2),
    **dict.fromkeys(("int", "uint", "float", "int32", "uint32", "float32"), 4),
    **dict.fromkeys(("double", "float64"), 8),
}


@dataclass(frozen=True)
class SplatHeader:
    """What the header promises."""

    num_gaussians: int
    format: str  # "ascii", "binary_little_endian", "binary_big_endian"
    num_bytes: int | None  # header and vertices together; None when it cannot be told (ascii)
    compressed: bool = False  # PlayCanvas' layout


def check_file(path: Path, name: str) -> None:
    """Check a splat file of any format, or the document of an unbundled SOG.

    Raises `SourceError`, in one sentence naming `name`, when it is damaged or something else.
    """
    if path.suffix.lower() == ".ply":
        with path.open("rb") as stream:
            if not check_splat(stream.read(HEADER_LIMIT), path.stat().st_size, name).compressed:
                return
    from splat_assets.formats.registry import read_splat

    try:
        read_splat(path)
    except UserError as error:
        raise SourceError(str(error).replace(str(path), name)) from None


def check_splat(head: bytes, size: int, name: str) -> SplatHeader:
    """Read a 3DGS header from the first `HEADER_LIMIT` bytes of a file of `size` bytes.

    Raises `SourceError`, in one sentence naming `name`, when it is not a whole 3DGS PLY.
    """
    header = read_header(head, name)
    if header.num_gaussians == 0:
        raise SourceError(f"{name} holds no Gaussians.")
    if header.num_bytes is not None and size < header.num_bytes:
        raise SourceError(
            f"{name} is cut short: its header promises {header.num_bytes} bytes "
            f"and it has {size}; copy or download it again."
        )
    return header


def is_splat(head: bytes) -> bool:
    """True when the header is a 3DGS one."""
    try:
        read_header(head, "")
    except SourceError:
        return False
    return True


def read_header(head: bytes, name: str) -> SplatHeader:
    """Parse the header; `SourceError` naming what the file is when it is no 3DGS PLY."""
    end = head.find(b"end_header")
    if not head.startswith(b"ply") or end < 0:
        raise SourceError(f"{name} is not a PLY file, or its header is damaged.")
    body = head.find(b"\n", end) + 1 or len(head)
    elements, form = _parse_lines(head[:end].decode("ascii", "replace").splitlines(), name)
    count, properties = elements.get("vertex", (0, {}))
    if "chunk" in elements and "packed_position" in properties:
        return SplatHeader(count, form, None, compressed=True)
    missing = [field for field in REQUIRED if field not in properties]
    if missing:
        kind = "a mesh" if elements.get("face", (0, {}))[0] else "a point cloud"
        raise SourceError(
            f"{name} is {kind}, not a 3D Gaussian splat: it has no {', '.join(missing[:3])}"
            f"{' and others' if len(missing) > 3 else ''}."
        )
    stride = sum(_SIZES[kind] for kind in properties.values())
    whole = None if form == "ascii" or next(iter(elements)) != "vertex" else body + count * stride
    return SplatHeader(count, form, whole)


def _parse_lines(lines: list[str], name: str) -> tuple[dict[str, tuple[int, dict[str, str]]], str]:
    """Elements as name → (count, property → type), and the format."""
    elements: dict[str, tuple[int, dict[str, str]]] = {}
    form, current = "", ""
    try:
        for line in lines[1:]:
            words = line.split()
            if not words or words[0] in ("comment", "obj_info"):
                continue
            if words[0] == "format":
                form = words[1]
            elif words[0] == "element":
                current = words[1]
                elements[current] = (int(words[2]), {})
                if elements[current][0] < 0:
                    raise ValueError(f"{words[2]} of {current}")
            elif words[0] == "property" and words[1] == "list":
                elements[current][1][words[4]] = "int"  # its length varies; only faces have one
            elif words[0] == "property":
                if words[1] not in _SIZES:
                    raise ValueError(f"type {words[1]}")
                elements[current][1][words[2]] = words[1]
            else:
                raise ValueError(f"line {line.strip()!r}")
    except (ValueError, IndexError, KeyError) as error:
        raise SourceError(f"{name} has a damaged PLY header ({error}).") from None
    if form not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise SourceError(f"{name} has an unknown PLY format {form!r}.")
    return elements, form
