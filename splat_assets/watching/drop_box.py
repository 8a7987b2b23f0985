"""What lies in a drop box, and whether it has finished arriving.

Each archive, video, splat or folder directly in the box is an item. Its fingerprint is made of the
sizes and times of its files; an item has arrived when that stayed the same over two looks and
`settle_sec`, none of its files has the name of a half-finished download, and it can be opened.
Nothing is ever moved or deleted: the box is the original.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from splat_assets.artifacts.bucket import Bucket
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import DatasetSpec, make_spec
from splat_assets.errors import SourceError, TransientError, UserError
from splat_assets.sources import media
from splat_assets.sources.uri import default_name, parse_source
from splat_assets.watching.decide import revive
from splat_assets.watching.ledger import Entry
from splat_assets.watching.watch_list import DropBox

# What browsers, rsync, scp clients and sync programs call a file they are still writing.
PARTIAL_SUFFIXES = (
    ".part",
    ".partial",
    ".tmp",
    ".crdownload",
    ".download",
    ".filepart",
    ".opdownload",
)
MAX_SAME_NAMES = 1000


@dataclass(frozen=True)
class Item:
    """One thing in a box. `problem`: why it is no dataset; `unfinished`: a partial file of it."""

    name: str
    source: str  # absolute path or URL
    fingerprint: str
    latest: str = ""  # the time of its newest file, as text that sorts
    num_files: int = 0
    problem: str = ""
    unfinished: str = ""


Stamp = tuple[str, int, str]  # path below the item ("" for a file), bytes, time or ETag


def is_partial(name: str) -> bool:
    """True for the name of a file that is still being written."""
    return name.lower().endswith(PARTIAL_SUFFIXES) or name.endswith("~") or name.startswith("~")


def list_names(box: DropBox) -> list[str]:
    """The names directly in a box, sorted; hidden ones, system files and partial files left out.

    Raises `UserError` when there is no such folder or it may not be read, `TransientError` when a
    bucket does not answer.
    """
    if "://" in box.path:
        names = [name for name, _ in Bucket(box.path).names()]
    else:
        try:
            names = [path.name for path in Path(box.path).iterdir()]
        except OSError as error:
            raise UserError(
                f"The drop box {box.path} cannot be read ({error.strerror}); make the folder, or "
                f"`splat-assets watch remove {box.name}`."
            ) from None
    return sorted(name for name in names if not media.is_junk(name) and not is_partial(name))


def look_at(box: DropBox, names: Collection[str], deadline: float) -> Iterator[Item]:
    """The items of these names, as they are now. Ends early at `deadline` (`time.monotonic`)."""
    look = _look_in_bucket if "://" in box.path else _look_in_folder
    for name in names:
        if time.monotonic() >= deadline:
            return
        stamps = look(box, name)
        if stamps:
            yield _item(box, name, stamps)


def _look_in_folder(box: DropBox, name: str) -> list[Stamp]:
    """Sizes and times of a file or of all files of a folder; nothing when it has just gone."""
    top = Path(box.path) / name
    if not top.is_dir():
        try:
            stat = top.stat()
        except OSError:
            return []
        return [("", stat.st_size, str(stat.st_mtime_ns))]
    found = []
    for folder, subfolders, files in os.walk(top):
        subfolders[:] = sorted(each for each in subfolders if not media.is_junk(each))
        for file in files:
            path = Path(folder) / file
            if media.is_junk(file):
                continue
            try:
                stat = path.stat()
            except OSError:  # going away, or a link to nowhere
                continue
            found.append((path.relative_to(top).as_posix(), stat.st_size, str(stat.st_mtime_ns)))
    return sorted(found) or [("./", 0, "")]


def _look_in_bucket(box: DropBox, name: str) -> list[Stamp]:
    from splat_assets.sources.bucket import list_bucket

    listed = list_bucket(f"{box.path}/{name}")
    wanted = {path: stamp for path, stamp in listed.items() if not (path and media.is_junk(path))}
    return sorted((path, int(size), str(version)) for path, (size, version) in wanted.items())


def _item(box: DropBox, name: str, stamps: list[Stamp]) -> Item:
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()[:16]
    partial = next((path for path, _, _ in stamps if is_partial(PurePosixPath(path).name)), "")
    return Item(
        name=name,
        source=f"{box.path.rstrip('/')}/{name}",
        fingerprint=digest,
        latest=max(when for _, _, when in stamps),
        num_files=len(stamps),
        problem=_problem(name, [path for path, _, _ in stamps], sum(size for _, size, _ in stamps)),
        unfinished=partial,
    )


def _problem(name: str, paths: list[str], size: int) -> str:
    """Why this is no dataset, by names alone; "" when it could be one."""
    if paths != [""]:
        if any(media.is_of_interest(path) or media.is_archive(path) for path in paths):
            return ""
        return f"The folder {name} holds no photos, video or model."
    if size == 0:
        return f"{name} is empty (0 bytes)."
    splat = media.suffix(name) == ".ply" or media.suffix(name) in media.PACKED_SPLAT_SUFFIXES
    if media.is_archive(name) or media.is_video(name) or splat:
        return ""
    if media.is_image(name):
        return f"{name} is a single photo; put the photos of a scene into a folder of their own."
    return f"{name} is no archive, video, splat or folder of photos."


def merge_item(old: Entry | None, item: Item, box: DropBox, *, now: float) -> Entry:
    """The ledger's entry for an item that has just been looked at.

    `check_at` is when it counts as arrived: every change sets it anew.
    """
    settled_at = now + max(box.settle_sec, 0.001)  # never at the first look
    if old is None:
        entry = Entry(key_of(box, item.name), "drop", item.source, box.name, "found")
        entry = replace(entry, head=item.fingerprint, check_at=settled_at)
    elif old.head != item.fingerprint:
        entry = replace(old, head=item.fingerprint, check_at=settled_at, reason="")
    else:
        entry = old
    if old is not None and (
        old.state == "gone" or (old.state == "refused" and old.head != item.fingerprint)
    ):
        entry = replace(revive(entry), check_at=settled_at)
    if item.unfinished:
        entry = replace(entry, check_at=settled_at)
    if item.problem and entry.state == "found":
        entry = replace(entry, state="refused", reason=item.problem)
    return replace(entry, created=item.latest, watch=box.name, seen=now)


def key_of(box: DropBox, name: str) -> str:
    """The key of an item in the ledger."""
    return f"drop:{box.path}/{name}"


def check_readable(source: str) -> None:
    """Raise `SourceError` when an item cannot be opened: cut short, or no such thing at all."""
    if "://" in source:
        if source.lower().endswith(".zip"):
            folder, _, name = source.rpartition("/")
            place = Bucket(folder).place(name)
            try:
                with place.fs.open(place.path, "rb") as stream:
                    _check_zip(stream, source)
            except OSError as error:
                raise TransientError(f"{source} cannot be read now ({error}).") from None
        return
    ref = parse_source(source)
    if ref.kind == "archive" and source.lower().endswith(".zip"):
        _check_zip(source, source)


def _check_zip(file: Any, source: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            if not archive.namelist():
                raise SourceError(f"{source} is an empty zip.")
    except zipfile.BadZipFile:
        raise SourceError(
            f"{source} is not a whole zip; copy it into the drop box again."
        ) from None


def register_item(registry: Registry, box: DropBox, source: str) -> DatasetSpec:
    """Register the dataset of an item under a free name; one that is registered is kept.

    `walk.mp4` beside a dataset `walk` of something else becomes `walk-2`.
    """
    ref = parse_source(source)
    wanted = default_name(ref)
    names = set(registry.names())
    for number in range(1, MAX_SAME_NAMES):
        name = wanted if number == 1 else f"{wanted[:90]}-{number}"
        if name in names:
            try:
                known = registry.get(name)
            except UserError:
                continue
            if known.source == ref.uri:
                return known
            continue
        spec = make_spec(name=name, source=ref.uri, preset=box.preset, options=box.options)
        registry.add(spec)
        return spec
    raise UserError(f"{source}: there are {MAX_SAME_NAMES} datasets called {wanted} already.")
