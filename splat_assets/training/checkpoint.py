"""Checkpoints: everything a bit-equal continuation needs, written whole or not at all.

A checkpoint belongs to one input and one set of options (its fingerprint); another's, or one of an
older format, is refused and the run starts afresh. The trainer's caller deletes the folder once the
artifact is published.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch

from splat_assets.artifacts.manifest import combine_version, write_bytes_atomic
from splat_assets.datasets.options import TrainOptions

CHECKPOINT = "training.ckpt"
_FORMAT = 1


def fingerprint(options: TrainOptions, poses_version: str) -> str:
    """What a checkpoint must agree with: the poses and all options but its own interval."""
    values = options.model_dump(mode="json", exclude={"checkpoint_every_sec"})
    parts = {"options": json.dumps(values, sort_keys=True), "poses": poses_version}
    return combine_version([*parts.items(), ("format", str(_FORMAT))])


def save_checkpoint(folder: Path, mark: str, state: dict[str, Any]) -> Path:
    """Write `state` (tensors, numbers, strings, lists, dicts) atomically. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"fingerprint": mark, "state": state}, buffer)
    path = folder / CHECKPOINT
    write_bytes_atomic(path, buffer.getvalue())
    return path


def load_checkpoint(folder: Path, mark: str) -> tuple[dict[str, Any] | None, str]:
    """The state saved for `mark`, or None and the reason ("" when there is no checkpoint)."""
    path = folder / CHECKPOINT
    if not path.exists():
        return None, ""
    try:
        # weights_only: nothing in the file can run code
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found, state = saved["fingerprint"], saved["state"]
    except Exception as error:  # torch raises many kinds for a damaged file
        return None, f"The checkpoint {path} is damaged ({error}); training starts again."
    if found != mark:
        return None, "The checkpoint belongs to other options or poses; training starts again."
    return state, ""


def delete_checkpoint(folder: Path) -> None:
    """Remove the checkpoint, if any: for the caller, once the artifact is published."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
