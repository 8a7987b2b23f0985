"""Read SOG: v2 as one `.sog` file or a folder, and the older v1 (Python `sogs`) folders.

Files come from anywhere, so everything is checked against everything else before memory is taken;
what is wrong ends in one sentence.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, WebPImagePlugin

from splat_assets.compression.quantize import dequantize_means, unpack_quats
from splat_assets.errors import UserError
from splat_assets.formats.values import logit_of_byte
from splat_assets.gaussians.gaussians import SH_REST, Gaussians

assert WebPImagePlugin  # otherwise Pillow loads all the formats it knows to find this one
META = "meta.json"
_MAX_META = 16 << 20
_MAX_MEMBER = 2 << 30
_MAX_SIDE = 16383  # of a WebP image
_PALETTE_COLUMNS = 64
# Positions of more Gaussians than this need some bytes each; pictures have hardly more pixels than
# Gaussians, and members are hardly packed. What goes beyond is a bomb.
_PLAIN_COUNT, _MAX_PER_BYTE = 1 << 20, 64
_MAX_SPARE = 16
_SMALL_MEMBER, _MAX_PACKING = 1 << 22, 32

_BLOCK = 1 << 18  # Gaussians worked on at a time

ReadMember = Callable[[str, int], bytes]  # name, most bytes allowed


class _DamagedError(Exception):
    """What is wrong with the file, as the end of a sentence that begins with its name."""


def read_sog(path: Path | str) -> Gaussians:
    """Decode a `.sog` file, or a folder (or its `meta.json`), of version 1 or 2.

    Raises `UserError` in one sentence when it is missing, damaged or something else.
    """
    path = Path(path)
    try:
        with _open_members(path) as read:
            meta = _read_meta(read)
            if meta.get("version", 1) == 2:
                return _read_v2(meta, read)
            if "version" not in meta:
                return _read_v1(meta, read)
            raise _DamagedError(f"has SOG version {_shown(meta['version'])}; 1 and 2 can be read")
    except _DamagedError as problem:
        raise UserError(f"{path} {problem}.") from None
    except FileNotFoundError as error:
        missing = error.filename or path
        raise UserError(f"{path} cannot be read: {missing} does not exist.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


def decode_members(files: Mapping[str, bytes]) -> Gaussians:
    """Decode the members of a SOG file of version 2 that were just encoded."""

    def read(name: str, limit: int) -> bytes:
        return files[name]

    return _read_v2(_read_meta(read), read)


def read_sog_meta(path: Path | str) -> dict[str, Any]:
    """The `meta.json` of a SOG file or folder; errors as `read_sog`."""
    path = Path(path)
    try:
        with _open_members(path) as read:
            return _read_meta(read)
    except _DamagedError as problem:
        raise UserError(f"{path} {problem}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None


class _open_members:  # noqa: N801 (a context manager used like a function)
    """Access to the members of a bundle or folder by name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._zip: zipfile.ZipFile | None = None

    def __enter__(self) -> ReadMember:
        path = self._path
        if path.is_dir() or path.name == META:
            folder = path if path.is_dir() else path.parent
            return lambda name, limit: _read_file(folder, name, limit)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            raise _DamagedError("is not a SOG file: it is not a complete ZIP archive") from None
        bundle = self._zip
        return lambda name, limit: _read_zip(bundle, name, limit)

    def __exit__(self, *_: object) -> None:
        if self._zip is not None:
            self._zip.close()


def _read_file(folder: Path, name: str, limit: int) -> bytes:
    if Path(name).name != name:
        raise _DamagedError(f"names a file outside its folder: {name!r}")
    path = folder / name
    if not path.is_file():
        raise _DamagedError(f"is incomplete: {name} is missing")
    if path.stat().st_size > limit:
        raise _DamagedError(f"holds {name} with more than {limit} bytes")
    return path.read_bytes()


def _read_zip(bundle: zipfile.ZipFile, name: str, limit: int) -> bytes:
    try:
        info = bundle.getinfo(name)
    except KeyError:
        raise _DamagedError(f"is incomplete: {name} is missing") from None
    most = min(limit, max(_SMALL_MEMBER, _MAX_PACKING * info.compress_size))
    if info.file_size > most:
        raise _DamagedError(f"holds {name} with more than {most} bytes")
    try:
        # read one byte past the promised size at most: a bomb's header lies
        with bundle.open(info) as stream:
            data = stream.read(info.file_size + 1)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise _DamagedError(f"is damaged: {name} cannot be unpacked") from None
    except Exception as error:  # zlib.error has no common base
        raise _DamagedError(f"is damaged: {name} cannot be unpacked ({error})") from None
    if len(data) != info.file_size:
        raise _DamagedError(f"is damaged: {name} is truncated")
    return data


def _read_meta(read: ReadMember) -> dict[str, Any]:
    try:
        meta = json.loads(read(META, _MAX_META).decode("utf-8"))
    except (ValueError, RecursionError):
        raise _DamagedError(f"is damaged: {META} is not valid JSON") from None
    if not isinstance(meta, dict) or not isinstance(meta.get("means"), dict):
        raise _DamagedError(f"is not SOG: {META} does not describe a splat")
    return meta


def _read_v2(meta: dict[str, Any], read: ReadMember) -> Gaussians:
    count = _integer(meta, "count", 1, _MAX_SIDE**2)
    means = _positions(meta, read, count)
    quats = unpack_quats(_texels(read, _files(meta, "quats", 1)[0], count, 4))
    scales = _codebook(meta, "scales")[_texels(read, _files(meta, "scales", 1)[0], count, 3)]
    sh0 = _texels(read, _files(meta, "sh0", 1)[0], count, 4)
    shN = np.zeros((count, 0, 3), np.float32)
    if meta.get("shN"):
        shN = _read_sh_v2(meta, read, count)
    return Gaussians(
        means=means,
        quats=quats,
        scales=scales,
        opacities=logit_of_byte(sh0[:, 3]),
        sh0=_codebook(meta, "sh0")[sh0[:, :3]][:, None, :],
        shN=shN,
        antialiased=meta.get("model") == "antialiased" or meta.get("antialias") is True,
        flat=meta.get("model") == "2dgs",
    )


def _read_sh_v2(meta: dict[str, Any], read: ReadMember, count: int) -> np.ndarray:
    entry = _mapping(meta, "shN")
    coefficients = SH_REST[_integer(entry, "bands", 1, 3)]
    size = _integer(entry, "count", 1, 65536)
    centroids_name, labels_name = _files(meta, "shN", 2)
    codes = _palette(read, centroids_name, coefficients)
    labels = _labels(read, labels_name, count, min(size, len(codes)))
    return _codebook(meta, "shN")[codes[labels]]


def _read_v1(meta: dict[str, Any], read: ReadMember) -> Gaussians:
    shape = meta["means"].get("shape")
    count = _integer({"count": shape[0] if isinstance(shape, list) and shape else None}, "count",
                     1, _MAX_SIDE**2)  # fmt: skip
    means = _positions(meta, read, count)
    if _mapping(meta, "quats").get("encoding") != "quaternion_packed":
        raise _DamagedError(
            "has an older rotation encoding than SOG 1; only quaternion_packed is read"
        )
    scales = _linear(meta, "scales", _texels(read, _files(meta, "scales", 1)[0], count, 3))
    sh0 = _linear(meta, "sh0", _texels(read, _files(meta, "sh0", 1)[0], count, 4))
    shN = np.zeros((count, 0, 3), np.float32)
    if meta.get("shN"):
        entry = _mapping(meta, "shN")
        shape = entry.get("shape")
        columns = shape[-1] if isinstance(shape, list) and shape else None
        coefficients = columns // 3 if isinstance(columns, int) else 0
        if coefficients not in (3, 8, 15):
            raise _DamagedError(f"is damaged: {_shown(columns)} is no number of SH coefficients")
        centroids_name, labels_name = _files(meta, "shN", 2)
        codes = _palette(read, centroids_name, coefficients)
        labels = _labels(read, labels_name, count, len(codes))
        least, most = _vector(entry, "mins", 1), _vector(entry, "maxs", 1)
        shN = (least + (most - least) * (codes / 255.0)).astype(np.float32)[labels]
    return Gaussians(
        means=means,
        quats=unpack_quats(_texels(read, _files(meta, "quats", 1)[0], count, 4)),
        scales=scales,
        opacities=np.ascontiguousarray(sh0[:, 3]),
        sh0=np.ascontiguousarray(sh0[:, None, :3]),
        shN=shN,
    )


def _positions(meta: dict[str, Any], read: ReadMember, count: int) -> np.ndarray:
    """[count, 3] float32."""
    names = _files(meta, "means", 2)
    mins, maxs = _vector(meta["means"], "mins", 3), _vector(meta["means"], "maxs", 3)
    packed = sum(len(read(name, _MAX_MEMBER)) for name in names)
    if count > max(_PLAIN_COUNT, _MAX_PER_BYTE * packed):
        raise _DamagedError(f"is damaged: {packed} bytes cannot hold the places of {count}")
    low, high = (_texels(read, name, count, 3) for name in names)
    values = (high.astype(np.uint16) << 8) | low
    means = np.empty((count, 3), np.float32)
    for first in range(0, count, _BLOCK):  # it is done in float64
        block = slice(first, first + _BLOCK)
        means[block] = dequantize_means(values[block], mins, maxs)
    return means


def _linear(meta: dict[str, Any], key: str, texels: np.ndarray) -> np.ndarray:
    width = texels.shape[1]
    mins = _vector(_mapping(meta, key), "mins", width)
    maxs = _vector(_mapping(meta, key), "maxs", width)
    return (mins + (maxs - mins) * (texels / 255.0)).astype(np.float32)


def _image(read: ReadMember, name: str, count: int) -> np.ndarray:
    """[H, W, 4] uint8, of not many more than `count` pixels."""
    data = read(name, _MAX_MEMBER)
    try:
        with Image.open(io.BytesIO(data), formats=("WEBP", "PNG")) as image:
            width, height = image.size
            if width * height > max(_PLAIN_COUNT, _MAX_SPARE * count):
                raise _DamagedError(f"is damaged: {name} has {width} x {height} pixels")
            return np.asarray(image.convert("RGBA"))
    except _DamagedError:
        raise
    except Exception as error:  # Pillow raises many kinds for damaged files
        detail = str(error).partition("<")[0].strip()
        raise _DamagedError(f"is damaged: {name} is not a readable image ({detail})") from None


def _texels(read: ReadMember, name: str, count: int, channels: int) -> np.ndarray:
    pixels = _image(read, name, count).reshape(-1, 4)
    if len(pixels) < count:
        raise _DamagedError(f"is damaged: {name} holds {len(pixels)} of {count} Gaussians")
    return pixels[:count, :channels]


def _palette(read: ReadMember, name: str, coefficients: int) -> np.ndarray:
    """[entries, C, 3] bytes."""
    pixels = _image(read, name, 1)
    if pixels.shape[1] != _PALETTE_COLUMNS * coefficients:
        raise _DamagedError(
            f"is damaged: {name} is {pixels.shape[1]} wide, not {_PALETTE_COLUMNS * coefficients}"
        )
    return pixels[..., :3].reshape(-1, coefficients, 3)


def _labels(read: ReadMember, name: str, count: int, size: int) -> np.ndarray:
    texels = _texels(read, name, count, 2)
    labels = texels[:, 0].astype(np.int64) | (texels[:, 1].astype(np.int64) << 8)
    if labels.max() >= size:
        raise _DamagedError(f"is damaged: {name} refers to entry {labels.max()} of {size}")
    return labels


def _mapping(meta: dict[str, Any], key: str) -> dict[str, Any]:
    entry = meta.get(key)
    if not isinstance(entry, dict):
        raise _DamagedError(f"is damaged: {META} has no {key!r}")
    return entry


def _files(meta: dict[str, Any], key: str, count: int) -> list[str]:
    files = _mapping(meta, key).get("files")
    if not isinstance(files, list) or len(files) < count:
        raise _DamagedError(f"is damaged: {META} names no files for {key!r}")
    if not all(isinstance(n, str) and n.isprintable() and len(n) < 256 for n in files):
        raise _DamagedError(f"is damaged: {META} names no files for {key!r}")
    return files[:count]


def _integer(entry: dict[str, Any], key: str, least: int, most: int) -> int:
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        what = f"{key} is {_shown(value)}, not a number from {least} to {most}"
        raise _DamagedError(f"is damaged: {what}")
    return value


def _vector(entry: dict[str, Any], key: str, length: int) -> np.ndarray:
    """[length] float64, finite."""
    value = entry.get(key)
    try:
        vector = np.atleast_1d(np.asarray(value, np.float64))
    except (TypeError, ValueError):
        vector = np.zeros(0)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise _DamagedError(f"is damaged: {key} does not hold {length} finite numbers")
    return vector


def _codebook(meta: dict[str, Any], key: str) -> np.ndarray:
    """[256] float32. A null at index 0, which one encoder wrote, takes the step from the next two;
    other entries that are not finite are an error."""
    values = _mapping(meta, key).get("codebook")
    if not isinstance(values, list) or len(values) != 256:
        raise _DamagedError(f"is damaged: the codebook of {key!r} does not hold 256 numbers")
    if values[0] is None and isinstance(values[1], int | float):
        last = values[255] if isinstance(values[255], int | float) else values[1]
        values = [values[1] + (values[1] - last) / 255, *values[1:]]
    return _vector({"codebook": values}, "codebook", 256).astype(np.float32)


def _shown(value: object) -> str:
    """What a file holds in the place of something else, not at length."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
