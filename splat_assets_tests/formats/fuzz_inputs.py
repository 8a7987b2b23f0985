"""The inputs of `fuzz`: small valid splat files, and the many ways in which they are damaged.

Input `number` of a seed is always the same bytes, so a failure can be looked at again:
`damaged_input(seeds(), seed, number, folder)`.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from splat_assets_tests.compression.splats import random_splat

_COUNT = 30  # Gaussians in a valid file
_ABSURD = (0, 1, 2, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 10**9, 10**18, 10**40, -(10**30), 1e308, 0.5, float("nan"),
    float("inf"), "", "x", "../../etc/passwd", "meta.json", "a" * 5000, [], [None], [[]], {},
    [None] * 256, [0] * 256, [1e40] * 256, [float("nan")] * 3, [1e38, -1e38, 0], {"files": []},
)  # fmt: skip
_NUMBERS = (b"nan", b"inf", b"-1", b"0", b"99999999999999999999", b"4294967296", b"1e400", b"")
_BOMB = 200 << 20  # bytes that a bomb unpacks to


@lru_cache(maxsize=1)
def seeds() -> dict[str, list[bytes]]:
    """Valid files by kind of damage they are for."""
    _zeros(), _large_picture()  # now: making them takes time and memory that reading must not
    with tempfile.TemporaryDirectory(prefix="splat-assets-fuzz-") as folder:
        return _make_seeds(Path(folder))


def damaged_input(
    known: dict[str, list[bytes]], seed: int, number: int, folder: Path
) -> tuple[str, Path]:
    """Writes input `number` below `folder`; returns its format and path."""
    rng = np.random.default_rng((seed, number))
    name = list(known)[number % len(known)]
    data = known[name][int(rng.integers(len(known[name])))]
    damage = _DAMAGE.get(name, ())
    own = bool(damage) and rng.random() < 0.6
    how = damage[int(rng.integers(len(damage)))] if own else _any_bytes
    broken = how(data, rng)
    if name.startswith("streamed"):
        return name, _unpack_folder(broken, folder / "streamed", rng)
    path = folder / f"a{_ENDINGS[name]}"
    path.write_bytes(broken)
    return name, path


# ---------------------------------------------------------------- valid files


def _make_seeds(folder: Path) -> dict[str, list[bytes]]:
    from splat_assets.formats.registry import write_splat
    from splat_assets_tests.formats.test_formats import _ksplat

    made: dict[str, list[bytes]] = {name: [] for name in _ENDINGS}
    for degree in range(4):
        g = random_splat(_COUNT, degree, seed=degree, antialiased=degree == 1)
        for name in ("ply", "compressed-ply", "spz", "splat", "glb"):
            path = folder / f"a{_ENDINGS[name]}"
            write_splat(path, g)
            made[name].append(path.read_bytes())
        made["sog"].append(_sog(degree))
        made["sog-v1"].append(_sog_v1(degree))
        made["ply-ascii"].append(_ascii_ply(made["ply"][-1]))
        made["spz-gzip"].append(_old_spz(degree))
        made["ksplat"] += [_ksplat(level, degree, _COUNT) for level in range(3)]
        made["streamed"].append(_streamed(degree, folder))
    return made


_ENDINGS = {
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


def _sog(degree: int) -> bytes:
    from splat_assets.compression.sog_writer import SogOptions, bundle_bytes, encode_sog

    return bundle_bytes(encode_sog(random_splat(_COUNT, degree), SogOptions(palette_size=64)))


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
    return _zip(members)


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
    head = struct.pack("<IIIBBBB", 0x5053474E, version, _COUNT, degree, 12, 1, 0)
    body = rng.bytes(_COUNT * (9 + 1 + 3 + 3 + 3 + 3 * rest))
    return gzip.compress(head + body, mtime=0)


def _streamed(degree: int, folder: Path) -> bytes:
    """A streamed SOG as a stored ZIP, to be damaged as one and unpacked."""
    from splat_assets.compression.precision import Precision
    from splat_assets.compression.streamed import StreamOptions, write_streamed

    target = folder / f"streamed{degree}"
    options = StreamOptions(chunk=40, levels=2, precision=Precision())
    write_streamed(target / "lod-meta.json", random_splat(60, degree), options)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    return _zip({path.relative_to(target).as_posix(): path.read_bytes() for path in files})


# ---------------------------------------------------------------- damage to any bytes


def _any_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    for _ in range(int(rng.integers(1, 4))):
        data = _BYTE_DAMAGE[int(rng.integers(len(_BYTE_DAMAGE)))](data, rng)
    return data


def _place(data: bytes, rng: np.random.Generator, width: int = 1) -> int:
    """Somewhere; mostly near the start or the end, where headers and directories are."""
    last = max(1, len(data) - width + 1)
    near = min(last, 128)
    where = rng.random()
    if where < 0.4:
        return int(rng.integers(near))
    return int(rng.integers(last - near, last) if where < 0.6 else rng.integers(last))


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: _place(data, rng)]


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    broken = bytearray(data)
    for _ in range(int(rng.integers(1, 9)) if broken else 0):
        broken[_place(data, rng)] ^= 1 << int(rng.integers(8))
    return bytes(broken)


def _noise(data: bytes, rng: np.random.Generator) -> bytes:
    at, width = _place(data, rng), int(rng.integers(1, 65))
    return data[:at] + rng.bytes(width) + data[at + width :]


def _number(data: bytes, rng: np.random.Generator) -> bytes:
    """An absurd integer or float in the place of another."""
    kind = int(rng.integers(4))
    if kind == 3:
        value = struct.pack("<f", rng.choice([np.nan, np.inf, -np.inf, 1e38, 0.0, -1.0]))
    else:
        number = _ABSURD[int(rng.integers(len(_ABSURD)))]
        size, code = ((2, "<H"), (4, "<I"), (8, "<Q"))[kind]
        value = struct.pack(code, number % (1 << 8 * size))
    at = _place(data, rng, len(value))
    if rng.random() < 0.7:
        at -= at % min(4, len(value))
    return data[:at] + value + data[at + len(value) :]


def _cut_out(data: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.integers(1, 200)) :]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    at, width = _place(data, rng), int(rng.integers(1, 200))
    return data[:at] + data[at : at + width] * int(rng.integers(2, 20)) + data[at + width :]


def _extend(data: bytes, rng: np.random.Generator) -> bytes:
    return data + (bytes(int(rng.integers(1, 500))) if rng.random() < 0.5 else rng.bytes(100))


def _nothing_or_noise(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: int(rng.integers(17))] + rng.bytes(int(rng.integers(300)))


_BYTE_DAMAGE = (
    _truncate, _flip, _flip, _noise, _number, _number, _cut_out, _repeat, _extend,
    _nothing_or_noise,
)  # fmt: skip


# ---------------------------------------------------------------- damage that knows the format


def _ply_header(data: bytes, rng: np.random.Generator) -> bytes:
    """Another word in the place of one in the header."""
    head, mark, body = data.partition(b"end_header")
    lines = head.split(b"\n")
    i = int(rng.integers(len(lines)))
    words = lines[i].split(b" ")
    choices = (*_NUMBERS, b"list", b"double", b"uchar", b"float", b"vertex", b"f_rest_44", b"x",
               b"chunk", b"sh", b"ascii", b"binary_big_endian", b"packed_position")  # fmt: skip
    word = choices[int(rng.integers(len(choices)))]
    how = rng.random()
    if how < 0.6:
        words[int(rng.integers(len(words)))] = word
        lines[i] = b" ".join(words)
    elif how < 0.7:
        del lines[i]
    elif how < 0.8:
        lines.insert(i, lines[int(rng.integers(len(lines)))])
    elif how < 0.9:
        lines.insert(i, b"element " + word + b" " + _NUMBERS[int(rng.integers(len(_NUMBERS)))])
    else:
        rng.shuffle(lines)
    return b"\n".join(lines) + mark + body


def _ascii_body(data: bytes, rng: np.random.Generator) -> bytes:
    head, mark, body = data.partition(b"end_header\n")
    words = body.split(b" ")
    for _ in range(int(rng.integers(1, 5))):
        words[int(rng.integers(len(words)))] = _NUMBERS[int(rng.integers(len(_NUMBERS)))]
    return head + mark + b" ".join(words)


def _float_body(data: bytes, rng: np.random.Generator) -> bytes:
    """NaN, infinities and zero quaternions in rows of floats."""
    head, mark, body = data.partition(b"end_header\n")
    numbers = np.frombuffer(body[: len(body) // 4 * 4], "<f4").copy()
    odd = np.array([np.nan, np.inf, -np.inf, 0, 1e38, -1e38, 1e-40], "<f4")
    if len(numbers):
        where = rng.integers(0, len(numbers), int(rng.integers(1, len(numbers) + 1)))
        numbers[where] = rng.choice(odd, len(where))
    return head + mark + numbers.tobytes()


def _gunzipped(data: bytes, rng: np.random.Generator) -> bytes:
    return gzip.compress(_any_bytes(gzip.decompress(data), rng), 1, mtime=0)


def _gzip_bomb(data: bytes, rng: np.random.Generator) -> bytes:
    count = int(rng.choice([1, 10**6, 10**7, 2**32 - 1]))
    head = struct.pack("<IIIBBBB", 0x5053474E, int(rng.integers(1, 5)), count, 3, 12, 0, 0)
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH) + _zeros()


def _spz_streams(data: bytes, rng: np.random.Generator) -> bytes:
    """A version 4 file whose streams unpack to something else than announced."""
    import pyarrow as pa

    n = int(rng.choice([1, _COUNT, 10**6, 10**8]))
    codec = pa.Codec("zstd")
    sizes = [9 * n, n, 3 * n, 3 * n, 4 * n]
    raws = [bytes(int(rng.choice([0, 1, 10**5, 10**7]))) for _ in sizes]
    packed = [codec.compress(raw, asbytes=True) for raw in raws]
    toc = b"".join(struct.pack("<QQ", len(p), s) for p, s in zip(packed, sizes, strict=True))
    head = struct.pack("<IIIBBBBI12x", 0x5053474E, 4, n, 0, 12, 0, len(sizes), 32)
    return head + toc + b"".join(packed)


def _glb_json(data: bytes, rng: np.random.Generator) -> bytes:
    size = struct.unpack_from("<I", data, 12)[0]
    text = _odd_json(data[20 : 20 + size], rng)
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), 0x4E4F534A) + text + data[20 + size :]
    return struct.pack("<III", 0x46546C67, 2, 12 + len(body)) + body


def _odd_json(text: bytes, rng: np.random.Generator) -> bytes:
    """JSON with one to three entries replaced, removed or added."""
    document = json.loads(text)
    for _ in range(int(rng.integers(1, 4))):
        spots: list[tuple[Any, Any]] = []
        pending: list[Any] = [document]
        while pending:
            at = pending.pop()
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            # long lists of numbers would be hit nearly always
            for key in keys if len(keys) < 64 else [keys[0], keys[-1]]:
                spots.append((at, key))
                if isinstance(at[key], dict | list):
                    pending.append(at[key])
        if not spots:
            break
        holder, key = spots[int(rng.integers(len(spots)))]
        value = _ODD_VALUES[int(rng.integers(len(_ODD_VALUES)))]
        how = rng.random()
        if how < 0.75:
            holder[key] = value
        elif how < 0.9:
            del holder[key]
        elif isinstance(holder, dict):
            holder[str(rng.choice(["version", "count", "children", "lods", "uri"]))] = value
    return json.dumps(document).encode()


def _zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as bundle:
        for name, data in members.items():
            bundle.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def _members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def _zip_json(data: bytes, rng: np.random.Generator) -> bytes:
    members = _members(data)
    documents = [name for name in members if name.endswith("meta.json")]
    # of a streamed SOG mostly the document that describes the others
    first = [name for name in documents if name == "lod-meta.json"]
    name = first[0] if first and rng.random() < 0.7 else str(rng.choice(documents))
    if rng.random() < 0.9:
        members[name] = _odd_json(members[name], rng)
    else:
        members[name] = _any_bytes(members[name], rng)
    return _zip(members)


def _zip_member(data: bytes, rng: np.random.Generator) -> bytes:
    """A member damaged, missing, swapped, or of another size than the others."""
    members = _members(data)
    names = list(members)
    name = str(rng.choice(names))
    how = int(rng.integers(6))
    if how == 0:
        del members[name]
    elif how == 1:
        members[name] = members[str(rng.choice(names))]
    elif how == 2:
        members[name] = _any_bytes(members[name], rng)
    elif how == 3:
        members[name] = _picture(rng)
    elif how == 4 and name.endswith(".webp"):
        with Image.open(io.BytesIO(members[name])) as image:
            pixels = np.asarray(image.convert("RGBA")).copy()
        pixels[..., int(rng.integers(4))] = int(rng.integers(256))  # alpha: no known rotation
        members[name] = _webp(pixels)
    else:
        members[name] = b""
    return _zip(members, zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED)


def _zip_bomb(data: bytes, rng: np.random.Generator) -> bytes:
    """A member that unpacks to a lot, or a picture with very many pixels and a count to match."""
    members = _members(data)
    name = str(rng.choice(list(members)))
    if rng.random() < 0.4:
        return _with_bomb(members, name)
    count = int(rng.choice([10**6, 10**8, 16383**2]))
    for member in members:
        if member.endswith(".webp"):
            members[member] = _large_picture()
        elif member.endswith("meta.json"):
            meta = json.loads(members[member])
            if "count" in meta:
                meta["count"] = count
            if isinstance(meta.get("means"), dict) and "shape" in meta["means"]:
                meta["means"]["shape"][0] = count
            members[member] = json.dumps(meta).encode()
    return _zip(members)


def _picture(rng: np.random.Generator) -> bytes:
    width, height = (int(rng.choice([1, 2, 8, 192, 960, 1000])) for _ in range(2))
    return _webp(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))


def _webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exact=True, method=0)
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _large_picture() -> bytes:
    """36 million pixels of one colour in some bytes."""
    return _webp(np.zeros((6000, 6000, 3), np.uint8))


@lru_cache(maxsize=1)
def _zeros() -> bytes:
    """A raw deflate stream of very many zeros."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return b"".join(
        [packer.compress(bytes(1 << 20)) for _ in range(_BOMB >> 20)] + [packer.flush()]
    )


def _with_bomb(members: dict[str, bytes], victim: str) -> bytes:
    """A ZIP whose member `victim` is a deflated bomb that announces its true size."""
    data = _zip({**members, victim: b""})
    packed = _zeros()
    # written by hand, because packing that much takes a second each time
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        names = bundle.namelist()
    out, entries = bytearray(), bytearray()
    for name in names:
        raw = packed if name == victim else members[name]
        size = _BOMB if name == victim else len(raw)
        method = 8 if name == victim else 0
        crc = 0 if name == victim else zlib.crc32(raw)
        fields = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 33, crc, len(raw), size, len(name), 0)
        entries += struct.pack("<IH", 0x02014B50, 20) + fields
        entries += struct.pack("<HHHII", 0, 0, 0, 0, len(out)) + name.encode()
        out += struct.pack("<I", 0x04034B50) + fields + name.encode() + raw
    end = struct.pack(
        "<IHHHHIIH", 0x06054B50, 0, 0, len(names), len(names), len(entries), len(out), 0
    )
    return bytes(out + entries + end)


_Damage = Callable[[bytes, np.random.Generator], bytes]
_ZIPPED: tuple[_Damage, ...] = (
    _zip_json,
    _zip_json,
    _zip_member,
    _zip_member,
    _zip_json,
    _zip_bomb,
)
_DAMAGE: dict[str, tuple[_Damage, ...]] = {
    "ply": (_ply_header, _ply_header, _float_body),
    "ply-ascii": (_ply_header, _ascii_body),
    "compressed-ply": (_ply_header, _float_body),
    "sog": _ZIPPED,
    "sog-v1": _ZIPPED,
    "spz": (_spz_streams,),
    "spz-gzip": (_gunzipped, _gunzipped, _gunzipped, _gunzipped, _gzip_bomb),
    "glb": (_glb_json,),
    "streamed": (_zip_json, _zip_json, _zip_member),
}


def _unpack_folder(data: bytes, folder: Path, rng: np.random.Generator) -> Path:
    """The members of a damaged ZIP as files; where it cannot be opened, noise as the document."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        members = _members(data)
    except Exception:
        members = {"lod-meta.json": data[:4000]}
    for name, content in members.items():
        path = folder / name
        if path.resolve().is_relative_to(folder.resolve()) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder / "lod-meta.json"
