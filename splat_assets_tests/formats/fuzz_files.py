"""Small valid splat files of every format that is read, for `fuzz` to damage."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from splat_assets_tests.compression.splats import random_splat

COUNT = 30  # Gaussians in a valid file
ENDINGS = {
    "ply": ".ply",
    "ply-ascii": ".ply",
    "compressed-ply": ".compressed.ply",
    "sog": ".sog",
    "sog-v1": ".sog",
    "spz": ".spz",
    "spz-gzip": ".spz",
    "splat": ".splat",
    "ksplat": ".ksplat",
    "glb": ".glb",
    "streamed": "",
}


def valid_files(folder: Path) -> dict[str, list[bytes]]:
    """By kind of damage they are for, the keys of `ENDINGS`; made below `folder`."""
    from splat_assets.formats.registry import write_splat
    from splat_assets_tests.formats.test_formats import _ksplat

    made: dict[str, list[bytes]] = {name: [] for name in ENDINGS}
    for degree in range(4):
        g = random_splat(COUNT, degree, seed=degree, antialiased=degree == 1)
        for name in ("ply", "compressed-ply", "spz", "splat", "glb"):
            path = folder / f"a{ENDINGS[name]}"
            write_splat(path, g)
            made[name].append(path.read_bytes())
        made["sog"].append(_sog(degree))
        made["sog-v1"].append(_sog_v1(degree))
        made["ply-ascii"].append(_ascii_ply(made["ply"][-1]))
        made["spz-gzip"].append(_old_spz(degree))
        made["ksplat"] += [_ksplat(level, degree, COUNT) for level in range(3)]
        made["streamed"].append(_streamed(degree, folder))
    return made


def _sog(degree: int) -> bytes:
    from splat_assets.compression.sog_bundle import bundle_bytes
    from splat_assets.compression.sog_writer import SogOptions, encode_sog

    return bundle_bytes(encode_sog(random_splat(COUNT, degree), SogOptions(palette_size=64)))


def _sog_v1(degree: int) -> bytes:
    """The older layout, bundled, made from the images of the newer one."""
    with zipfile.ZipFile(io.BytesIO(_sog(degree))) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    new = json.loads(members["meta.json"])
    n = new["count"]
    span = {"mins": [-5.0] * 3, "maxs": [1.0] * 3}
    meta: dict[str, Any] = {
        "means": {"shape": [n, 3], "dtype": "float32", **new["means"]},
        "scales": {"shape": [n, 3], **span, "files": ["scales.webp"]},
        "quats": {"shape": [n, 4], "encoding": "quaternion_packed", "files": ["quats.webp"]},
        "sh0": {"shape": [n, 1, 4], "mins": [-3] * 4, "maxs": [3] * 4, "files": ["sh0.webp"]},
    }
    if degree:
        columns = 3 * ((degree + 1) ** 2 - 1)
        shape = {"shape": [n, columns], "mins": -1.0, "maxs": 1.0, "quantization": 8}
        meta["shN"] = {**shape, "files": new["shN"]["files"]}
    members["meta.json"] = json.dumps(meta).encode()
    return pack(members)


def _ascii_ply(binary: bytes) -> bytes:
    head, _, body = binary.partition(b"end_header\n")
    width = head.count(b"property float")
    rows = np.frombuffer(body, "<f4").reshape(-1, width)
    text = "\n".join(" ".join(f"{v:.6g}" for v in row) for row in rows)
    head = head.replace(b"binary_little_endian", b"ascii")
    return head + b"end_header\n" + text.encode() + b"\n"


def _old_spz(degree: int, version: int = 2) -> bytes:
    rng = np.random.default_rng(degree)
    rest = (degree + 1) ** 2 - 1
    head = struct.pack("<IIIBBBB", 0x5053474E, version, COUNT, degree, 12, 1, 0)
    body = rng.bytes(COUNT * (9 + 1 + 3 + 3 + 3 + 3 * rest))
    return gzip.compress(head + body, mtime=0)


def _streamed(degree: int, folder: Path) -> bytes:
    """A streamed SOG as a stored ZIP, to be damaged as one and unpacked."""
    from splat_assets.compression.precision import Precision
    from splat_assets.compression.streamed import StreamOptions, write_streamed

    target = folder / f"streamed{degree}"
    options = StreamOptions(chunk=40, levels=2, precision=Precision())
    write_streamed(target / "lod-meta.json", random_splat(60, degree), options)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return pack({path.relative_to(target).as_posix(): path.read_bytes() for path in files})


def pack(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A ZIP, the same bytes each time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as bundle:
        for name, data in members.items():
            bundle.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def unpack(data: bytes) -> dict[str, bytes]:
    """The members of a ZIP."""
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}
