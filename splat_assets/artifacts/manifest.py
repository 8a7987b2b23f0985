"""`manifest.json`: what an artifact folder holds, where it came from, and the version of its data.

The manifest is written last, so a folder without one is unfinished by definition.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from splat_assets.errors import UserError

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class FileEntry:
    """One file: POSIX path relative to the artifact folder, size, sha256 in hex."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    `data_version` identifies the artifact's meaning: the hash of those files that the next stage
    reads (never of timings or logs), so that equal data means an equal version.
    `summary` holds the figures shown in the UI and in `splat-assets status`.
    `skipped` says, in a sentence, why the stage had nothing to do (poses already given, …).
    `options`, `inputs`, `dataset`, `run_id`, `code_version` and `seconds` are filled by whoever
    publishes the artifact (`stages.run_stage`), not by the stage.
    """

    kind: str
    data_version: str
    files: tuple[FileEntry, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    skipped: str | None = None
    dataset: str = ""
    run_id: str = ""
    code_version: str = ""
    seconds: float = 0.0
    created: float = 0.0
    format: int = FORMAT

    @property
    def total_bytes(self) -> int:
        return sum(entry.bytes for entry in self.files)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def hash_file(path: Path) -> str:
    """sha256 of a file, in hex, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def list_files(folder: Path) -> list[Path]:
    """Every regular file below `folder` except the manifest, sorted by POSIX path."""
    found = [p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST]
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def combine_version(parts: Iterable[tuple[str, str]]) -> str:
    """A data version from (name, hash) pairs; independent of their order."""
    digest = hashlib.sha256()
    for name, value in sorted(parts):
        digest.update(f"{name}\0{value}\n".encode())
    return digest.hexdigest()[:32]


def build_manifest(
    folder: Path,
    kind: str,
    *,
    versioned: Iterable[str] | None = None,
    summary: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    skipped: str | None = None,
    hashes: dict[str, str] | None = None,
) -> Manifest:
    """Hash what lies in `folder` and describe it.

    Args:
        versioned: POSIX paths or folder prefixes ending in "/" whose content makes up the data
            version; all files when None.
        hashes: sha256 by POSIX path, for files whose hash is already known.
    """
    known = hashes or {}
    entries = []
    for path in list_files(folder):
        name = path.relative_to(folder).as_posix()
        entries.append(FileEntry(name, path.stat().st_size, known.get(name) or hash_file(path)))
    chosen = entries
    if versioned is not None:
        rules = tuple(versioned)
        chosen = [
            e
            for e in entries
            if any(e.path == r or (r.endswith("/") and e.path.startswith(r)) for r in rules)
        ]
    version = combine_version([(e.path, e.sha256) for e in chosen] + [("kind", kind)])
    return Manifest(
        kind=kind,
        data_version=version,
        files=tuple(entries),
        summary=summary or {},
        options=options or {},
        skipped=skipped,
        created=time.time(),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` atomically (temporary file, flush to disk, rename)."""
    write_text_atomic(folder / MANIFEST, manifest.to_json())


def read_manifest(folder: Path, kind: str | None = None) -> Manifest:
    """Read a folder's manifest; `UserError` when it is missing, damaged or of another kind."""
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{folder} is not a finished artifact: it has no {MANIFEST}.") from None
    manifest = parse_manifest(text, str(path))
    if kind is not None and manifest.kind != kind:
        raise UserError(f"{folder} holds {manifest.kind!r}, not {kind!r}.")
    return manifest


def parse_manifest(text: str, where: str) -> Manifest:
    """A manifest from its JSON text; `UserError` naming `where` when it is damaged."""
    try:
        raw = json.loads(text)
        raw["files"] = tuple(FileEntry(**entry) for entry in raw["files"])
        return Manifest(**raw)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{where} is damaged ({error}); run the stage again.") from None


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise `UserError` naming the first file that is missing or of another size."""
    for entry in manifest.files:
        path = folder / entry.path
        if not path.is_file():
            raise UserError(f"{path} is missing; run the stage {manifest.kind!r} again.")
        if path.stat().st_size != entry.bytes:
            raise UserError(f"{path} was changed after it was written; run the stage again.")


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_bytes_atomic` for text, in UTF-8."""
    write_bytes_atomic(path, text.encode("utf-8"))


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link where the file system allows it, copy otherwise. Creates parent folders."""
    import shutil

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
