"""Read a streamed SOG (`lod-meta.json`) as one splat: one level of detail of every chunk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from splat_assets.compression.sog_reader import read_sog
from splat_assets.errors import UserError
from splat_assets.formats.merge import merge
from splat_assets.formats.registry import LOD_META
from splat_assets.formats.values import DamagedError
from splat_assets.gaussians.gaussians import Gaussians

_MAX_META = 256 << 20
_MAX_LEVELS = 64
_MAX_FILES = 1 << 16
_MAX_DEPTH = 200
_MAX_COUNT = 1 << 31


@dataclass(frozen=True)
class Run:
    """Gaussians of one leaf at one level, beside each other in a file."""

    level: int
    file: int
    offset: int
    count: int


@dataclass(frozen=True)
class LodMeta:
    """The contents of `lod-meta.json` that reading needs."""

    levels: int
    files: tuple[str, ...]  # POSIX paths below the folder
    environment: str  # "" for none
    leaves: tuple[tuple[Run, ...], ...]  # of each leaf its runs, finest first

    def count(self, level: int) -> int:
        """Gaussians at a level, without the environment."""
        return sum(run.count for runs in self.leaves for run in runs if run.level == level)


def read_streamed(path: Path | str, level: int = 0) -> Gaussians:
    """Decode one level of detail, 0 being the finest, with the environment at the end.

    A leaf without that level gives its next coarser one, else its coarsest. Chunks keep the order
    of the document.

    Args:
        path: the folder, or its `lod-meta.json`.

    Raises `UserError` in one sentence when something is missing or damaged.
    """
    path = _document(Path(path))
    meta = read_lod_meta(path)
    wanted: dict[int, list[Run]] = {}
    for runs in meta.leaves:
        chosen = next((run for run in runs if run.level >= level), runs[-1] if runs else None)
        if chosen is not None and chosen.count:
            wanted.setdefault(chosen.file, []).append(chosen)
    parts = []
    for file, parts_of in sorted(wanted.items()):
        chunk = read_sog(path.parent / meta.files[file])
        if sum(run.count for run in parts_of) > len(chunk) or any(
            run.offset + run.count > len(chunk) for run in parts_of
        ):
            raise UserError(
                f"{path} is damaged: it wants more of {meta.files[file]} than its "
                f"{len(chunk)} Gaussians."
            )
        in_order = sorted(parts_of, key=lambda run: run.offset)
        index = np.concatenate([np.arange(r.offset, r.offset + r.count) for r in in_order])
        parts.append(chunk if len(index) == len(chunk) else chunk.select(index))
    if meta.environment:
        parts.append(read_sog(path.parent / meta.environment))
    if not parts:
        raise UserError(f"{path} holds no Gaussians.")
    return merge(parts)


def read_lod_meta(path: Path | str) -> LodMeta:
    """The document alone; errors as `read_streamed`."""
    path = _document(Path(path))
    try:
        if path.stat().st_size > _MAX_META:
            raise UserError(f"{path} is damaged: it is larger than {_MAX_META} bytes.")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        return _parse(data)
    except DamagedError as problem:
        raise UserError(f"{path} {problem}.") from None


def _document(path: Path) -> Path:
    return path / LOD_META if path.is_dir() else path


def _parse(data: bytes) -> LodMeta:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise DamagedError("is damaged: it is not valid JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("tree"), dict):
        raise DamagedError("is not a streamed SOG: it has no tree")
    if document.get("version", 1) != 1:  # the first ones had none
        raise DamagedError(f"has version {str(document['version'])[:40]}; 1 can be read")
    levels = _integer(document.get("lodLevels"), "lodLevels", 1, _MAX_LEVELS)
    names = document.get("filenames")
    if not isinstance(names, list) or len(names) > _MAX_FILES:
        raise DamagedError("is damaged: it does not name its files")
    files = tuple(_file_name(name) for name in names)
    if len(set(files)) < len(files):
        raise DamagedError("is damaged: it names a file twice")
    environment = document.get("environment")
    leaves = tuple(_leaves(document["tree"], levels, len(files)))
    meta = LodMeta(levels, files, _file_name(environment) if environment else "", leaves)
    counts = document.get("counts")
    if counts is not None:
        found = [meta.count(level) for level in range(levels)]
        if counts != found:
            raise DamagedError("is damaged: its counts are not those of its tree")
    return meta


def _leaves(tree: dict[str, Any], levels: int, files: int) -> Iterator[tuple[Run, ...]]:
    pending: list[tuple[Any, int]] = [(tree, 0)]
    while pending:
        node, depth = pending.pop()
        if not isinstance(node, dict) or depth > _MAX_DEPTH:
            raise DamagedError("is damaged: its tree cannot be followed")
        children, lods = node.get("children", []), node.get("lods", {})
        if not isinstance(children, list) or not isinstance(lods, dict):
            raise DamagedError("is damaged: its tree cannot be followed")
        # the first child is looked at first
        pending += [(child, depth + 1) for child in reversed(children)]
        runs = []
        for key, entry in lods.items():
            if not isinstance(entry, dict) or not key.isdecimal() or len(key) > 3:
                raise DamagedError("is damaged: a leaf's levels cannot be read")
            runs.append(
                Run(
                    _integer(int(key), "a level", 0, levels - 1),
                    _integer(entry.get("file"), "a leaf's file", 0, files - 1),
                    _integer(entry.get("offset"), "a leaf's offset", 0, _MAX_COUNT),
                    _integer(entry.get("count"), "a leaf's count", 0, _MAX_COUNT),
                )
            )
        if runs:
            yield tuple(sorted(runs, key=lambda run: run.level))


def _file_name(name: Any) -> str:
    """A path that stays below the folder."""
    if not isinstance(name, str) or not name or len(name) > 500 or "\0" in name:
        raise DamagedError("is damaged: it does not name its files")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or path.name != "meta.json":
        raise DamagedError(f"names a file that is no chunk of it: {name[:80]!r}")
    return str(path)


def _integer(value: Any, what: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        text = str(value)[:40]
        raise DamagedError(f"is damaged: {what} is {text}, not a number from {least} to {most}")
    return value
