"""What `splat_assets/defs/preload.py` is to the project, for the project with empty stages."""

from __future__ import annotations

from benchmarks.graph_overhead_ours import defs
from splat_assets.defs.warm_up import warm_up

warm_up(defs)
