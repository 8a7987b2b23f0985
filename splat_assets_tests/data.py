"""Inputs made for the tests: the synthetic capture and small variations of it."""

from __future__ import annotations

from splat_assets.demo import Capture, Truth, center_errors, compare_centers, make_capture

__all__ = ["Capture", "Truth", "center_errors", "compare_centers", "make_capture"]
