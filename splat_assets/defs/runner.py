"""`StageRunner`: runs one stage inside a Dagster step and turns its errors into Dagster's.

The asset bodies stay thin because everything they have in common is here: the spec of the
partition, progress, dying with the run worker, and which failures are worth a retry.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection, parent_process

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.plan.objects import StepFailureData
from pydantic import Field

from splat_assets.artifacts.store import ArtifactStore
from splat_assets.datasets.spec import DatasetSpec
from splat_assets.defs.progress import LISTENER, step_progress
from splat_assets.defs.resources import ComputeResource, RegistryResource, StoreResource
from splat_assets.errors import Cancelled, TransientError, UserError
from splat_assets.isolation import ChildCrashedError
from splat_assets.stages import STAGES, StageOutcome, run_stage

MAX_RETRIES = 3
RETRY_SEC = 10.0
KILLED = "The process of this step was killed, most likely because the machine ran out of memory."
USER_ERROR = "user_error"  # metadata of a failure that is the input's fault, not ours


class StageConfig(dg.Config):
    """What one launch can ask for beyond the dataset's own settings."""

    force: bool = Field(
        default=False,
        description="Do the work again although inputs, options and code are unchanged. Off: an "
        "asset that is up to date is kept as it is.",
    )


class StageRunner(dg.ConfigurableResource):
    """Brings one asset of the step's partition up to date."""

    store: dg.ResourceDependency[StoreResource]
    registry: dg.ResourceDependency[RegistryResource]
    compute: dg.ResourceDependency[ComputeResource]
    functions: dict[str, str] = Field(
        default={}, description="replaces library functions: asset → module:function (for tests)"
    )
    retry_sec: float = Field(
        default=RETRY_SEC, description="pause before the first retry; then doubled"
    )

    def run(
        self, context: dg.AssetExecutionContext, config: StageConfig
    ) -> tuple[StageOutcome, DatasetSpec]:
        """Run the stage named like the step's asset.

        Raises `dg.Failure` with one sentence (never retried) for what a retry cannot help, and
        `dg.RetryRequested` where network or storage failed.
        """
        die_with_run_worker()
        asset = context.asset_key.to_user_string()
        with self._explained(context):
            spec = self.registry.open().get(context.partition_key)
            store = self.store.open()
            make_findable(context, spec, store)
            jsonl = store.run_file(spec.name, asset, context.run_id, ".progress.jsonl")
            log = store.run_file(spec.name, asset, context.run_id, ".log")
            outcome = run_stage(
                asset,
                spec,
                store,
                context.run_id,
                self.compute.select() if STAGES[asset].needs_compute else None,
                step_progress(context, jsonl),
                reuse=not config.force,
                functions=self.functions,
                # on a terminal, what COLMAP prints would tear the progress bars apart
                log=log if LISTENER.get() else None,
            )
        if asset == "raw_dataset":
            make_findable(context, spec, store)  # the revision is known now
        state = "unchanged, kept" if outcome.reused else "written"
        context.log.info(f"{asset} {state}: {outcome.location} ({outcome.seconds:.1f} s)")
        return outcome, spec

    @contextmanager
    def _explained(self, context: dg.AssetExecutionContext) -> Iterator[None]:
        try:
            yield
        except (UserError, ChildCrashedError) as error:
            metadata = {USER_ERROR: isinstance(error, UserError)}
            raise dg.Failure(str(error), metadata=metadata, allow_retries=False) from None
        except TransientError as error:
            if context.retry_number < MAX_RETRIES:
                # Not a RetryPolicy: Dagster applies that to a user's cancel as well.
                pause = self.retry_sec * 2**context.retry_number
                context.log.warning(f"{error} Trying again in {pause:.0f} s.")
                raise dg.RetryRequested(MAX_RETRIES, pause) from error
            raise dg.Failure(str(error), allow_retries=False) from None
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            if LISTENER.get() is not None:  # Ctrl-C on the terminal: say that it was a wish
                run = context.instance.get_run_by_id(context.run_id)
                if run is not None:
                    context.instance.report_run_canceling(run)
            raise
        except Cancelled:
            raise DagsterExecutionInterruptedError() from None


def failure_sentence(data: StepFailureData) -> tuple[str, bool]:
    """Why a step failed, in a sentence, and whether the input is to blame."""
    if data.user_failure_data is not None:
        mark = data.user_failure_data.metadata.get(USER_ERROR)
        return data.user_failure_data.description or "", bool(mark and mark.value)
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    if error is None:
        return "The step failed.", False
    if error.cls_name == "ChildProcessCrashException":
        return KILLED, False
    return error.message.strip(), False


def make_findable(
    context: dg.AssetExecutionContext, spec: DatasetSpec, store: ArtifactStore
) -> None:
    """Tag the run with what people look for, however it was launched."""
    raw = store.current(spec.name, "raw_dataset")
    revision = str(raw.summary.get("revision") or "")[:12] if raw is not None else ""
    tags = {
        "splat/dataset": spec.name,
        "splat/source": spec.source,
        "splat/preset": spec.preset,
        **({"splat/revision": revision} if revision else {}),
    }
    if any(context.run.tags.get(name) != value for name, value in tags.items()):
        context.instance.add_run_tags(context.run_id, tags)


_watching = False


def die_with_run_worker() -> None:
    """End this step's process when the run worker that started it is gone.

    Dagster leaves the step running after its run worker was killed, and frees the pool slot: two
    trainings would share a device. The kernel's parent-death signal does not help, because steps
    are forked by a fork server that lives on; the pipe that multiprocessing keeps between logical
    parent and child does.
    """
    global _watching
    worker = parent_process()
    if worker is None or _watching:
        return
    _watching = True
    sentinel = worker.sentinel

    def watch() -> None:
        connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="run-worker-watch").start()
