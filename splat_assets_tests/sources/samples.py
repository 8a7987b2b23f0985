"""One way to fetch, and small made-up datasets, for the tests of sources."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from splat_assets.datasets.options import SourceOptions
from splat_assets.progress import Progress, Report
from splat_assets.sources.fetch import fetch_raw_dataset
from splat_assets.sources.raw_dataset import RawDataset


class Fetcher:
    """Calls `fetch_raw_dataset` into a new folder each time; remembers warnings and the folder."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.out = base
        self.warnings: list[str] = []
        self.count = 0

    def __call__(
        self,
        source: str | Path,
        previous: RawDataset | None = None,
        *,
        should_cancel: Callable[[], bool] | None = None,
        **options: object,
    ) -> RawDataset:
        self.count += 1
        self.out = self.base / "runs" / f"run{self.count}"
        self.out.mkdir(parents=True)

        def sink(report: Report) -> None:
            if report.warning:
                self.warnings.append(report.message)

        raw = fetch_raw_dataset(
            str(source),
            self.out,
            options=SourceOptions(**options),  # type: ignore[arg-type]
            previous=previous,
            progress=Progress(sink, should_cancel),
        )
        raw.validate()
        return RawDataset.open(raw.path)


def names(raw: RawDataset) -> list[str]:
    """The originals, by path below files/."""
    return [
        entry.path.removeprefix("files/")
        for entry in raw.manifest.files
        if entry.path.startswith("files/")
    ]


def jpeg(seed: int = 0, size: tuple[int, int] = (32, 24)) -> bytes:
    """A small photo; different seeds give different bytes."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write files by relative path; returns the folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return folder


def photos(count: int = 3, prefix: str = "") -> dict[str, bytes | str]:
    return {f"{prefix}p{i:02d}.jpg": jpeg(i) for i in range(count)}


def colmap_model(names: list[str], folder: str = "sparse/0/") -> dict[str, bytes | str]:
    """The three binary files of a COLMAP model; one point in each image."""
    images = struct.pack("<Q", len(names))
    for index, name in enumerate(names):
        images += struct.pack("<I7dI", index + 1, 1, 0, 0, 0, 0, 0, 0, 1) + name.encode() + b"\0"
        images += struct.pack("<Q", 1) + struct.pack("<ddq", 1.0, 2.0, -1)
    camera = struct.pack("<QIiQQ4d", 1, 1, 1, 32, 24, 30, 30, 16, 12)
    points = struct.pack("<Q", 0)
    return {
        folder + "cameras.bin": camera,
        folder + "images.bin": images,
        folder + "points3D.bin": points,
    }


def transforms(paths: list[str]) -> str:
    frames = [{"file_path": path, "transform_matrix": np.eye(4).tolist()} for path in paths]
    return json.dumps({"camera_angle_x": 0.7, "frames": frames})


def splat_ply(count: int = 4) -> bytes:
    """A 3DGS PLY of SH degree 0."""
    fields = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"]
    fields += ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n"
    header += "".join(f"property float {field}\n" for field in fields) + "end_header\n"
    return header.encode() + np.zeros((count, len(fields)), "<f4").tobytes()


MESH_PLY = (
    b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
    b"property float z\nelement face 1\nproperty list uchar int vertex_indices\nend_header\n0 0 0\n"
    b"3 0 0 0\n"
)
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(range(256)) * 4000
