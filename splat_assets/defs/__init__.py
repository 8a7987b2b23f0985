"""The graph: one file per asset, thin; what they share beside them. Imports Dagster, no algorithms.

Dagster reads the annotations of assets, ops, sensors and resources at run time, so the modules that
define them do not use `from __future__ import annotations`.
"""
