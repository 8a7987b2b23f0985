"""What COLMAP models and nerfstudio / NeRF-synthetic folders refer to, and whether it is there.

Formats: COLMAP's `images.bin|txt` (colmap.github.io/format.html) and nerfstudio's `transforms.json`
(docs.nerf.studio, "data conventions"), where NeRF synthetic leaves the suffix of `file_path` out.
Only names are read here; the geometry is the pose stage's business.
"""

from __future__ import annotations

import json
import posixpath
import struct
from collections.abc import Callable, Collection, Iterator
from typing import Any

from splat_assets.errors import SourceError
from splat_assets.sources import media

# Reads a file of the source by POSIX path; at most so many bytes when a limit is given.
Reader = Callable[[str, int | None], bytes]

_USUAL_IMAGE_FOLDERS = ("images", "input", "image", "rgb", "")
_FOCAL_KEYS = ("camera_angle_x", "fl_x", "camera_angle_y", "fl_y")
_HEADER = struct.Struct("<I7dI")  # image id, qw qx qy qz tx ty tz, camera id


def colmap_names(read: Reader, images_file: str) -> list[str]:
    """Names of the images in `images.bin` or `images.txt`; `SourceError` when it is damaged."""
    data = read(images_file, None)
    try:
        parse = _names_in_bin if images_file.endswith(".bin") else _names_in_txt
        names = [posixpath.normpath(name.replace("\\", "/")) for name in parse(data)]
    except (struct.error, ValueError, IndexError) as error:
        raise SourceError(
            f"{images_file} is not a whole COLMAP file ({error}); export the model again."
        ) from None
    if not names:
        raise SourceError(f"{images_file} holds no registered images.")
    return names


def locate_images(names: list[str], root: str, present: Collection[str], model: str) -> str:
    """The folder that the model's image names are relative to.

    Raises `SourceError` when no folder holds all of them, naming the first one missing.
    """
    tail = "/" + names[0]
    folders = [posixpath.join(root, name).rstrip("/") for name in _USUAL_IMAGE_FOLDERS]
    folders += sorted(path.removesuffix(tail) for path in present if path.endswith(tail))
    if names[0] in present:
        folders.append("")
    missing_in = {
        folder: [name for name in names if posixpath.join(folder, name) not in present]
        for folder in dict.fromkeys(folders)
    }
    best = min(missing_in, key=lambda folder: len(missing_in[folder]))
    missing = missing_in[best]
    if missing:
        raise SourceError(
            f"The COLMAP model {model} names {len(names)} images and {len(missing)} of them are "
            f"not in the source (the first is {missing[0]}); put them into an images folder."
        )
    return best


def nerf_references(read: Reader, transforms: str, present: Collection[str]) -> list[str]:
    """Files that a `transforms*.json` refers to (pictures, masks, point cloud), as they are named.

    Raises `SourceError` when it is damaged, or naming the first picture that is missing.
    """
    try:
        document = json.loads(read(transforms, None))
    except ValueError as error:
        raise SourceError(f"{transforms} is not valid JSON ({error}).") from None
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not frames:
        raise SourceError(f"{transforms} has no frames, so it is not a nerfstudio file.")
    folder = posixpath.dirname(transforms)
    lookup = _Lookup(present)
    found = []
    for index, frame in enumerate(frames):
        _check_frame(frame, index, document, transforms)
        for key in ("file_path", "mask_path"):
            name = frame.get(key)
            if not name:
                continue
            picture = lookup.picture(folder, str(name))
            if picture is None:
                raise SourceError(
                    f"{transforms} refers to {str(name)!r}, which is not in the source."
                )
            found.append(picture)
    cloud = document.get("ply_file_path")
    if isinstance(cloud, str) and (path := _join(folder, cloud)) in present:
        found.append(path)
    return found


class _Lookup:
    """Finds pictures by the paths other tools wrote down; never outside of the source."""

    def __init__(self, present: Collection[str]) -> None:
        self._by_stem: dict[str, str] = {}
        self._by_name: dict[str, list[str]] = {}
        self._present = {path for path in present if media.is_image(path)}
        for path in sorted(self._present):
            self._by_stem.setdefault(posixpath.splitext(path)[0], path)
            self._by_name.setdefault(posixpath.basename(path), []).append(path)

    def picture(self, folder: str, name: str) -> str | None:
        """As named; with no or another suffix; or by a unique file name (`/home/…/a.png`)."""
        path = _join(folder, name)
        if path in self._present:
            return path
        for stem in (path, posixpath.splitext(path)[0]):
            if stem in self._by_stem:
                return self._by_stem[stem]
        same_name = self._by_name.get(posixpath.basename(path), [])
        return same_name[0] if len(same_name) == 1 else None


def _check_frame(frame: Any, index: int, document: dict[str, Any], transforms: str) -> None:
    if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
        raise SourceError(f"{transforms}: frame {index} has no file_path.")
    matrix = frame.get("transform_matrix")
    rows = matrix if isinstance(matrix, list) else []
    if len(rows) not in (3, 4) or not all(isinstance(r, list) and len(r) == 4 for r in rows):
        raise SourceError(f"{transforms}: frame {index} has no 4 x 4 transform_matrix.")
    if not any(document.get(key) or frame.get(key) for key in _FOCAL_KEYS):
        raise SourceError(f"{transforms} gives no focal length (camera_angle_x or fl_x).")


def _join(folder: str, name: str) -> str:
    """POSIX path below the source of a name relative to `folder`."""
    return posixpath.normpath(posixpath.join(folder, name.replace("\\", "/")))


def _names_in_bin(data: bytes) -> Iterator[str]:
    (count,) = struct.unpack_from("<Q", data, 0)
    if count * _HEADER.size > len(data):
        raise ValueError(f"{count} images in {len(data)} bytes")
    offset = 8
    for _ in range(count):
        start = offset + _HEADER.size
        end = data.index(b"\0", start)
        yield data[start:end].decode("utf-8")
        (num_points,) = struct.unpack_from("<Q", data, end + 1)
        offset = end + 9 + 24 * num_points
        if offset > len(data):
            raise ValueError("cut short")


def _names_in_txt(data: bytes) -> Iterator[str]:
    lines = [line for line in data.decode("utf-8").splitlines() if not line.startswith("#")]
    for line in lines[0::2]:  # every second line holds the image's points, and may be empty
        if not line.strip():
            continue
        words = line.split(maxsplit=9)
        if len(words) < 10:
            raise ValueError(f"line {line[:40]!r}")
        [float(word) for word in words[:9]]
        yield words[9].strip()
