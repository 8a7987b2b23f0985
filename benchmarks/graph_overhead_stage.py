"""A stage that does nothing, in a module that imports little: child processes load it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splat_assets.artifacts.contract import ArtifactFolder
from splat_assets.artifacts.manifest import build_manifest, read_manifest, write_manifest
from splat_assets.progress import Progress


def empty_stage(*, out: Path, progress: Progress, source: str | None = None, **_given: Any) -> Any:
    """Any stage's signature; writes an artifact of one small file."""
    (out / "empty.txt").write_text(source or "")
    kind = out.parent.name  # an artifact's kind is the name of its asset
    write_manifest(out, build_manifest(out, kind, skipped="an empty stage, for measuring"))
    return ArtifactFolder(out, read_manifest(out, kind))
