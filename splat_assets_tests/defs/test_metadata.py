"""What the UI is shown of an artifact."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from splat_assets.compression.compress import compress_splat
from splat_assets.datasets.options import CompressOptions
from splat_assets.datasets.spec import DatasetSpec
from splat_assets.defs.metadata import describe
from splat_assets.progress import silent
from splat_assets.stages import StageOutcome
from splat_assets_tests.compression.splat_models import CPU, given_model, two_tone_ball


@pytest.mark.parametrize("location", ["/data/garden/run", "s3://bucket/garden/run/"])
def test_paths_are_those_of_the_store(location: str, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    artifact = compress_splat(
        given_model(tmp_path / "splat", two_tone_ball()),
        tmp_path / "out",
        options=CompressOptions(viewer=False, finetune=False),
        compute=CPU,
        progress=silent(),
    )
    outcome = StageOutcome("compressed_splat", artifact, False, 1.0, location)
    shown = describe(outcome, DatasetSpec(name="garden", source="/photos"))
    sog = shown["sog"]
    assert isinstance(sog, dg.PathMetadataValue)
    assert sog.path == f"{location.rstrip('/')}/scene.sog"
    assert shown["sog_bytes"] == artifact.sog.stat().st_size
    assert "pictures_failed" not in shown
