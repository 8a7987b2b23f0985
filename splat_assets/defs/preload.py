"""Loaded by the fork server that a run's steps come from (executors.py): what they need is here."""

from __future__ import annotations

from splat_assets.definitions import defs
from splat_assets.defs.warm_up import warm_up

warm_up(defs)
