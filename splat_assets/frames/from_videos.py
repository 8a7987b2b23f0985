"""Import of videos: every file is a camera and a sequence of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from splat_assets.compute import available_threads
from splat_assets.datasets.options import FrameOptions
from splat_assets.frames.from_photos import MAX_WORKERS, in_order
from splat_assets.frames.images import UnreadableError, write_image
from splat_assets.frames.names import flat_stems, scene_videos
from splat_assets.frames.seen import Seen
from splat_assets.frames.table import Frame
from splat_assets.frames.video import Sample, VideoInfo, probe, sample_video
from splat_assets.progress import Progress
from splat_assets.sources.raw_dataset import RawDataset

_SURPLUS = 2  # frames sampled for each one asked for, before blurred ones and duplicates go


@dataclass(frozen=True)
class _Plan:
    """A readable video, and the part of it that is used."""

    source_file: str
    stem: str
    info: VideoInfo
    seconds: float | None  # length of the part used; None when the file does not tell


def import_videos(
    raw: RawDataset, paths: Sequence[str], out: Path, options: FrameOptions, progress: Progress
) -> Seen:
    """Sample every video among `paths` into `out/images`.

    Where `fps` would give far more frames than `max_frames`, every n-th instant of its grid is used
    instead, so that long videos cost no more than they bring.
    """
    seen = Seen("frames")
    plans = _plan(raw, paths, options, seen, progress)
    total = sum(plan.seconds or 0.0 for plan in plans)
    stride = max(1, int(total * options.fps / (_SURPLUS * options.max_frames)))
    fps = options.fps / stride
    seen.facts.update(fps=fps, num_videos=len(plans))
    done = 0.0
    (out / "images").mkdir(parents=True, exist_ok=True)
    for number, plan in enumerate(plans):
        share = (plan.seconds or 0.0) / total if total else 1 / len(plans)
        span = progress.span(done, min(1.0, done + share))
        where = f"video {number + 1} of {len(plans)}" if len(plans) > 1 else "the video"
        try:
            found = _import_video(plan, raw.files, out, options, fps, span, where)
        except UnreadableError as error:
            _leave_out(seen, plan.source_file, str(error), progress)
            continue
        seen.frames += found
        _check_end(plan, found, fps, progress, seen)
        done += share
    return seen


def _plan(
    raw: RawDataset, paths: Sequence[str], options: FrameOptions, seen: Seen, progress: Progress
) -> list[_Plan]:
    videos = scene_videos(paths)
    stems = flat_stems(videos, then="_") if len(videos) > 1 else ["frame"]
    plans = []
    for source, stem in zip(videos, stems, strict=False):
        try:
            info = probe(raw.files / source, options.video_stream)
        except UnreadableError as error:
            _leave_out(seen, source, str(error), progress)
            continue
        seconds = info.duration_sec
        if seconds is not None:
            seconds = min(seconds, options.end_sec or seconds) - options.start_sec
            if seconds <= 0:
                reason = f"it ends at {info.duration_sec:.1f} s, before start_sec"
                _leave_out(seen, source, reason, progress)
                continue
        if info.hdr:
            progress.warn(
                f"{source} is HDR; its colours will look pale, as they are not tone mapped."
            )
        plans.append(_Plan(source, stem, info, seconds))
    return plans


def _import_video(
    plan: _Plan,
    files: Path,
    out: Path,
    options: FrameOptions,
    fps: float,
    progress: Progress,
    where: str,
) -> list[Frame]:
    def samples() -> Iterator[tuple[int, Sample]]:
        found = sample_video(
            files / plan.source_file,
            fps=fps,
            stream=options.video_stream,
            start_sec=options.start_sec,
            end_sec=options.end_sec,
        )
        for index, sample in enumerate(found):
            seconds = sample.time_sec - options.start_sec
            fraction = seconds / plan.seconds if plan.seconds else 0.0
            progress.update(
                fraction, f"Cutting frames from {where}, at {sample.time_sec:.1f} s", frames=index
            )
            yield index, sample

    def write(item: tuple[int, Sample]) -> Frame:
        index, sample = item
        image = sample.image(options.max_long_side)
        name = f"{plan.stem}_{sample.slot:05d}.jpg"
        write_image(image, out / "images" / name, None)
        stream = f" | stream {plan.info.stream}" if plan.info.stream else ""
        return Frame(
            name=name,
            source_file=plan.source_file,
            index=index,
            timestamp_sec=sample.time_sec,
            camera=f"{plan.source_file}{stream} | {image.width}x{image.height}",
            width=image.width,
            height=image.height,
            source_width=sample.size[0],
            source_height=sample.size[1],
            stats=sample.stats,
            sequence=plan.source_file,
        )

    workers = min(MAX_WORKERS, available_threads())
    with ThreadPoolExecutor(workers, "frames") as pool:
        return [future.result() for _, future in in_order(write, samples(), pool, workers)]


def _check_end(
    plan: _Plan, frames: Sequence[Frame], fps: float, progress: Progress, seen: Seen
) -> None:
    """Say so when a video ends well before the length that it claims."""
    if not frames:
        _leave_out(seen, plan.source_file, "no frame in the part asked for", progress)
    elif plan.seconds is not None:
        begin = frames[0].timestamp_sec
        got, claimed = frames[-1].timestamp_sec - begin, plan.seconds
        if claimed - got > max(2.0, 0.05 * claimed) + 1.5 / fps:
            progress.warn(
                f"{plan.source_file} is cut off or damaged: {got:.0f} of {claimed:.0f} s can be "
                "decoded, and those are used."
            )
            seen.facts["cut_off"] = [*seen.facts.get("cut_off", []), plan.source_file]  # type: ignore[misc]


def _leave_out(seen: Seen, source: str, reason: str, progress: Progress) -> None:
    seen.unreadable[source] = reason
    progress.warn(f"{source} is left out: {reason}.")
