"""Import of photos, a few at a time: loose ones, and those that come with poses."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from splat_assets.compute import available_threads
from splat_assets.datasets.options import FrameOptions
from splat_assets.frames.given import Given
from splat_assets.frames.images import UnreadableError
from splat_assets.frames.masks import match_masks
from splat_assets.frames.names import flat_stems, scene_photos
from splat_assets.frames.photos import Photo, PhotoResult, import_photo
from splat_assets.frames.seen import Seen
from splat_assets.frames.selection import evenly
from splat_assets.frames.table import Frame
from splat_assets.progress import Progress
from splat_assets.sources.media import is_mask
from splat_assets.sources.raw_dataset import RawDataset

MAX_WORKERS = 4  # each holds one decoded photo; more hardly helps and costs memory
# Photos decoded for each one asked for: some will turn out unreadable, blurred or copies.
_SURPLUS = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


def import_photos(
    raw: RawDataset, paths: Sequence[str], out: Path, options: FrameOptions, progress: Progress
) -> Seen:
    """Import the loose photos among `paths` (all files, natural order) into `out`."""
    sources = scene_photos(paths)
    masks = match_masks(paths, sources)
    if not masks and any(is_mask(path) for path in paths):
        progress.warn("No mask belongs to a photo by its name, so the masks are left out.")
    hashes = _hashes(raw)
    photos = [
        Photo(source, index, stem, mask_file=masks.get(source, ""), sha256=hashes.get(source))
        for index, (source, stem) in enumerate(zip(sources, flat_stems(sources), strict=True))
    ]
    chosen = set(evenly(len(photos), _SURPLUS * options.max_frames))
    seen = _import_all(
        [photo for photo in photos if photo.index in chosen], raw, out, options, progress
    )
    seen.passed_over = [
        Frame(name="", source_file=photo.source_file, index=photo.index)
        for photo in photos
        if photo.index not in chosen
    ]
    return seen


def import_given(
    raw: RawDataset, given: Given, out: Path, options: FrameOptions, progress: Progress
) -> Seen:
    """Import exactly the pictures that have poses, under the names their poses know."""
    sources = [picture.source_file for picture in given.pictures]
    paths = [entry.path.removeprefix("files/") for entry in raw.manifest.files]
    masks = match_masks(paths, sources)
    hashes = _hashes(raw)
    photos = [
        Photo(
            source_file=picture.source_file,
            index=index,
            stem="",
            name=picture.name,
            split=picture.split,
            mask_file=picture.mask_file or masks.get(picture.source_file, ""),
            camera_size=picture.camera_size,
            sha256=hashes.get(picture.source_file),
        )
        for index, picture in enumerate(given.pictures)
    ]
    seen = _import_all(photos, raw, out, options, progress)
    for name in given.missing:
        seen.unreadable[name] = "missing"
    if given.missing:
        progress.warn(
            f"{len(given.missing)} pictures with poses are not in the dataset, "
            f"the first is {given.missing[0]}."
        )
    seen.facts["num_missing"] = len(given.missing)
    return seen


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[tuple[Item, Future[Result]]]:
    """Run `function` on a pool, at most `ahead` items before the one being given back, in order."""
    pending: deque[tuple[Item, Future[Result]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) > ahead:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        for _, future in pending:
            future.cancel()


def _import_all(
    photos: Sequence[Photo], raw: RawDataset, out: Path, options: FrameOptions, progress: Progress
) -> Seen:
    def run(photo: Photo) -> PhotoResult:
        return import_photo(photo, raw.files, out, options.max_long_side)

    seen = Seen("photos")
    taken: list[float] = []
    workers = min(MAX_WORKERS, available_threads())
    with ThreadPoolExecutor(workers, "photos") as pool:
        for number, (photo, future) in enumerate(in_order(run, photos, pool, 2 * workers)):
            progress.update(
                number / len(photos), f"Reading photo {number + 1} of {len(photos)}", frames=number
            )
            try:
                result = future.result()
            except UnreadableError as error:
                seen.unreadable[photo.source_file] = str(error)
                progress.warn(f"{photo.source_file} cannot be read ({error}) and is left out.")
                continue
            if result.problem:
                progress.warn(result.problem)
            seen.frames.append(result.frame)
            taken.append(result.taken_sec)
    known = [seconds for seconds in taken if not math.isnan(seconds)]
    if known:  # seconds since the first photo
        first = min(known)
        seen.frames = [
            replace(frame, timestamp_sec=round(seconds - first, 3))
            for frame, seconds in zip(seen.frames, taken, strict=True)
        ]
    return seen


def _hashes(raw: RawDataset) -> dict[str, str]:
    return {
        entry.path.removeprefix("files/"): entry.sha256
        for entry in raw.manifest.files
        if entry.path.startswith("files/")
    }
