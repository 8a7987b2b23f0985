"""Runs give way: what a run computes must not make the web UI, or the person at the desk, wait.

`SPLAT_ASSETS_NICE` says how much, from 0 (not at all) to 19; 10 by default. It holds for runs that
the web UI, a sensor or a backfill has started on this machine, and for all that they start; not for
`splat-assets run`, whose user waits for nothing else, nor for the steps of an engine.
"""

from __future__ import annotations

import multiprocessing
import os

from splat_assets.settings import load_settings


def give_way() -> None:
    """Lower the priority of this process, when it is a run worker, and of what it will start."""
    if multiprocessing.parent_process() is None or not hasattr(os, "nice"):
        return  # somebody's terminal, or a container of its own
    os.nice(max(load_settings().nice - os.nice(0), 0))
