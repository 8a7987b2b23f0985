"""Datasets of pictures become compact, checked, browsable 3D Gaussian splats.

Importing this package is cheap on purpose: torch, pycolmap and numba are imported by the steps
that need them, so that the web UI's code server starts in about a second.
"""

__version__ = "0.1.0"
