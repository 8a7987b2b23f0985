"""Where the tests find real data that is not part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def shared_data(*parts: str) -> Path:
    """A path below the shared data folder; skips the calling test, with the reason, without it.

    The folder is `$SPLAT_ASSETS_TEST_DATA`, by default `../shared/data` beside the checkout.
    """
    base = Path(os.environ.get("SPLAT_ASSETS_TEST_DATA") or ROOT.parent / "shared" / "data")
    path = base.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real data not here: {path} (set SPLAT_ASSETS_TEST_DATA)")
    return path
