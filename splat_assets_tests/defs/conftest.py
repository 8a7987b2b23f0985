"""What the tests of the Hub sensors share: a Hub, a world, and pictures to serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from splat_assets_tests.defs.hub_world import Hub
from splat_assets_tests.hub_standin import HubStandIn
from splat_assets_tests.sources.samples import photos, write


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    with HubStandIn(page=100) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Hub]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        yield Hub(tmp_path / "data", instance)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write(tmp_path / "pictures", photos(2))
