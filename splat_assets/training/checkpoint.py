"""Checkpoints: everything a bit-equal continuation needs, written whole or not at all.

A checkpoint belongs to one input and one set of options (its fingerprint); another's, a damaged
one, or one of an older format is refused and the run starts afresh. The trainer's caller deletes
the folder once the artifact is published; until then `unfinished_splat` takes the splat out of it,
so that a run that was stopped leaves something to look at.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splat_assets.artifacts.manifest import combine_version
from splat_assets.datasets.options import TrainOptions
from splat_assets.errors import UserError
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import CHECKPOINT
from splat_assets.training.outputs import to_gaussians

_ARRIVING = ".training.ckpt.tmp"
_FORMAT = 3


@dataclass(frozen=True)
class Unfinished:
    """The splat of a run that is not finished."""

    gaussians: Gaussians
    step: int
    steps: int  # of the whole run


def fingerprint(options: TrainOptions, poses_version: str) -> str:
    """What a checkpoint must agree with: the poses and all options but its own interval."""
    values = options.model_dump(mode="json", exclude={"checkpoint_every_sec"})
    parts = {"options": json.dumps(values, sort_keys=True), "poses": poses_version}
    return combine_version([*parts.items(), ("format", str(_FORMAT))])


def save_checkpoint(folder: Path, mark: str, state: dict[str, Any]) -> Path:
    """Write `state` (tensors, numbers, strings, lists, dicts) atomically. Raises OSError.

    It goes to the disk as it is gathered: a copy in memory would cost as much as training does. A
    crash meanwhile leaves the checkpoint before as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, arriving = folder / CHECKPOINT, folder / _ARRIVING
    try:
        with arriving.open("wb") as stream:
            torch.save({"fingerprint": mark, "state": state}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        arriving.replace(path)
    finally:
        arriving.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: Path, mark: str) -> tuple[dict[str, Any] | None, str]:
    """The state saved for `mark`, or None and the reason ("" when there is no checkpoint)."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None, ""
    try:
        saved = _read(path)
        found, state = saved["fingerprint"], saved["state"]
    except Exception as error:  # torch raises many kinds for a damaged file
        why = _first_line(error)
        return None, f"The checkpoint {path} is damaged ({why}); training starts again."
    if found != mark:
        return None, "The checkpoint belongs to other options or poses; training starts again."
    return state, ""


def unfinished_splat(folder: Path) -> Unfinished:
    """The splat as it was when the checkpoint in `folder` was written.

    Raises `UserError` when there is none, or it is damaged.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        raise UserError(f"{folder} holds no checkpoint of an unfinished training.")
    try:
        state = _read(path)["state"]
        params = {name: entry["value"] for name, entry in state["optimizer"].items()}
        gaussians, _ = clean(to_gaussians(params), drop_invisible=True)
        return Unfinished(gaussians, int(state["step"]), int(state["steps"]))
    except Exception as error:  # torch raises many kinds for a damaged file
        raise UserError(f"The checkpoint {path} is damaged ({_first_line(error)}).") from None


def delete_checkpoint(folder: Path) -> None:
    """Remove the checkpoint, if any: for the caller, once the artifact is published."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """The contents; raises on any damage (torch itself does not compare the checksums)."""
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise ValueError(f"the checksum of {bad} is wrong")
    # weights_only: nothing in the file can run code
    return torch.load(path, map_location="cpu", weights_only=True)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
