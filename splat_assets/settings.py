"""Where things are on this machine, from environment variables read when asked, not at import."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from splat_assets.errors import UserError

DATA_VARIABLE = "SPLAT_ASSETS_DATA"
SCRATCH_GB = 100.0


@dataclass(frozen=True)
class Settings:
    """`data_root` is a local path or an fsspec URL; scratch and resume state are always local."""

    data_root: str
    device: str
    executor: str = "multiprocess"  # who executes steps, see defs/executors.py
    scratch_bytes: int = int(SCRATCH_GB * 1e9)  # room for copies of remote artifacts on this host
    step_cpus: float = 2.0  # cores that a heavy step asks an engine of many hosts for
    nice: int = 10  # by how much runs give way to everything else on this machine, 0 to 19

    @property
    def is_local(self) -> bool:
        return urlparse(self.data_root).scheme in ("", "file")

    @property
    def local_root(self) -> Path:
        """Local folder for resume state, staging and copies of remote artifacts."""
        if self.is_local:
            return Path(self.data_root.removeprefix("file://"))
        return Path(os.environ.get("SPLAT_ASSETS_SCRATCH", "data")).resolve()

    @property
    def registry_folder(self) -> Path | str:
        """Where the registry's files are: beside the artifacts, so that a team shares both."""
        if self.is_local:
            return self.local_root / "datasets"
        return self.data_root.rstrip("/") + "/datasets"


def load_settings() -> Settings:
    """Settings from the environment.

    `SPLAT_ASSETS_DATA` (default `./data`), `SPLAT_ASSETS_DEVICE` (`auto`), `SPLAT_ASSETS_EXECUTOR`
    (`multiprocess`), `SPLAT_ASSETS_SCRATCH_GB` (100), `SPLAT_ASSETS_STEP_CPUS` (2),
    `SPLAT_ASSETS_NICE` (10). Raises `UserError` when a number is none.
    """
    raw = os.environ.get(DATA_VARIABLE) or "data"
    return Settings(
        raw if "://" in raw else str(Path(raw).expanduser().resolve()),
        os.environ.get("SPLAT_ASSETS_DEVICE") or "auto",
        executor=os.environ.get("SPLAT_ASSETS_EXECUTOR") or "multiprocess",
        scratch_bytes=int(_positive("SPLAT_ASSETS_SCRATCH_GB", SCRATCH_GB) * 1e9),
        step_cpus=_positive("SPLAT_ASSETS_STEP_CPUS", 2.0),
        nice=_nice("SPLAT_ASSETS_NICE", 10),
    )


def _positive(variable: str, default: float) -> float:
    text = os.environ.get(variable) or str(default)
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if number > 0:
        return number
    raise UserError(f"{variable} is {text!r}; set it to a number above zero or unset it.")


def _nice(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if text.isdecimal() and int(text) <= 19:
        return int(text)
    raise UserError(f"{variable} is {text!r}; set it to a whole number from 0 to 19 or unset it.")
