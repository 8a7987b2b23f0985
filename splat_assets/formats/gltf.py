"""glTF 2.0 with KHR_gaussian_splatting, as `.glb`: activated values as attributes of points.

Scales are standard deviations, opacities lie in 0..1, quaternions are x, y, z, w, and y is up, so
reading and writing turn by 180 degrees about z. Reading places every primitive by its nodes.
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from splat_assets import __version__
from splat_assets.formats.merge import merge
from splat_assets.formats.values import (
    ABOUT_Z,
    DamagedError,
    log_sigma,
    logit,
    read_bytes,
    sigmoid,
    to_byte,
)
from splat_assets.gaussians.gaussians import SH_C0, SH_REST, Gaussians
from splat_assets.gaussians.transform import quat_to_matrix, rotate, scale, translate

EXTENSION = "KHR_gaussian_splatting"
_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_MAX_JSON = 64 << 20
_MAX_DEPTH = 64  # of nodes
_FLOAT, _UBYTE = 5126, 5121
_KINDS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}


def read_glb(path: Path) -> Gaussians:
    """Decode every splat of a `.glb`."""
    document, binary = _open(read_bytes(path))
    try:
        found = [
            _place(_primitive(document, binary, primitive), world)
            for mesh, world in _placed_meshes(document)
            for primitive in document["meshes"][mesh]["primitives"]
            if EXTENSION in primitive.get("extensions", {})
        ]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise DamagedError(f"is damaged: its JSON is not glTF ({error!r:.100})") from None
    if not found:
        raise DamagedError(f"holds no splat ({EXTENSION})")
    return rotate(merge(found), ABOUT_Z)


def encode_glb(g: Gaussians) -> bytes:
    """Encode as `.glb`, with COLOR_0 for viewers that only know points."""
    g = rotate(g, ABOUT_Z)
    opacity = sigmoid(g.opacities)
    rgb = g.sh0[:, 0].astype(np.float64) * SH_C0 + 0.5
    quats = g.quats / np.linalg.norm(g.quats, axis=1, keepdims=True)
    arrays: dict[str, np.ndarray] = {
        "POSITION": g.means,
        "COLOR_0": to_byte(np.concatenate([rgb, opacity[:, None]], axis=1) * 255),
        f"{EXTENSION}:ROTATION": np.roll(quats, -1, axis=1),
        f"{EXTENSION}:SCALE": np.exp(g.scales),
        f"{EXTENSION}:OPACITY": opacity,
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": g.sh0[:, 0],
    }
    for degree in range(1, g.sh_degree + 1):
        for i in range(2 * degree + 1):
            name = f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{i}"
            arrays[name] = g.shN[:, degree**2 - 1 + i]
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    body = bytearray()
    for name, array in arrays.items():
        is_color = array.dtype == np.uint8
        data = (array if is_color else array.astype("<f4")).tobytes()
        views.append({"buffer": 0, "byteOffset": len(body), "byteLength": len(data)})
        width = array.shape[1] if array.ndim == 2 else 1
        accessor: dict[str, Any] = {
            "bufferView": len(accessors),
            "componentType": _UBYTE if is_color else _FLOAT,
            "count": len(g),
            "type": next(kind for kind, size in _WIDTHS.items() if size == width),
        }
        if is_color:
            accessor["normalized"] = True
        if name == "POSITION":
            accessor |= {"min": array.min(axis=0).tolist(), "max": array.max(axis=0).tolist()}
        accessors.append(accessor)
        body += data
    primitive = {
        "attributes": {name: i for i, name in enumerate(arrays)},
        "mode": 0,
        "extensions": {
            EXTENSION: {
                "kernel": "ellipse",
                "colorSpace": "srgb_rec709_display",
                "sortingMethod": "cameraDistance",
                "projection": "perspective",
            }
        },
    }
    document = {
        "asset": {"version": "2.0", "generator": f"splat-assets {__version__}"},
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    chunks = _chunk(_JSON, text, b" ") + _chunk(_BIN, bytes(body), b"\0")
    return struct.pack("<III", _MAGIC, 2, 12 + len(chunks)) + chunks


def _chunk(kind: int, data: bytes, filler: bytes) -> bytes:
    data += filler * (-len(data) % 4)
    return struct.pack("<II", len(data), kind) + data


def _open(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The JSON and the binary chunk."""
    if len(data) < 20 or struct.unpack_from("<II", data) != (_MAGIC, 2):
        raise DamagedError("is not a glTF 2.0 binary (.glb)")
    size, kind = struct.unpack_from("<II", data, 12)
    if kind != _JSON or size > _MAX_JSON or 20 + size > len(data):
        raise DamagedError("is damaged: its first chunk is not complete JSON")
    try:
        document = json.loads(data[20 : 20 + size])
    except (ValueError, RecursionError):
        raise DamagedError("is damaged: its JSON cannot be read") from None
    if not isinstance(document, dict):
        raise DamagedError("is damaged: its JSON is not glTF")
    at = 20 + size
    if at + 8 > len(data):
        return document, b""
    size, kind = struct.unpack_from("<II", data, at)
    if kind != _BIN or at + 8 + size > len(data):
        raise DamagedError("is truncated: its binary chunk is not complete")
    return document, data[at + 8 : at + 8 + size]


def _placed_meshes(document: dict[str, Any]) -> list[tuple[int, np.ndarray]]:
    """(mesh, [4, 4] world matrix) of every node of the scene that has a mesh."""
    nodes = document.get("nodes", [])
    scenes = document.get("scenes")
    roots = scenes[document.get("scene", 0)]["nodes"] if scenes else range(len(nodes))
    pending = [(root, np.eye(4), 0) for root in roots]
    placed, seen = [], set()
    while pending:
        index, parent, depth = pending.pop(0)
        if index in seen or depth > _MAX_DEPTH:
            raise DamagedError("is damaged: its nodes are not a tree")
        seen.add(index)
        node = nodes[index]
        world = parent @ _matrix(node)
        if "mesh" in node:
            placed.append((int(node["mesh"]), world))
        pending += [(child, world, depth + 1) for child in node.get("children", [])]
    return placed


def _matrix(node: dict[str, Any]) -> np.ndarray:
    matrix = np.eye(4)
    try:
        if "matrix" in node:
            matrix = np.array(node["matrix"], np.float64).reshape(4, 4).T
        else:
            x, y, z, w = node.get("rotation", (0, 0, 0, 1))
            matrix[:3, :3] = quat_to_matrix(np.array([w, x, y, z], np.float64))
            matrix[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), np.float64)
            matrix[:3, 3] = node.get("translation", (0, 0, 0))
    except ValueError:
        raise DamagedError("is damaged: a node's placement is not a matrix") from None
    if not np.isfinite(matrix).all():
        raise DamagedError("is damaged: a node's placement is not finite")
    return matrix


def _place(g: Gaussians, world: np.ndarray) -> Gaussians:
    factor = float(np.cbrt(np.linalg.det(world[:3, :3])))
    if factor <= 0 or not np.allclose(
        world[:3, :3] @ world[:3, :3].T, factor**2 * np.eye(3), atol=1e-4 * factor**2
    ):
        raise DamagedError("places a splat mirrored or stretched, which Gaussians cannot follow")
    if np.array_equal(world, np.eye(4)):
        return g
    return translate(scale(rotate(g, world[:3, :3] / factor), factor), world[:3, 3])


def _primitive(document: dict[str, Any], binary: bytes, primitive: dict[str, Any]) -> Gaussians:
    inside = primitive["extensions"][EXTENSION].get("extensions")
    if inside:
        raise DamagedError(f"is packed with {next(iter(inside))}, which is not read here")
    attributes = primitive["attributes"]

    def read(name: str) -> np.ndarray:
        if name not in attributes:
            raise DamagedError(f"is damaged: a splat has no attribute {name!r}")
        return _accessor(document, binary, attributes[name])

    degrees = [
        int(match[1]) for name in attributes if (match := re.search(r":SH_DEGREE_([0-3])_", name))
    ]
    degree = max(degrees, default=0)
    means = read("POSITION")
    n = len(means)
    names = [
        f"{EXTENSION}:SH_DEGREE_{d}_COEF_{i}"
        for d in range(1, degree + 1)
        for i in range(2 * d + 1)
    ]
    arrays = {
        "means": means,
        "quats": np.roll(read(f"{EXTENSION}:ROTATION"), 1, axis=1),
        "scales": log_sigma(read(f"{EXTENSION}:SCALE")),
        "opacities": logit(read(f"{EXTENSION}:OPACITY").reshape(-1)),
        "sh0": read(f"{EXTENSION}:SH_DEGREE_0_COEF_0")[:, None, :],
        "shN": np.stack([read(name) for name in names], axis=1)
        if names
        else np.zeros((n, SH_REST[0], 3)),
    }
    if len({len(array) for array in arrays.values()}) > 1:
        raise DamagedError("is damaged: the attributes of a splat differ in length")
    fields: dict[str, Any] = {name: array.astype(np.float32) for name, array in arrays.items()}
    try:
        return Gaussians(**fields)
    except ValueError as error:
        raise DamagedError(f"is damaged: {error}") from None


def _accessor(document: dict[str, Any], binary: bytes, index: int) -> np.ndarray:
    """[count, width] float64."""
    accessor = document["accessors"][index]
    if "sparse" in accessor or "bufferView" not in accessor:
        raise DamagedError("holds sparse accessors, which are not read here")
    view = document["bufferViews"][accessor["bufferView"]]
    if view.get("buffer", 0) != 0 or "uri" in document["buffers"][0]:
        raise DamagedError("refers to other files; give one .glb that holds everything")
    count, width = accessor["count"], _WIDTHS[accessor["type"]]
    kind = np.dtype(_KINDS[accessor["componentType"]])
    stride = view.get("byteStride") or kind.itemsize * width
    first = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    numbers = (count, stride, first)
    if any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in numbers) or count == 0:
        raise DamagedError("is damaged: an accessor's numbers make no sense")
    end = first + (count - 1) * stride + kind.itemsize * width
    if stride < kind.itemsize * width or end > len(binary):
        raise DamagedError("is truncated: an accessor reaches beyond its data")
    strides = (stride, kind.itemsize)
    with np.errstate(invalid="ignore"):  # damaged values are dropped later
        raw = np.ndarray((count, width), kind, binary, first, strides).astype(np.float64)
    if not accessor.get("normalized"):
        return raw
    limit = float(np.iinfo(kind).max)
    return np.maximum(raw / limit, -1.0)
