"""A synthetic photo capture with exact ground truth, made on the spot: the demo and the tests."""

from splat_assets.demo.capture import Capture, make_capture
from splat_assets.demo.truth import Truth, center_errors, compare_centers

__all__ = ["Capture", "Truth", "center_errors", "compare_centers", "make_capture"]
