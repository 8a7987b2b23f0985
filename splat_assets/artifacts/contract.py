"""The base of what crosses a wall between stages: a small frozen view over an artifact folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from splat_assets.artifacts.manifest import Manifest, check_files, read_manifest


@dataclass(frozen=True)
class ArtifactFolder:
    """An artifact folder and its manifest. Subclasses set `KIND` and add typed access."""

    KIND: ClassVar[str]

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a finished artifact; `UserError` when it is missing, damaged or of another kind."""
        folder = Path(path)
        return cls(folder, read_manifest(folder, cls.KIND))

    def validate(self) -> None:
        """Raise `UserError` when a file of the manifest is missing or of another size."""
        check_files(self.path, self.manifest)

    @property
    def data_version(self) -> str:
        return self.manifest.data_version

    @property
    def summary(self) -> dict[str, Any]:
        return self.manifest.summary

    @property
    def skipped(self) -> str | None:
        """Why the stage had nothing to do, or None."""
        return self.manifest.skipped

    @property
    def given(self) -> Path:
        """What the source already knows about later stages, carried down to the stage that uses it.

        `given/transforms.json` (+ `transforms_test.json`), `given/sparse/*.bin|txt`, or
        `given/splat.ply`; the folder is absent when the source brings only pictures.
        """
        return self.path / "given"
