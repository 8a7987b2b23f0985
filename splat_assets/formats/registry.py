"""Which splat formats there are, by name and file ending, and how each is read and written.

In memory a splat always has the axes of 3DGS files (OpenCV's: x right, y down, z ahead), whatever
the file says; every reader and writer turns it where its format has other axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splat_assets.artifacts.manifest import write_bytes_atomic
from splat_assets.errors import UserError
from splat_assets.formats.values import DamagedError
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import Progress, silent

if TYPE_CHECKING:
    from splat_assets.gaussians.ply import PlyRows

LOD_META = "lod-meta.json"  # of a streamed SOG; the name is fixed
_HEAD = 1 << 16
_FLAGS = ("antialiased", "flat")


@dataclass(frozen=True)
class Format:
    """One format. Functions are `module:name` below `splat_assets`, imported when needed."""

    name: str
    endings: tuple[str, ...]
    axes: str  # what is up and ahead in its files
    reader: str  # (path) -> Gaussians
    encoder: str | None = None  # (gaussians) -> bytes; None when it is not written
    keeps_sh: bool = True  # holds view-dependent colour
    keeps: tuple[str, ...] = ()  # the flags of `Gaussians` it can hold


FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        Format(
            "compressed-ply",
            (".compressed.ply",),
            "-y up, z ahead",
            "formats.compressed_ply:read_compressed_ply",
            "formats.compressed_ply:encode_compressed_ply",
            keeps=_FLAGS,
        ),
        Format("ply", (".ply",), "-y up, z ahead", "gaussians.ply:read_ply", "", keeps=_FLAGS),
        Format(
            "sog",
            (".sog", ".zip"),
            "-y up, z ahead",
            "compression.sog_reader:read_sog",
            "",
            keeps=_FLAGS,
        ),
        Format(
            "spz",
            (".spz",),
            "y up, -z ahead",
            "formats.spz:read_spz",
            "formats.spz:encode_spz",
            keeps=("antialiased",),
        ),
        Format(
            "splat",
            (".splat",),
            "-y up, z ahead",
            "formats.splat:read_splat_file",
            "formats.splat:encode_splat_file",
            keeps_sh=False,
        ),
        Format("ksplat", (".ksplat",), "-y up, z ahead", "formats.ksplat:read_ksplat"),
        Format(
            "glb", (".glb",), "y up, z ahead", "formats.gltf:read_glb", "formats.gltf:encode_glb"
        ),
        Format(
            "streamed-sog",
            (f"/{LOD_META}",),  # a file in a folder of its own
            "-y up, z ahead",
            "compression.streamed_reader:read_streamed",
            "",
            keeps=_FLAGS,
        ),
    )
}
READABLE = tuple(FORMATS)
WRITABLE = tuple(name for name, f in FORMATS.items() if f.encoder is not None)


def format_of(path: Path) -> Format | None:
    """The format that a path's ending (or a SOG folder) names; None for others.

    A `.ply` that exists is looked into: it may be a compressed one.
    """
    name = path.name.lower()
    if name == LOD_META or (path.is_dir() and (path / LOD_META).is_file()):
        return FORMATS["streamed-sog"]
    if path.is_dir() or name == "meta.json":
        return FORMATS["sog"]
    found = next((f for f in FORMATS.values() if f"/{name}".endswith(f.endings)), None)
    if found is not None and name.endswith(".ply") and path.is_file():
        from splat_assets.formats.compressed_ply import is_compressed_ply

        with path.open("rb") as stream:
            packed = is_compressed_ply(stream.read(_HEAD))
        return FORMATS["compressed-ply" if packed else "ply"]
    return found


def read_splat(path: Path | str) -> Gaussians:
    """Read a splat file of any format, or a SOG folder (or its `meta.json` or `lod-meta.json`).

    Raises `UserError` when it is missing, damaged, or of a kind that is not read.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist.")
    found = format_of(path)
    if found is None:
        raise UserError(
            f"{path} is not a splat that can be read here; there are {', '.join(READABLE)}."
        )
    try:
        return _function(found.reader)(path)
    except DamagedError as problem:
        raise UserError(f"{path} {problem}.") from None


def open_rows(path: Path | str) -> Gaussians | PlyRows:
    """The splat as `read_splat` gives it, or a 3DGS PLY of which only what is asked for is read.

    Raises `UserError` as `read_splat` does.
    """
    from splat_assets.gaussians.ply import PlyRows

    path = Path(path)
    found = format_of(path)
    if found is not None and found.name == "ply" and path.is_file():
        return PlyRows(path)
    return read_splat(path)


def write_splat(path: Path | str, gaussians: Gaussians, progress: Progress | None = None) -> Format:
    """Write a splat in the format that the ending of `path` names, atomically.

    SOG gets the preset `standard`; `compression.files.compress_file` has its options.

    Raises `UserError` when the ending names no format that is written, or there is nothing in it.
    """
    path = Path(path)
    found = writable_format(path)
    if not len(gaussians):
        raise UserError(f"{path} is not written: no Gaussian is left to put into it.")
    if found.name == "ply":
        from splat_assets.gaussians.ply import write_ply

        write_ply(path, gaussians)
    elif found.name == "sog":
        from splat_assets.compression.sog_bundle import write_bundle
        from splat_assets.compression.targets import encode_as_wished
        from splat_assets.datasets.options import CompressOptions

        options = CompressOptions.model_validate({"prune": False})  # a conversion keeps them all
        wished = encode_as_wished(gaussians, options, None, progress or silent())
        write_bundle(path, wished.encoded)
    elif found.name == "streamed-sog":
        from splat_assets.compression.streamed import write_streamed

        write_streamed(path, gaussians, progress=progress)
    else:
        assert found.encoder
        from splat_assets.gaussians.cleanup import clean

        write_bytes_atomic(path, _function(found.encoder)(clean(gaussians)[0]))
    return found


def writable_format(path: Path) -> Format:
    """The format in which a file of this name is written; `UserError` for other endings."""
    name = path.name.lower()
    found = next((f for f in FORMATS.values() if f"/{name}".endswith(f.endings)), None)
    if found is None or found.encoder is None:
        endings = ", ".join(FORMATS[n].endings[0].lstrip("/") for n in WRITABLE)
        raise UserError(f"{path} names no format that is written here; there are {endings}.")
    return found


def _function(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    return getattr(import_module(f"splat_assets.{module}"), function)
