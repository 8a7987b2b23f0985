from __future__ import annotations

from pathlib import Path

import pytest

from splat_assets_tests.sources.samples import Fetcher


@pytest.fixture
def fetch(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path)
