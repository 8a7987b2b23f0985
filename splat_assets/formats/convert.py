"""`convert`: splat files in, one splat file out, in any two formats, with edits on the way."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splat_assets.formats.edit import Edit, apply
from splat_assets.formats.merge import merge
from splat_assets.formats.registry import (
    LOD_META,
    open_rows,
    read_splat,
    writable_format,
    write_splat,
)
from splat_assets.progress import Progress, silent


@dataclass(frozen=True)
class Conversion:
    """What was read, what became of it, and what was written."""

    format: str
    num_read: int
    num_gaussians: int
    sh_degree: int
    bytes: int
    seconds: float
    dropped: dict[str, int]  # why: how many
    notes: tuple[str, ...]  # what the format could not hold

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "notes": list(self.notes)}


def convert(
    sources: Sequence[Path | str],
    target: Path | str,
    edit: Edit | None = None,
    *,
    progress: Progress | None = None,
) -> Conversion:
    """Read, merge, edit, and write atomically in the format that the ending of `target` names.

    Raises `UserError` when a source cannot be read, an edit is impossible or leaves nothing, or
    the ending names no format that is written.
    """
    progress = progress or silent()
    target = Path(target)
    found = writable_format(target)  # before any work is done
    began = time.perf_counter()
    if found.name == "streamed-sog" and len(sources) == 1 and edit in (None, Edit()):
        streamed = _stream(Path(sources[0]), target, progress)
        return replace(streamed, seconds=round(time.perf_counter() - began, 2))
    splats = []
    for number, source in enumerate(sources):
        progress.update(0.3 * number / len(sources), f"Reading {Path(source).name}")
        splats.append(read_splat(source))
    whole = merge(splats)
    num_read = len(whole)
    progress.update(0.3, "Editing")
    edited = apply(whole, edit or Edit(), progress.span(0.3, 0.6))
    kept = edited.gaussians
    del splats, whole  # writing takes memory, too
    notes = []
    if kept.sh_degree and not found.keeps_sh:
        notes.append(f"{found.name} holds no view-dependent colour; it was left out")
    for flag, what in (("antialiased", "is antialiased"), ("flat", "is made of flat discs (2DGS)")):
        if getattr(kept, flag) and flag not in found.keeps:
            notes.append(f"{found.name} cannot say that the splat {what}")
    progress.update(0.6, f"Writing {target.name}")
    write_splat(target, kept, progress.span(0.6, 1.0))
    return Conversion(
        format=found.name,
        num_read=num_read,
        num_gaussians=len(kept),
        sh_degree=kept.sh_degree if found.keeps_sh else 0,
        bytes=_size(target),
        seconds=round(time.perf_counter() - began, 2),
        dropped=edited.dropped,
        notes=tuple(notes),
    )


def _stream(source: Path, target: Path, progress: Progress) -> Conversion:
    """Unedited, so that a PLY is never in memory as a whole."""
    from splat_assets.compression.streamed import write_streamed

    rows = open_rows(source)
    written = write_streamed(target, rows, progress=progress)
    return Conversion(
        format="streamed-sog",
        num_read=len(rows),
        num_gaussians=written.counts[0] + written.environment,
        sh_degree=rows.sh_degree,
        bytes=written.bytes,
        seconds=0.0,
        dropped={"not drawable": written.dropped} if written.dropped else {},
        notes=tuple(note.removesuffix(".") for note in written.notes),
    )


def _size(path: Path) -> int:
    """Of the file, or of all of a streamed SOG."""
    if path.name != LOD_META:
        return path.stat().st_size
    return sum(p.stat().st_size for p in path.parent.rglob("*") if p.is_file())
