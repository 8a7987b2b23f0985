"""Small photos, videos and raw datasets for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageFilter

from splat_assets.artifacts.manifest import build_manifest, link_or_copy, write_manifest
from splat_assets.datasets.options import FrameOptions
from splat_assets.frames.extract import extract_frames
from splat_assets.frames.frame_set import FrameSet
from splat_assets.progress import Progress, Report
from splat_assets.sources.raw_dataset import RawDataset


def textured(seed: int, width: int = 160, height: int = 120, blur: float = 0.0) -> Image.Image:
    """A picture full of detail, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    fine = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    image = Image.blend(coarse.resize((width, height), Image.Resampling.NEAREST), fine, 0.3)
    return image.filter(ImageFilter.GaussianBlur(blur)) if blur else image


def save_photo(path: Path, image: Image.Image, exif: Image.Exif | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({"exif": exif} if exif is not None else {}))
    return path


def make_video(
    path: Path,
    pictures: Iterable[np.ndarray],
    *,
    times: Callable[[int], float] = lambda i: i / 10,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    source_format: str = "rgb24",
    rotation: int = 0,
    hflip: bool = False,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    gop: int = 12,
) -> Path:
    """Encode pictures [H, W, 3] with explicit presentation times in seconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream: Any = None
        for number, picture in enumerate(pictures):
            if stream is None:
                default = {"crf": "8", "preset": "veryfast"} if "x26" in codec else {}
                stream = container.add_stream(
                    codec, rate=30, options={**default, **(options or {})}
                )
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = pix_fmt
                stream.codec_context.time_base = Fraction(1, 1000)
                stream.codec_context.gop_size = gop
                stream.codec_context.color_range = 1
                if rotation or hflip:
                    stream.set_display_rotation(rotation, hflip=hflip)
            frame = av.VideoFrame.from_ndarray(picture, source_format)
            frame.pts, frame.time_base = round(times(number) * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def make_audio(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("aac", rate=16000, layout="mono")
        for _ in range(20):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(level: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), level, dtype=np.uint8)


def raw_dataset(folder: Path, content: str, links: Sequence[Path] = ()) -> RawDataset:
    """The finished raw dataset whose originals lie in `folder/files` (plus `links`)."""
    (folder / "files").mkdir(parents=True, exist_ok=True)
    for path in links:
        link_or_copy(path, folder / "files" / path.name)
    summary = {"content": content, "source": "my-source"}
    write_manifest(folder, build_manifest(folder, RawDataset.KIND, summary=summary))
    return RawDataset.open(folder)


def extract(
    raw: RawDataset, out: Path, progress: Progress | None = None, **options: Any
) -> tuple[FrameSet, list[str]]:
    """Run the stage; returns its frame set, validated, and the warnings."""
    warnings: list[str] = []

    def sink(report: Report) -> None:
        if report.warning:
            warnings.append(report.message)

    out.mkdir(parents=True)
    frames = extract_frames(
        raw, out, options=FrameOptions(**options), progress=progress or Progress(sink)
    )
    frames.validate()
    return frames, warnings
