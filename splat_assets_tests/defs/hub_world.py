"""The world of `ticking` with the two Hub sensors."""

from __future__ import annotations

import dagster as dg

from splat_assets.defs.hub_sensors import load_watches
from splat_assets.defs.hub_ticks import changed_tick, new_tick
from splat_assets.watching.watch_list import HubWatch, make_watch
from splat_assets_tests.watching.ticking import World


class Hub(World):
    """Ticks them by hand."""

    def watch(self, **values: object) -> None:
        self.watch_file.add(make_watch(HubWatch, **values))

    def new(self, **how: object) -> list[str]:
        return self.tick("new_hub_repos", _new, **how)  # type: ignore[arg-type]

    def changed(self, **how: object) -> list[str]:
        return self.tick("changed_hub_repos", _changed, **how)  # type: ignore[arg-type]


def _new(context: dg.SensorEvaluationContext, world: World) -> dg.SensorResult | dg.SkipReason:
    return new_tick(context, world.registry, load_watches(world.registry), now=world.now)


def _changed(context: dg.SensorEvaluationContext, world: World) -> dg.SensorResult | dg.SkipReason:
    from splat_assets.artifacts.store import ArtifactStore

    store = ArtifactStore(str(world.root), world.root)
    watches = load_watches(world.registry)
    return changed_tick(context, world.registry, store, watches, now=world.now)
