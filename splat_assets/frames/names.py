"""Which files are photos of the scene, in which order, and what they are called below `images/`."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath

from splat_assets.sources.media import is_auxiliary, is_image, is_junk, is_mask, is_video

_MAX_STEM = 120
_REDUCED = re.compile(r"(.+)_(2|4|8|16)")  # `images_4` holds the photos of `images`, reduced


def list_files(files: Path) -> list[str]:
    """Every file of a raw dataset as a POSIX path below `files/`, in natural order."""
    found = (p.relative_to(files).as_posix() for p in files.rglob("*") if p.is_file())
    return sorted((path for path in found if not is_junk(path)), key=natural_key)


def scene_photos(paths: Iterable[str]) -> list[str]:
    """The photographs among `paths`: no masks, depth maps, or reduced copies of other photos."""
    photos = [p for p in paths if is_image(p) and not is_mask(p) and not is_auxiliary(p)]
    originals = {_without_suffix(path) for path in photos}
    return [path for path in photos if not _is_reduced_copy(path, originals)]


def scene_videos(paths: Iterable[str]) -> list[str]:
    return [path for path in paths if is_video(path) and not is_auxiliary(path)]


def natural_key(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key under which `img_2` comes before `img_10`."""
    parts = re.split(r"(\d+)", text.casefold())
    key = tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)
    return (*key, (2, text))  # total: paths that differ only in case keep a fixed order


def flat_stems(paths: Sequence[str], *, then: str = ".") -> list[str]:
    """A name without suffix for each path: flat, ASCII, unique, and sorting like `paths`.

    Folders that all paths share are left out; the others are joined with `__`. Where sorting by
    name, which goes on with `then`, would break the natural order, a running number goes in front.
    """
    parents = [PurePosixPath(path).parts[:-1] for path in paths]
    shared = 0
    while parents and all(len(p) > shared and p[shared] == parents[0][shared] for p in parents):
        shared += 1
    stems, taken = [], set()
    for path in paths:
        pure = PurePosixPath(path)
        base = "__".join(_plain(part) for part in (*pure.parts[shared:-1], pure.stem))[-_MAX_STEM:]
        stem, number = base, 1
        while stem.lower() in taken:  # also on file systems that ignore case
            number += 1
            stem = f"{base}_{number}"
        taken.add(stem.lower())
        stems.append(stem)
    if any(a + then > b + then for a, b in pairwise(stems)):
        digits = len(str(len(stems)))
        stems = [f"{number:0{digits}d}_{stem}" for number, stem in enumerate(stems)]
    return stems


def _plain(text: str) -> str:
    """Letters, digits, `.`, `_`, `-`: what every tool down the line takes as a file name."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "_", ascii_text).strip("._") or "photo"


def _is_reduced_copy(path: str, originals: set[str]) -> bool:
    pure = PurePosixPath(_without_suffix(path))
    for position, part in enumerate(pure.parts[:-1]):
        match = _REDUCED.fullmatch(part)
        if match:
            original = PurePosixPath(*pure.parts[:position], match[1], *pure.parts[position + 1 :])
            if str(original) in originals:
                return True
    return False


def _without_suffix(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
