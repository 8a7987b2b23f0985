"""Checkpoints survive crashes, damage is noticed, and a stopped run leaves a splat to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from splat_assets.errors import UserError
from splat_assets.gaussians.splat_model import CHECKPOINT
from splat_assets.training.checkpoint import (
    load_checkpoint,
    save_checkpoint,
    unfinished_splat,
)
from splat_assets.training.optimizer import SplatOptimizer

NAMES = ("means", "scales", "quats", "opacities", "sh0", "shN")


def state(step: int = 7, count: int = 500) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    shapes = {"means": (3,), "scales": (3,), "quats": (4,), "sh0": (1, 3), "shN": (3, 3)}
    tensors = {
        name: torch.randn(count, *shapes.get(name, ()), generator=generator) for name in NAMES
    }
    optimizer = SplatOptimizer(tensors, dict.fromkeys(NAMES, 1e-3))
    return {"step": step, "steps": 20, "optimizer": optimizer.state_dict(), "curve": []}


def means(saved: dict[str, Any]) -> torch.Tensor:
    return saved["optimizer"]["means"]["value"]


@pytest.mark.parametrize("how", ["half written", "disk full", "cancelled"])
def test_a_crash_while_saving_keeps_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    save_checkpoint(tmp_path, "mark", state(7))
    real = torch.save
    errors = {"half written": RuntimeError, "disk full": OSError, "cancelled": KeyboardInterrupt}

    def breaks(content: Any, stream: Any) -> None:
        stream.write(b"half of it")
        raise errors[how]

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(errors[how]):
        save_checkpoint(tmp_path, "mark", state(8))
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    found, reason = load_checkpoint(tmp_path, "mark")
    assert reason == ""
    assert found is not None and found["step"] == 7
    assert torch.equal(means(found), means(state(7)))
    # what a killed process leaves is written over
    (tmp_path / ".training.ckpt.tmp").write_bytes(b"remains")
    monkeypatch.setattr(torch, "save", real)
    save_checkpoint(tmp_path, "mark", state(9))
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]


@pytest.mark.parametrize("damage", ["one bit", "cut", "empty", "another file"])
def test_damage_is_said(tmp_path: Path, damage: str) -> None:
    path = save_checkpoint(tmp_path, "mark", state())
    content = bytearray(path.read_bytes())
    if damage == "one bit":  # in the middle of a tensor, where torch itself sees nothing
        content[content.index(means(state()).numpy().tobytes()[:64]) + 30] ^= 4
    elif damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "empty":
        content.clear()
    else:
        content = bytearray(b"solid ground")
    path.write_bytes(content)
    found, reason = load_checkpoint(tmp_path, "mark")
    assert found is None
    assert "is damaged" in reason and "\n" not in reason
    with pytest.raises(UserError, match="is damaged"):
        unfinished_splat(tmp_path)


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "mark", state())
    found, reason = load_checkpoint(tmp_path, "another")
    assert found is None
    assert "other options" in reason
    assert load_checkpoint(tmp_path / "nowhere", "mark") == (None, "")


def test_saving_holds_no_copy_in_memory(tmp_path: Path) -> None:
    """A run of millions of Gaussians must not need its memory twice every half minute."""
    import resource

    content = {"step": 1, "steps": 2, "optimizer": {"x": torch.zeros(25_000_000)}}  # 100 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    save_checkpoint(tmp_path, "mark", content)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60_000  # kilobytes


def test_the_splat_of_a_stopped_run(tmp_path: Path) -> None:
    saved = state()
    means(saved)[3, 1] = torch.nan  # what would not be drawn is left out, as at the end of a run
    saved["optimizer"]["opacities"]["value"].clamp_(min=-3)
    save_checkpoint(tmp_path, "mark", saved)
    splat = unfinished_splat(tmp_path)
    assert (splat.step, splat.steps) == (7, 20)
    assert len(splat.gaussians) == 499
    np.testing.assert_array_equal(splat.gaussians.means[:3], means(saved)[:3].numpy())
    with pytest.raises(UserError, match="no checkpoint"):
        unfinished_splat(tmp_path / "nowhere")
