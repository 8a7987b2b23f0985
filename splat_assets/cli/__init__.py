"""The command line: `splat-assets …`, thin commands over the library and the graph."""

from splat_assets.cli.app import main

__all__ = ["main"]
