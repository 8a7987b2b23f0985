"""A stage that does nothing, in a module that imports little: child processes load it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.progress import Progress
from splat_assets.stages import STAGES


def empty_stage(*, out: Path, progress: Progress, source: str | None = None, **_given: Any) -> Any:
    """Any stage's signature; writes an artifact of one small file."""
    asset = out.parent.name
    (out / "empty.txt").write_text(source or "")
    module, _, name = STAGES[asset].contract.partition(":")
    contract = getattr(import_module(module), name)
    manifest = build_manifest(out, contract.KIND, skipped="an empty stage, for measuring")
    write_manifest(out, manifest)
    return contract.open(out)
