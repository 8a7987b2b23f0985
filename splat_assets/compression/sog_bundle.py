"""What an encoded SOG consists of, and the two ways to write it: one `.sog` (a ZIP of stored images
and a deflated `meta.json`) or a folder."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splat_assets.artifacts.manifest import write_bytes_atomic
from splat_assets.compression.precision import Precision
from splat_assets.compression.sorting import Sorting
from splat_assets.gaussians.cleanup import CleanupReport

META = "meta.json"
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class EncodedSog:
    """The members of a SOG file, `meta.json` last, and what the encoder chose."""

    files: dict[str, bytes]
    count: int
    sorting: Sorting
    palette_size: int  # 0 without view-dependent colour
    codebooks: dict[str, str]  # property → kind of codebook
    cleanup: CleanupReport
    precision: Precision
    notes: tuple[str, ...]  # steps that failed, and what was done instead
    order: np.ndarray  # [count] which of the encoder's Gaussians each one of the file is

    @property
    def field_bytes(self) -> dict[str, int]:
        return {name: len(data) for name, data in self.files.items()}


def bundle_bytes(encoded: EncodedSog) -> bytes:
    """The contents of a `.sog` file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as bundle:
        for name, data in encoded.files.items():
            info = zipfile.ZipInfo(name, _ZIP_DATE)
            info.create_system = 3  # else the platform's
            packed = zipfile.ZIP_DEFLATED if name == META else zipfile.ZIP_STORED
            bundle.writestr(info, data, packed, 9)
    return buffer.getvalue()


def write_bundle(path: Path | str, encoded: EncodedSog) -> int:
    """Write a `.sog` file atomically; returns its size in bytes."""
    data = bundle_bytes(encoded)
    write_bytes_atomic(Path(path), data)
    return len(data)


def write_folder(folder: Path | str, encoded: EncodedSog) -> int:
    """Write the members into a folder, `meta.json` last; returns their size in bytes."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in encoded.files.items():
        write_bytes_atomic(folder / name, data)
    return sum(encoded.field_bytes.values())
