"""Who executes the steps of a run: processes of this machine, or an engine of many hosts.

`SPLAT_ASSETS_EXECUTOR` chooses; what a step needs of its host stands beside each asset (needs.py).
"""

from __future__ import annotations

import os
import sys
import time
from importlib import import_module
from typing import Any

import dagster as dg

from splat_assets.defs.priority import give_way
from splat_assets.errors import UserError

# What a step on another host cannot know by itself. Credentials are not among it: an engine shows
# what is passed, so workers have them in their own environment.
PASSED_ON = ("SPLAT_ASSETS_DATA", "SPLAT_ASSETS_DEVICE", "SPLAT_ASSETS_STEP_CPUS")

# engine → its executor, the package that brings it
ENGINES = {
    "ray": ("dagster_ray:ray_executor", "splat-assets[ray]"),
    "celery": ("dagster_celery:celery_executor", "dagster-celery"),
    "k8s": ("dagster_k8s:k8s_job_executor", "dagster-k8s"),
}
WAIT_SEC = 0.1  # between two looks of a run whose next step waits for a pool
EXECUTORS = ("multiprocess", "in_process", *ENGINES)


def select_executor(name: str) -> dg.ExecutorDefinition:
    """The executor of this name. Raises `UserError` for an unknown name or a missing package."""
    if name == "multiprocess":
        return multiprocess()
    if name == "in_process":
        return dg.in_process_executor
    if name not in ENGINES:
        raise UserError(f"SPLAT_ASSETS_EXECUTOR is {name!r}; choose {', '.join(EXECUTORS)}.")
    place, package = ENGINES[name]
    module, _, attribute = place.partition(":")
    try:
        executor: dg.ExecutorDefinition = getattr(import_module(module), attribute)
    except ImportError as error:
        raise UserError(
            f"SPLAT_ASSETS_EXECUTOR={name} needs a package that is not installed ({error}): "
            f'pip install "{package}"'
        ) from None
    config = _engine_config(name)
    return executor.configured(config) if config else executor


def multiprocess(preload: str = "splat_assets.defs.preload") -> dg.ExecutorDefinition:
    """Steps are processes forked from one that has loaded the module `preload`."""
    # A forked step starts in 0.5 s, a spawned one in 3; a chain has one step ready at a time.
    start: dict[str, Any] = {"spawn": {}}
    if sys.platform != "win32":
        start = {"forkserver": {"preload_modules": [preload]}}
    _wait_without_spinning()
    config = {"max_concurrent": 2, "start_method": start}
    dagsters: Any = dg.multiprocess_executor.configured(config)

    def create(context: dg.InitExecutorContext) -> dg.Executor:
        give_way()
        executor: dg.Executor = dagsters.executor_creation_fn(context)
        return executor

    return dg.ExecutorDefinition(
        name=dagsters.name,
        config_schema=dagsters.config_schema,
        requirements=dagsters._requirements_fn,
        executor_creation_fn=create,
        description=dagsters.description,
    )


def _wait_without_spinning() -> None:
    """Let a run worker sleep while its next step waits for a pool.

    Dagster's multiprocess executor (seen in 1.13.27) then asks again without any pause: every
    waiting run of a backfill takes a whole core from the training that it waits for.
    """
    from dagster._core.execution.plan.active import ActiveExecution
    from dagster._core.executor import multiprocess

    if not hasattr(multiprocess, "ActiveExecution"):
        return  # another Dagster, of which nothing is known

    class Patient(ActiveExecution):
        def get_steps_to_execute(self, limit: int | None = None) -> Any:
            steps = super().get_steps_to_execute(limit)
            if not steps and not self._in_flight and not self.is_complete:
                time.sleep(WAIT_SEC)
            return steps

    multiprocess.ActiveExecution = Patient


def _engine_config(name: str) -> dict[str, Any]:
    """What our environment says about an engine; the rest is its own default.

    Needs are never set here: an executor's would override those of the assets.
    """
    if name == "ray":
        # the address is RAY_API_SERVER_ADDRESS or RAY_ADDRESS, which Ray reads itself
        return {"ray": {"env_vars": [key for key in PASSED_ON if key in os.environ]}}
    if name == "celery" and os.environ.get("CELERY_BROKER_URL"):
        broker = os.environ["CELERY_BROKER_URL"]
        return {"broker": broker, "backend": os.environ.get("CELERY_RESULT_BACKEND", broker)}
    return {}
