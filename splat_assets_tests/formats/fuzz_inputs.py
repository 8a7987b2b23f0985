"""The inputs of `fuzz`: small valid splat files, and the many ways in which they are damaged.

Input `number` of a seed is always the same bytes, so a failure can be looked at again:
`damaged_input(seeds(), seed, number, folder)`.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np

from splat_assets_tests.formats.fuzz_damage import DAMAGE, any_bytes, large_picture, zeros
from splat_assets_tests.formats.fuzz_files import ENDINGS, unpack, valid_files


@lru_cache(maxsize=1)
def seeds() -> dict[str, list[bytes]]:
    """Valid files by kind of damage they are for."""
    zeros(), large_picture()  # now: making them takes time and memory that reading must not
    with tempfile.TemporaryDirectory(prefix="splat-assets-fuzz-") as folder:
        return valid_files(Path(folder))


def damaged_input(
    known: dict[str, list[bytes]], seed: int, number: int, folder: Path
) -> tuple[str, Path]:
    """Writes input `number` below `folder`; returns its format and path."""
    rng = np.random.default_rng((seed, number))
    name = list(known)[number % len(known)]
    data = known[name][int(rng.integers(len(known[name])))]
    damage = DAMAGE.get(name, ())
    own = bool(damage) and rng.random() < 0.6
    how = damage[int(rng.integers(len(damage)))] if own else any_bytes
    broken = how(data, rng)
    if name.startswith("streamed"):
        return name, _unpack_folder(broken, folder / "streamed")
    path = folder / f"a{ENDINGS[name]}"
    path.write_bytes(broken)
    return name, path


def _unpack_folder(data: bytes, folder: Path) -> Path:
    """The members of a damaged ZIP as files; where it cannot be opened, noise as the document."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        members = unpack(data)
    except Exception:
        members = {"lod-meta.json": data[:4000]}
    for name, content in members.items():
        path = folder / name
        if path.resolve().is_relative_to(folder.resolve()) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder / "lod-meta.json"
