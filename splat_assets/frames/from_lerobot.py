"""Import of robot episodes (LeRobot): frames cut exactly from their span of their shard.

Row i of an episode is shown at the span's start plus the row's timestamp; a decoded frame belongs
to the row that is within half a frame of it. What is written down as a frame's time is the
timestamp of its row in the data parquet, so the frames can be joined with the robot's states.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from splat_assets.artifacts.manifest import write_bytes_atomic
from splat_assets.compute import available_threads
from splat_assets.datasets.options import FrameOptions
from splat_assets.errors import UserError
from splat_assets.frames.from_photos import MAX_WORKERS, in_order
from splat_assets.frames.images import UnreadableError, can_link, load, open_image, write_image
from splat_assets.frames.names import flat_stems
from splat_assets.frames.scoring import score_image
from splat_assets.frames.seen import Seen
from splat_assets.frames.selection import evenly
from splat_assets.frames.table import Frame
from splat_assets.frames.video import Sample, probe, sample_video
from splat_assets.progress import Progress
from splat_assets.sources.layout import folder_reader, folder_sizes
from splat_assets.sources.lerobot.choice import RobotChoice, reopen
from splat_assets.sources.lerobot.meta import Camera, Episode, Span, read_meta
from splat_assets.sources.raw_dataset import RawDataset

_SURPLUS = 2  # frames cut for each one asked for, before blurred ones and duplicates go
_HALF = 0.4999  # of a frame: how far a frame may be from its row
_BATCH_ROWS = 16


@dataclass(frozen=True)
class _Clip:
    """One episode seen by one camera, and the rows of it that are used."""

    camera: Camera
    episode: Episode
    stem: str
    fps: float
    rows: np.ndarray  # [N] int64, frame_index
    times: np.ndarray  # [N] float64, seconds, the rows' timestamps
    wanted: int  # frames to cut, at most N

    @property
    def source_file(self) -> str:
        span = self.episode.videos.get(self.camera.key)
        return span.file if span else self.episode.data_file

    @property
    def label(self) -> str:
        return f"episode {self.episode.index} of camera {self.camera.name}"

    def frame(self, row: int, suffix: str) -> Frame:
        """The table's row for row `row` of the clip, without what the picture tells."""
        number = int(self.rows[row])
        return Frame(
            name=f"{self.stem}_e{self.episode.index:04d}_f{number:06d}{suffix}",
            source_file=self.source_file,
            index=number,
            timestamp_sec=float(self.times[row]),
            episode=self.episode.index,
            sequence=f"{self.camera.key} {self.episode.index}",
        )


def import_lerobot(raw: RawDataset, out: Path, options: FrameOptions, progress: Progress) -> Seen:
    """Cut frames of the chosen cameras and episodes into `out/images`.

    `frames_per_episode` frames of each, evenly spaced, or as many as `max_frames` allows; of video,
    the sharpest near each instant. An episode that cannot be decoded is left out and named.

    Raises `UserError` where meta, data and video contradict each other.
    """
    root = raw.summary["layout"]["root"]
    sizes, name = folder_sizes(raw.files), raw.summary["source"]
    meta = read_meta(sizes, folder_reader(raw.files), root, name)
    chosen = reopen(meta, sizes, raw.summary["lerobot"])
    clips = _plan(chosen, raw.files, options, progress)
    seen = Seen("frames")
    seen.facts.update(
        fps=meta.fps,
        cameras=[camera.key for camera in chosen.cameras],
        episodes=len(chosen.episodes),
    )
    (out / "images").mkdir(parents=True, exist_ok=True)
    total = sum(clip.wanted for clip in clips)
    done = 0
    for clip in clips:
        span = progress.span(done / total, (done + clip.wanted) / total)
        done += clip.wanted
        cut = _cut_video if clip.camera.kind == "video" else _read_pictures
        try:
            found = cut(clip, raw.files, out, options, span)
        except UnreadableError as error:
            reason = f"{clip.label}: {error}"
            seen.unreadable[clip.source_file] = reason
            progress.warn(f"{clip.source_file} is left out: {reason}.")
            continue
        if len(found) < clip.wanted and clip.camera.kind == "video":
            progress.warn(
                f"{clip.source_file} gives only {len(found)} of the {clip.wanted} frames wanted of "
                f"{clip.label}; it is cut off or damaged."
            )
        seen.frames += found
    return seen


def _plan(
    chosen: RobotChoice, files: Path, options: FrameOptions, progress: Progress
) -> list[_Clip]:
    """Every camera's episodes, with how many frames each of them gives."""
    meta = chosen.meta
    rows = {}
    for number, episode in enumerate(chosen.episodes):
        progress.update(0.0, f"Reading timestamps of episode {number + 1}", episodes=number)
        numbers, times = _read_rows(files, episode, meta.fps)
        end = options.end_sec if options.end_sec is not None else math.inf
        used = (times >= options.start_sec) & (times <= end)
        if not used.any():
            raise UserError(
                f"Episode {episode.index} of {meta.name} lasts {times[-1]:.1f} s, so nothing of it "
                "is left; lower frames.start_sec."
            )
        rows[episode.index] = numbers[used], times[used]
    total = len(chosen.cameras) * sum(len(numbers) for numbers, _ in rows.values())
    share = min(1.0, _SURPLUS * options.max_frames / total)
    clips = []
    stems = flat_stems([camera.name for camera in chosen.cameras], then="_")
    for camera, stem in zip(chosen.cameras, stems, strict=True):
        for episode in chosen.episodes:
            numbers, times = rows[episode.index]
            wanted = options.frames_per_episode or math.ceil(share * len(numbers))
            clip = _Clip(camera, episode, stem, meta.fps, numbers, times, min(wanted, len(numbers)))
            if camera.kind == "video":
                _check_span(clip, files)
            clips.append(clip)
    return clips


def _read_rows(files: Path, episode: Episode, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """`frame_index` and `timestamp` of an episode's rows, checked against its meta."""
    import pandas as pd
    import pyarrow as pa

    file = episode.data_file
    try:
        table = pd.read_parquet(
            files / file,
            columns=["episode_index", "frame_index", "timestamp"],
            filters=[("episode_index", "==", episode.index)],
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read as a LeRobot data file ({str(error).splitlines()[0]})."
        ) from None
    if len(table) != episode.length:
        raise UserError(
            f"{file} has {len(table)} rows of episode {episode.index} and meta/ says "
            f"{episode.length}; the dataset's meta is wrong."
        )
    times = table["timestamp"].to_numpy(np.float64)
    if not np.isfinite(times).all() or (np.diff(times) < 0.25 / fps).any():
        raise UserError(
            f"The timestamps of episode {episode.index} in {file} do not rise frame by frame; the "
            "dataset is damaged."
        )
    return table["frame_index"].to_numpy(np.int64), times


def _check_span(clip: _Clip, files: Path) -> None:
    """Raise `UserError` where the span in meta cannot hold the episode, or the file the span."""
    span = clip.episode.videos[clip.camera.key]
    if span.end_sec is None:
        return
    where = (
        f"meta/episodes puts {clip.label} at {span.start_sec:.3f} to {span.end_sec:.3f} s of "
        f"{span.file}"
    )
    expected = clip.episode.length / clip.fps
    if abs(span.end_sec - span.start_sec - expected) > 1.5 / clip.fps:
        raise UserError(
            f"{where}, but its {clip.episode.length} frames at {clip.fps:g} fps last "
            f"{expected:.3f} s; the dataset's meta is wrong."
        )
    try:
        length = probe(files / span.file).duration_sec
    except UnreadableError:
        return  # the cutting will say so
    if length is not None and span.start_sec > length - 0.5 / clip.fps:
        raise UserError(f"{where}, which is only {length:.3f} s long; the dataset's meta is wrong.")


def _cut_video(
    clip: _Clip, files: Path, out: Path, options: FrameOptions, progress: Progress
) -> list[Frame]:
    """Sample the clip's span of its shard; each frame is tied to its row."""
    span = clip.episode.videos[clip.camera.key]

    def samples() -> Iterator[tuple[int, Sample]]:
        length = clip.times[-1] - clip.times[0] + 1.0 / clip.fps
        everything = clip.wanted == len(clip.times)
        found = sample_video(
            files / span.file,
            fps=clip.fps if everything else clip.wanted / length,
            start_sec=span.start_sec + float(clip.times[0]),
            end_sec=span.start_sec + float(clip.times[-1]),
            slack_sec=_HALF / clip.fps,
        )
        for number, sample in enumerate(found):
            progress.update(
                min(1.0, number / clip.wanted), f"Cutting frames from {clip.label}", frames=number
            )
            yield _row_of(clip, span, sample.time_sec), sample

    def write(item: tuple[int, Sample]) -> Frame:
        row, sample = item
        image = sample.image(options.max_long_side)
        frame = clip.frame(row, ".jpg")
        write_image(image, out / "images" / frame.name, None)
        return replace(
            _with_size(frame, clip, image, sample.size),
            stats=sample.stats,
        )

    workers = min(MAX_WORKERS, available_threads())
    with ThreadPoolExecutor(workers, "frames") as pool:
        return [future.result() for _, future in in_order(write, samples(), pool, workers)]


def _row_of(clip: _Clip, span: Span, shown_sec: float) -> int:
    """The row shown at a time of the shard. Raises `UserError` when no row is that near."""
    seconds = shown_sec - span.start_sec
    row = int(np.abs(clip.times - seconds).argmin())
    off = abs(float(clip.times[row]) - seconds)
    if off > 0.5 / clip.fps:
        raise UserError(
            f"{span.file}: the frame shown at {shown_sec:.3f} s belongs to no row of {clip.label}, "
            f"the nearest is {off:.3f} s away; video and data parquet do not fit together."
        )
    return row


def _read_pictures(
    clip: _Clip, files: Path, out: Path, options: FrameOptions, progress: Progress
) -> list[Frame]:
    """Evenly spaced pictures of an image feature; upright sRGB ones keep their very bytes."""
    chosen = {int(clip.rows[row]): row for row in evenly(len(clip.rows), clip.wanted)}
    frames: list[Frame] = []
    for number, cell in _cells(clip, files, sorted(chosen)):
        progress.update(len(frames) / len(chosen), f"Reading {clip.label}", frames=len(frames))
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes) or not data:
            raise UnreadableError(f"its row {number} holds no picture")
        frames.append(_write_picture(clip, chosen[number], data, out, options))
    return frames


def _cells(clip: _Clip, files: Path, numbers: Sequence[int]) -> Iterator[tuple[int, object]]:
    """(frame_index, picture cell) of those rows, a few in memory at a time."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    key = clip.camera.key
    try:
        data = ds.dataset(files / clip.episode.data_file, format="parquet")
        if key not in data.schema.names:
            raise UnreadableError(f"there is no column {key}")
        is_wanted = (ds.field("episode_index") == clip.episode.index) & ds.field(
            "frame_index"
        ).isin(list(numbers))
        batches = data.to_batches(
            columns=["frame_index", key],
            filter=is_wanted,
            batch_size=_BATCH_ROWS,
            batch_readahead=1,
            fragment_readahead=1,
            use_threads=False,
        )
        for batch in batches:
            yield from zip(
                batch.column("frame_index").to_pylist(), batch.column(key).to_pylist(), strict=True
            )
    except pa.ArrowException as error:
        raise UnreadableError(f"damaged ({str(error).splitlines()[0]})") from None


def _write_picture(clip: _Clip, row: int, data: bytes, out: Path, options: FrameOptions) -> Frame:
    with open_image(io.BytesIO(data)) as opened:
        stored_size = opened.size
        linked = can_link(opened, options.max_long_side, 1)
        suffix = ".png" if linked and opened.format == "PNG" else ".jpg"
        image = load(opened, options.max_long_side, 1)
    frame = clip.frame(row, suffix)
    target = out / "images" / frame.name
    if linked:
        write_bytes_atomic(target, data)
    else:
        write_image(image, target, None)
    return replace(_with_size(frame, clip, image, stored_size), stats=score_image(image))


def _with_size(
    frame: Frame, clip: _Clip, image: Image.Image, source_size: tuple[int, int]
) -> Frame:
    """A camera keeps its intrinsics over all episodes."""
    return replace(
        frame,
        camera=f"{clip.camera.key} | {image.width}x{image.height}",
        width=image.width,
        height=image.height,
        source_width=source_size[0],
        source_height=source_size[1],
    )
