"""Streamed SOG: a scene in spatial chunks and levels of detail, for more than a million Gaussians.

`lod-meta.json` describes a k-d tree whose leaves name a run of Gaussians of each level; a viewer
loads what it looks at, as finely as its distance deserves. A coarser level is the leaf's finer one
decimated by merging (`formats.decimate`). Chunks are unbundled SOG v2 folders, each with codebooks
and a palette of its own, so a small chunk carries a small palette. What lies far outside of the
scene goes into an environment that is always shown. Only the positions of all Gaussians and one
chunk of each level are in memory at a time.

Format: PlayCanvas, "Streamed SOG", version 1.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from splat_assets import __version__
from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.compression.fallback import Notes, first_that_works
from splat_assets.compression.judging import choose_looks, weigh_errors
from splat_assets.compression.lod_tree import Node, ellipsoid_bounds
from splat_assets.compression.precision import Precision
from splat_assets.compression.quantize import quantize_means, signed_log
from splat_assets.compression.sog_bundle import META, write_folder
from splat_assets.compression.sog_writer import SogOptions, encode_sog
from splat_assets.compression.sorting import sort_gaussians
from splat_assets.compression.targets import PRESET_DB
from splat_assets.errors import UserError
from splat_assets.formats.decimate import decimate
from splat_assets.formats.merge import merge
from splat_assets.formats.registry import LOD_META
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import Progress, silent

STREAM_ABOVE = 1_000_000  # Gaussians; PlayCanvas advises streaming beyond 1 to 2 million
_SHARE = 0.25  # of the Gaussians of one level in the next
_COARSEST = 65536  # Gaussians that the coarsest level has at most, as long as there are few levels
_MAX_LEVELS = 5
_BLOCK = 1 << 18  # rows read at a time
_PROBED = 400_000  # Gaussians in the middle that the precision is measured on
_STRAY_FACTOR = 10.0  # of the usual distance from the middle


class Rows(Protocol):
    """A splat that gives some of its Gaussians at a time."""

    def __len__(self) -> int: ...
    def means(self) -> np.ndarray: ...
    def take(self, index: np.ndarray | slice) -> Gaussians: ...


@dataclass(frozen=True)
class StreamOptions:
    """How to cut and encode."""

    chunk: int = 1 << 17  # Gaussians of one SOG folder
    levels: int | None = None  # of detail; None: until the coarsest has at most 65536
    preset: Literal["web", "standard", "archive"] = "standard"
    precision: Precision | None = None  # instead of measuring for the preset
    palette_size: int | None = None  # of each chunk; None: searched
    seed: int = 0


@dataclass
class StreamedSog:
    """What was written."""

    counts: list[int]  # Gaussians by level, finest first
    environment: int  # Gaussians
    leaves: int
    bytes: int
    level_bytes: list[int]
    palette_sizes: list[int]  # by chunk
    field_bytes: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    seconds: float = 0.0
    chunks: list[str] = field(default_factory=list)  # `meta.json` of each, in the order of files
    notes: tuple[str, ...] = ()  # steps that failed, and what was done instead

    def to_dict(self) -> dict[str, Any]:
        """Figures for a report."""
        return {
            "levels": len(self.counts),
            "counts": self.counts,
            "level_bytes": self.level_bytes,
            "environment": self.environment,
            "chunks": len(self.chunks),
            "leaves": self.leaves,
            "bytes": self.bytes,
            "field_bytes": self.field_bytes,
            "palette_sizes": self.palette_sizes,
            "dropped_gaussians": self.dropped,
            "seconds": round(self.seconds, 2),
        }


def write_streamed(
    target: Path | str,
    gaussians: Gaussians | Rows,
    options: StreamOptions | None = None,
    *,
    progress: Progress | None = None,
) -> StreamedSog:
    """Write the folder of `target`, a path that ends in `lod-meta.json`.

    The folder appears whole or not at all; one that holds a streamed SOG is replaced.

    Raises `UserError` when nothing can be encoded or the folder holds something else, `Cancelled`
    when asked to stop.
    """
    target = Path(target)
    options, progress = options or StreamOptions(), progress or silent()
    folder = target.parent
    if target.name != LOD_META:
        raise UserError(f"{target} should be named {LOD_META}, the only name viewers look for.")
    if folder.exists() and any(folder.iterdir()) and not target.exists():
        raise UserError(f"{folder} holds other files; a streamed SOG needs a folder of its own.")
    rows = _InMemory(gaussians) if isinstance(gaussians, Gaussians) else gaussians
    folder.parent.mkdir(parents=True, exist_ok=True)
    arriving = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(arriving, ignore_errors=True)
    arriving.mkdir()
    try:
        written = _Writer(arriving, rows, options, progress).write()
        if folder.exists():
            shutil.rmtree(folder)
        arriving.replace(folder)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    return written


class _InMemory:
    """`Rows` of Gaussians that are in memory anyway."""

    def __init__(self, gaussians: Gaussians) -> None:
        self._gaussians = gaussians

    def __len__(self) -> int:
        return len(self._gaussians)

    def means(self) -> np.ndarray:
        return self._gaussians.means

    def take(self, index: np.ndarray | slice) -> Gaussians:
        return self._gaussians.select(index)


@dataclass
class _Unit:
    """The chunk of a level that is being filled."""

    file: int
    parts: list[Gaussians] = field(default_factory=list)
    size: int = 0


class _Writer:
    """Goes through the leaves once, filling one chunk of every level."""

    def __init__(self, folder: Path, rows: Rows, options: StreamOptions, progress: Progress):
        self._folder = folder
        self._rows = rows
        self._options = options
        self._progress, self._notes = progress, Notes(progress)
        self._leaf = max(1, options.chunk // 4)
        self._names: list[str] = []
        self._units: dict[int, _Unit] = {}
        self._numbers: Counter[int] = Counter()  # chunks of a level so far
        self._done = 0
        self._fields: Counter[str] = Counter()
        self._result = StreamedSog([], 0, 0, 0, [], [])

    def write(self) -> StreamedSog:
        began = time.perf_counter()
        self._progress.update(0.0, "Reading positions")
        means = self._rows.means()
        inside, stray = self._split(means)
        if not len(inside):
            raise UserError(
                "The splat holds no Gaussian with finite values; there is nothing to encode."
            )
        levels = self._options.levels or _levels(len(inside))
        self._result.counts, self._result.level_bytes = [0] * levels, [0] * levels
        self._encoding = SogOptions(
            order="none",
            palette_size=self._options.palette_size,
            precision=first_that_works(
                "Measuring what errors cost",
                (
                    ("", lambda: self._precision(means, inside)),
                    ("chunks are stored finely", Precision),
                ),
                self._notes,
            ),
            seed=self._options.seed,
        )
        tree = self._build(means, inside)
        for level in range(levels):
            self._flush(level)
        environment = self._environment(stray)
        document = {
            "version": 1,
            "asset": {"generator": f"splat-assets {__version__}"},
            "count": sum(self._result.counts),
            "counts": self._result.counts,
            "lodLevels": levels,
            "lodErrors": False,
            **({"environment": environment} if environment else {}),
            "filenames": self._names,
            "tree": tree.to_dict(),
        }
        text = json.dumps(document, separators=(",", ":"), allow_nan=False)
        write_text_atomic(self._folder / LOD_META, text)
        result = self._result
        result.chunks, result.notes = self._names, tuple(self._notes)
        result.field_bytes = {**self._fields, LOD_META: len(text)}
        result.bytes = sum(result.field_bytes.values())
        result.dropped = len(means) - result.counts[0] - result.environment
        result.seconds = time.perf_counter() - began
        return result

    def _split(self, means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the scene, and of what lies far outside of it or is as large as that."""
        known = means[np.isfinite(means).all(axis=1)]
        center = np.median(known, axis=0) if len(known) else 0.0
        parts, distances = [], []
        for first in range(0, len(means), _BLOCK):
            offset = means[first : first + _BLOCK].astype(np.float64) - center
            distances.append(np.sqrt((offset**2).sum(axis=1)).astype(np.float32))
        distance = np.concatenate(distances) if distances else np.zeros(0, np.float32)
        finite = np.isfinite(distance)
        if not finite.any():
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        most = _STRAY_FACTOR * float(np.quantile(distance[finite], 0.98))
        for first in range(0, len(means), _BLOCK):
            self._progress.update(0.02 * first / len(means), "Looking for what is far away")
            block = self._rows.take(slice(first, min(first + _BLOCK, len(means))))
            largest = np.exp(np.minimum(block.scales.max(axis=1), 80.0))
            far = (distance[first : first + _BLOCK] > most) | (largest > most)
            parts.append(far & (most > 0))
        is_stray = np.concatenate(parts)
        return np.flatnonzero(finite & ~is_stray), np.flatnonzero(finite & is_stray)

    def _precision(self, means: np.ndarray, inside: np.ndarray) -> Precision:
        """Measured on the middle of the scene, from around it: all of it may be too much."""
        if self._options.precision is not None:
            return self._options.precision
        self._progress.update(0.03, "Measuring what each property is worth")
        chosen = inside
        if len(inside) > _PROBED:
            center = np.median(means[inside], axis=0)
            distance = np.abs(means[inside] - center).max(axis=1)
            chosen = inside[np.sort(np.argpartition(distance, _PROBED)[:_PROBED])]
        probe, _ = clean(self._rows.take(chosen))
        if not len(probe):
            return Precision()
        sensitivity = weigh_errors(probe, choose_looks(probe, None)[0])
        return sensitivity.precision(PRESET_DB[self._options.preset])

    def _build(self, means: np.ndarray, index: np.ndarray) -> Node:
        """The subtree of the Gaussians at `index`, written on the way."""
        if len(index) <= self._leaf:
            return self._write_leaf(index)
        places = means[index]
        axis = int(np.argmax(np.ptp(places, axis=0)))
        half = len(index) // 2
        order = np.argpartition(places[:, axis], half)
        del places
        first = self._build(means, np.sort(index[order[:half]]))
        second = self._build(means, np.sort(index[order[half:]]))
        return Node(
            np.minimum(first.low, second.low),
            np.maximum(first.high, second.high),
            (first, second),
        )

    def _write_leaf(self, index: np.ndarray) -> Node:
        gaussians, _ = clean(
            self._rows.take(index), drop_invisible=self._options.preset != "archive"
        )
        self._done += len(index)
        part = self._progress.span(0.1, 0.95)
        part.update(self._done / len(self._rows), f"Writing chunks: {len(self._names)} begun")
        node = Node(*ellipsoid_bounds(gaussians))
        self._result.leaves += 1
        count = len(gaussians)
        for level in range(len(self._result.counts)):
            if not count:  # nothing visible here
                break
            if level:
                gaussians = self._coarser(gaussians, max(1, math.ceil(_SHARE * len(gaussians))))
            node.runs[level] = self._append(level, _along_hilbert(gaussians))
        return node

    def _coarser(self, gaussians: Gaussians, count: int) -> Gaussians:
        sample = np.linspace(0, len(gaussians) - 1, count).astype(np.int64)
        return first_that_works(
            "Merging Gaussians for a coarser level",
            (
                ("", lambda: decimate(gaussians, count)),
                ("it has a sample of them", lambda: gaussians.select(sample)),
            ),
            self._notes,
        )

    def _append(self, level: int, gaussians: Gaussians) -> tuple[int, int, int]:
        """Put a run into the chunk of its level; returns its file, offset and count."""
        unit = self._units.get(level)
        if unit is not None and unit.size + len(gaussians) > self._options.chunk:
            self._flush(level)
            unit = None
        if unit is None:
            unit = self._units[level] = _Unit(len(self._names))
            self._names.append(f"{level}_{self._numbers[level]}/{META}")
            self._numbers[level] += 1
        run = (unit.file, unit.size, len(gaussians))
        unit.parts.append(gaussians)
        unit.size += len(gaussians)
        self._result.counts[level] += len(gaussians)
        return run

    def _flush(self, level: int) -> None:
        unit = self._units.pop(level, None)
        if unit is None:
            return
        self._result.level_bytes[level] += self._encode(merge(unit.parts), self._names[unit.file])

    def _encode(self, gaussians: Gaussians, name: str) -> int:
        progress = self._progress.span(1.0, 1.0)
        encoded = encode_sog(gaussians, self._encoding, progress, notes=self._notes)
        if encoded.count != len(gaussians):
            raise RuntimeError(f"{name} holds {encoded.count} of {len(gaussians)} Gaussians")
        self._result.palette_sizes.append(encoded.palette_size)
        self._fields.update(encoded.field_bytes)
        return write_folder((self._folder / name).parent, encoded)

    def _environment(self, index: np.ndarray) -> str:
        """Write what is always shown; returns its file, or "" when there is nothing."""
        gaussians, _ = clean(
            self._rows.take(index), drop_invisible=self._options.preset != "archive"
        )
        self._result.environment = len(gaussians)
        if not len(gaussians):
            return ""
        self._encode(_along_hilbert(gaussians), f"env/{META}")
        return f"env/{META}"


def _levels(count: int) -> int:
    wanted = 1 + math.ceil(math.log(max(1.0, count / _COARSEST), 1 / _SHARE))
    return max(2, min(_MAX_LEVELS, wanted))


def _along_hilbert(gaussians: Gaussians) -> Gaussians:
    positions = quantize_means(signed_log(gaussians.means)).values
    order = sort_gaussians("hilbert", positions, lambda: np.zeros((0, 0), np.float32))
    return gaussians.select(order.permutation)
