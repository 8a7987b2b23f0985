"""Reading a COLMAP model that somebody else wrote.

pycolmap trusts the counts in binary files: one that was cut short keeps it reading past the end,
for hours or with zeros for cameras. So the lengths are checked first.
Format: colmap.github.io, "Output Format"; `frames.bin` as in `src/colmap/scene` since 3.12.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pycolmap

_POSE = 7 * 8  # quaternion and translation, float64


class _Cursor:
    """A position in a file's bytes that never leaves them."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, layout: str) -> int:
        """Read one little-endian number."""
        at = self._at
        self.skip(struct.calcsize(f"<{layout}"))
        return int(struct.unpack_from(f"<{layout}", self._data, at)[0])

    def skip(self, count: int) -> None:
        if count > self.left:
            raise ValueError("it ends early")
        self._at += count

    def skip_text(self) -> None:
        """To behind the next zero byte."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            raise ValueError("it ends early")
        self._at = end + 1


def read_model(folder: Path) -> pycolmap.Reconstruction:
    """The model in `folder`, binary or text. Raises `ValueError` with the reason if damaged."""
    for name, skip_entry in _ENTRIES.items():
        path = folder / f"{name}.bin"
        if path.exists():
            try:
                _check_length(path.read_bytes(), skip_entry)
            except ValueError as error:
                raise ValueError(f"{path.name}: {error}") from None
    try:
        return pycolmap.Reconstruction(str(folder))
    except (RuntimeError, ValueError, OSError, IndexError) as error:
        raise ValueError(" ".join(str(error).split())[:120]) from None


def _check_length(data: bytes, skip_entry: Callable[[_Cursor], None]) -> None:
    cursor = _Cursor(data)
    for _ in range(cursor.take("Q")):
        skip_entry(cursor)
    if cursor.left:
        raise ValueError(f"{cursor.left} bytes follow its end")


def _skip_camera(cursor: _Cursor) -> None:
    cursor.skip(4)
    number = cursor.take("i")
    cursor.skip(2 * 8)
    try:
        model = pycolmap.CameraModelId(number)
        count = len(pycolmap.Camera.create_from_model_id(1, model, 1.0, 1, 1).params)
    except (ValueError, RuntimeError, IndexError):
        raise ValueError(f"it has a camera of the unknown model {number}") from None
    cursor.skip(count * 8)


def _skip_image(cursor: _Cursor) -> None:
    cursor.skip(4 + _POSE + 4)
    cursor.skip_text()
    cursor.skip(cursor.take("Q") * (2 * 8 + 8))


def _skip_point(cursor: _Cursor) -> None:
    cursor.skip(8 + 3 * 8 + 3 + 8)
    cursor.skip(cursor.take("Q") * (4 + 4))


def _skip_frame(cursor: _Cursor) -> None:
    cursor.skip(4 + 4 + _POSE)
    cursor.skip(cursor.take("I") * (4 + 4 + 8))


_ENTRIES = {
    "cameras": _skip_camera,
    "images": _skip_image,
    "points3D": _skip_point,
    "frames": _skip_frame,
}
