"""Where things are on this machine, from environment variables read when asked, not at import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

DATA_VARIABLE = "SPLAT_ASSETS_DATA"


@dataclass(frozen=True)
class Settings:
    """`data_root` is a local path or an fsspec URL; registry and scratch are always local."""

    data_root: str
    device: str

    @property
    def is_local(self) -> bool:
        return urlparse(self.data_root).scheme in ("", "file")

    @property
    def local_root(self) -> Path:
        """Local folder for the registry, resume state and staging."""
        if self.is_local:
            return Path(self.data_root.removeprefix("file://"))
        return Path(os.environ.get("SPLAT_ASSETS_SCRATCH", "data")).resolve()

    @property
    def registry_folder(self) -> Path:
        return self.local_root / "datasets"


def load_settings() -> Settings:
    """Settings from `SPLAT_ASSETS_DATA` (default `./data`) and `SPLAT_ASSETS_DEVICE` (`auto`)."""
    raw = os.environ.get(DATA_VARIABLE) or "data"
    root = raw if "://" in raw else str(Path(raw).expanduser().resolve())
    return Settings(root, os.environ.get("SPLAT_ASSETS_DEVICE") or "auto")
