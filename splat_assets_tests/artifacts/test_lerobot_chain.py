"""A real robot dataset from the stand-in Hub through the chain, until its fixed camera stops it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from splat_assets.artifacts.store import ArtifactStore
from splat_assets.compute import Compute
from splat_assets.datasets.spec import make_spec
from splat_assets.errors import UserError
from splat_assets.frames.frame_set import FrameSet
from splat_assets.progress import silent
from splat_assets.stages import run_stage, status
from splat_assets_tests.hub_standin import HubStandIn
from splat_assets_tests.paths import shared_data

CPU = Compute("cpu", "numba", "", 1)


def test_from_the_hub_to_the_fixed_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shared_data("lerobot_v21")
    spec = make_spec(
        name="g1",
        source="hf://datasets/robots/g1",
        options={"source": {"episodes": 1}, "frames": {"max_frames": 24, "max_long_side": 480}},
    )
    store = ArtifactStore(str(tmp_path / "data"), tmp_path / "data")

    def run(asset: str) -> object:
        return run_stage(asset, spec, store, "run", CPU, silent()).artifact

    with HubStandIn() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        hub.add("robots/g1", source)
        raw = run("raw_dataset")
        assert not any("episode_000000" in path for path in hub.paths if "/resolve/" in path)
    assert raw.summary["lerobot"]["episodes"] == [1]  # type: ignore[attr-defined]

    frames = run("frames")
    assert isinstance(frames, FrameSet)
    table = pd.read_parquet(source / "data/chunk-000/episode_000001.parquet")
    kept = frames.kept()
    assert len(kept) >= 20 and set(kept["episode"]) == {1}
    assert np.array_equal(
        kept["timestamp_sec"], table["timestamp"].astype(float).to_numpy()[kept["index"]]
    )

    poses = run("camera_poses")
    assert "the camera stands still" in poses.skipped  # type: ignore[attr-defined]
    assert status(spec, store)["camera_poses"].state == "current"
    with pytest.raises(UserError, match="the camera stands still"):
        run("trained_splat")
