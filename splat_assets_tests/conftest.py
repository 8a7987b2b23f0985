"""Fixtures every test folder may use."""

from __future__ import annotations

import pytest

from splat_assets_tests.data import Capture, make_capture


@pytest.fixture(scope="session")
def small_capture(tmp_path_factory: pytest.TempPathFactory) -> Capture:
    """Twelve photos of 320 × 240 with exact ground truth; made once a session, do not write."""
    return make_capture(
        tmp_path_factory.mktemp("capture"), num_images=12, width=320, height=240, seed=0
    )
