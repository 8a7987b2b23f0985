"""The ways in which `fuzz` damages files: any bytes, or by what is known of the format."""

from __future__ import annotations

import copy
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from splat_assets_tests.formats.fuzz_files import COUNT, pack, unpack

_ABSURD = (0, 1, 2, 255, 256, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
_ODD_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2, 10**9, 10**18, 10**40, -(10**30), 1e308, 0.5, float("nan"),
    float("inf"), "", "x", "../../etc/passwd", "meta.json", "a" * 5000, [], [None], [[]], {},
    [None] * 256, [0] * 256, [1e40] * 256, [float("nan")] * 3, [1e38, -1e38, 0], {"files": []},
)  # fmt: skip
_NUMBERS = (b"nan", b"inf", b"-1", b"0", b"99999999999999999999", b"4294967296", b"1e400", b"")
_BOMB = 200 << 20  # bytes that a bomb unpacks to


# ---------------------------------------------------------------- any bytes


def any_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """Damaged one to three times, whatever they are."""
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


# ---------------------------------------------------------------- by format


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
    return gzip.compress(any_bytes(gzip.decompress(data), rng), 1, mtime=0)


def _gzip_bomb(data: bytes, rng: np.random.Generator) -> bytes:
    count = int(rng.choice([1, 10**6, 10**7, 2**32 - 1]))
    head = struct.pack("<IIIBBBB", 0x5053474E, int(rng.integers(1, 5)), count, 3, 12, 0, 0)
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH) + zeros()


def _spz_streams(data: bytes, rng: np.random.Generator) -> bytes:
    """A version 4 file whose streams unpack to something else than announced."""
    import pyarrow as pa

    n = int(rng.choice([1, COUNT, 10**6, 10**8]))
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
        value = copy.deepcopy(_ODD_VALUES[int(rng.integers(len(_ODD_VALUES)))])
        how = rng.random()
        if how < 0.75:
            holder[key] = value
        elif how < 0.9:
            del holder[key]
        elif isinstance(holder, dict):
            holder[str(rng.choice(["version", "count", "children", "lods", "uri"]))] = value
    return json.dumps(document).encode()


def _zip_json(data: bytes, rng: np.random.Generator) -> bytes:
    members = unpack(data)
    documents = [name for name in members if name.endswith("meta.json")]
    # of a streamed SOG mostly the document that describes the others
    first = [name for name in documents if name == "lod-meta.json"]
    name = first[0] if first and rng.random() < 0.7 else str(rng.choice(documents))
    if rng.random() < 0.9:
        members[name] = _odd_json(members[name], rng)
    else:
        members[name] = any_bytes(members[name], rng)
    return pack(members)


def _zip_member(data: bytes, rng: np.random.Generator) -> bytes:
    """A member damaged, missing, swapped, or of another size than the others."""
    members = unpack(data)
    names = list(members)
    name = str(rng.choice(names))
    how = int(rng.integers(6))
    if how == 0:
        del members[name]
    elif how == 1:
        members[name] = members[str(rng.choice(names))]
    elif how == 2:
        members[name] = any_bytes(members[name], rng)
    elif how == 3:
        members[name] = _picture(rng)
    elif how == 4 and name.endswith(".webp"):
        with Image.open(io.BytesIO(members[name])) as image:
            pixels = np.asarray(image.convert("RGBA")).copy()
        pixels[..., int(rng.integers(4))] = int(rng.integers(256))  # alpha: no known rotation
        members[name] = _webp(pixels)
    else:
        members[name] = b""
    return pack(members, zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED)


def _zip_bomb(data: bytes, rng: np.random.Generator) -> bytes:
    """A member that unpacks to a lot, or a picture with very many pixels and a count to match."""
    members = unpack(data)
    name = str(rng.choice(list(members)))
    if rng.random() < 0.4:
        return _with_bomb(members, name)
    count = int(rng.choice([10**6, 10**8, 16383**2]))
    for member in members:
        if member.endswith(".webp"):
            members[member] = large_picture()
        elif member.endswith("meta.json"):
            meta = json.loads(members[member])
            if "count" in meta:
                meta["count"] = count
            if isinstance(meta.get("means"), dict) and "shape" in meta["means"]:
                meta["means"]["shape"][0] = count
            members[member] = json.dumps(meta).encode()
    return pack(members)


def _picture(rng: np.random.Generator) -> bytes:
    width, height = (int(rng.choice([1, 2, 8, 192, 960, 1000])) for _ in range(2))
    return _webp(rng.integers(0, 256, (height, width, 4), dtype=np.uint8))


def _webp(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=True, exact=True, method=0)
    return buffer.getvalue()


@lru_cache(maxsize=1)
def large_picture() -> bytes:
    """36 million pixels of one colour in some bytes."""
    return _webp(np.zeros((6000, 6000, 3), np.uint8))


@lru_cache(maxsize=1)
def zeros() -> bytes:
    """A raw deflate stream of very many zeros."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    return b"".join(
        [packer.compress(bytes(1 << 20)) for _ in range(_BOMB >> 20)] + [packer.flush()]
    )


def _with_bomb(members: dict[str, bytes], victim: str) -> bytes:
    """A ZIP whose member `victim` is a deflated bomb that announces its true size."""
    data = pack({**members, victim: b""})
    packed = zeros()
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


Damage = Callable[[bytes, np.random.Generator], bytes]
_ZIPPED: tuple[Damage, ...] = (
    _zip_json,
    _zip_json,
    _zip_member,
    _zip_member,
    _zip_json,
    _zip_bomb,
)
DAMAGE: dict[str, tuple[Damage, ...]] = {
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
