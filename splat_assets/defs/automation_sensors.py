"""The two sensors that evaluate the conditions of `automation.py`: what runs on the CPU, and a GPU.

Both are off until switched on. They look only after something happened: between events, a tick
costs one query and one listing of the registry, however many datasets there are.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.sensor_definition import SensorExecutionData

from splat_assets.artifacts import attempts
from splat_assets.datasets.registry import Registry
from splat_assets.defs.registry_stamps import Stamps, read_stamps
from splat_assets.settings import load_settings

INTERVAL_SEC = 30
PRIORITY = "-5"  # below what a person launches; Dagster's default is 0
RESTED = "Nothing has happened since the last evaluation."


@dataclass(frozen=True)
class World:
    """All that an evaluation's answer depends on, but for pauses that end by themselves."""

    definitions: object
    cursor: str | None
    last_event: int | None
    stamps: Stamps

    def is_still(self, now: World) -> bool:
        """True when an evaluation now would answer what it answered then: nothing."""
        return (
            self.definitions is now.definitions
            and self.cursor == now.cursor
            and self.last_event == now.last_event
            and self.stamps.written == now.stamps.written
            and self.stamps.is_settled
        )


class RestingSensor(dg.AutomationConditionSensorDefinition):
    """An automation sensor that evaluates only when the answer can have changed.

    Dagster would evaluate every condition each time, which takes dozens of queries. What was seen
    last is kept in memory, so a restarted code server begins with an evaluation. There is one every
    now and then anyway: a pause after network trouble ends without an event.
    """

    _rest: World | None = None
    _since = 0.0

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        stamps = read_stamps(Registry(load_settings().registry_folder))
        last_event = context.instance.event_log_storage.get_maximum_record_id()
        world = World(context.repository_def, context.cursor, last_event, stamps)
        pause_over = time.monotonic() - self._since >= attempts.PAUSE_SEC / 2
        if self._rest is not None and self._rest.is_still(world) and not pause_over:
            return SensorExecutionData(skip_message=RESTED, cursor=context.cursor)
        began = time.monotonic()
        found = super().evaluate_tick(context)
        after = World(world.definitions, found.cursor, last_event, stamps)
        self._rest, self._since = None if found.run_requests else after, began
        return found


def _sensor(name: str, device: str, target: dg.AssetSelection) -> RestingSensor:
    with warnings.catch_warnings():  # conditions of our own need the code server: beta in Dagster
        warnings.simplefilter("ignore", dg.BetaWarning)
        return RestingSensor(
            name=name,
            target=target,
            use_user_code_server=True,
            minimum_interval_seconds=INTERVAL_SEC,
            default_status=dg.DefaultSensorStatus.STOPPED,
            run_tags={"dagster/priority": PRIORITY, "splat/launched_by": name},
            description=f"Keeps what is made on {device} current: asks for it when input, settings "
            "or (where cheap) code changed. Off until switched on; see the README.",
        )


_GPU = dg.AssetSelection.tag("splat/device", "gpu")
keep_current_cpu = _sensor("keep_current_cpu", "the CPU", dg.AssetSelection.all() - _GPU)
keep_current_gpu = _sensor("keep_current_gpu", "a GPU", _GPU)
