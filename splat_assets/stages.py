"""The chain without Dagster: which stage makes which asset, and how one stage is run.

`run_stage` opens the inputs, calls the library function (in a child process where it is heavy),
and publishes what it wrote; an asset whose inputs, options and code are unchanged is reused. The
graph, the command line and plain Python all go through it.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from splat_assets.artifacts.attempts import forget_failure, record_failure
from splat_assets.artifacts.bucket import READERS
from splat_assets.artifacts.contract import ArtifactFolder
from splat_assets.artifacts.manifest import Manifest
from splat_assets.artifacts.store import ArtifactStore, disk_full_is_a_sentence
from splat_assets.compute import Compute
from splat_assets.datasets.spec import DatasetSpec
from splat_assets.errors import Cancelled, UserError
from splat_assets.isolation import run_isolated
from splat_assets.progress import Progress

State = Literal["missing", "current", "stale"]


@dataclass(frozen=True)
class Stage:
    """One step of the chain. `code_version` is bumped when equal inputs would give other output."""

    asset: str
    function: str  # "module:function", imported when run
    contract: str  # "module:Class" of the artifact it makes
    upstream: str | None  # the asset it reads
    argument: str  # the name of the function's input argument
    options: str  # the field of PipelineOptions
    code_version: str
    isolated: bool = False  # runs in a child process that can always be stopped
    needs_compute: bool = False
    resumable: bool = False
    volatile: tuple[str, ...] = ()  # options that do not change the result
    beside: str | None = None  # "module:function" that prepares a later stage meanwhile


STAGES: dict[str, Stage] = {
    stage.asset: stage
    for stage in (
        Stage(
            asset="raw_dataset",
            function="splat_assets.sources.fetch:fetch_raw_dataset",
            contract="splat_assets.sources.raw_dataset:RawDataset",
            upstream=None,
            argument="source",
            options="source",
            code_version="2",
            volatile=("max_bytes", "max_files"),
        ),
        Stage(
            asset="frames",
            function="splat_assets.frames.extract:extract_frames",
            contract="splat_assets.frames.frame_set:FrameSet",
            upstream="raw_dataset",
            argument="raw",
            options="frames",
            code_version="2",
        ),
        Stage(
            asset="camera_poses",
            function="splat_assets.poses.solve:solve_poses",
            contract="splat_assets.poses.pose_model:PoseModel",
            upstream="frames",
            argument="frames",
            options="poses",
            code_version="3",
            isolated=True,
            beside="splat_assets.rendering.warm_up:warm_up_beside",
        ),
        Stage(
            asset="trained_splat",
            function="splat_assets.training.train:train_splat",
            contract="splat_assets.gaussians.splat_model:SplatModel",
            upstream="camera_poses",
            argument="poses",
            options="train",
            code_version="6",
            isolated=True,
            needs_compute=True,
            resumable=True,
            volatile=("checkpoint_every_sec",),
        ),
        Stage(
            asset="compressed_splat",
            function="splat_assets.compression.compress:compress_splat",
            contract="splat_assets.compression.compressed_splat:CompressedSplat",
            upstream="trained_splat",
            argument="splat",
            options="compress",
            code_version="13",
            isolated=True,
            needs_compute=True,
        ),
    )
}
ASSETS = tuple(STAGES)
CODE_VERSIONS = {asset: stage.code_version for asset, stage in STAGES.items()}


@dataclass(frozen=True)
class StageOutcome:
    """What a stage left current."""

    asset: str
    artifact: ArtifactFolder
    reused: bool  # nothing had changed, so the artifact was there already
    seconds: float  # wall time of this call
    location: str  # path or URL of the artifact in the store

    @property
    def manifest(self) -> Manifest:
        return self.artifact.manifest


@dataclass(frozen=True)
class AssetStatus:
    """Where an asset of a dataset stands."""

    asset: str
    state: State
    reason: str  # why stale or missing, in a few words; "" when current
    manifest: Manifest | None
    location: str | None


def run_stage(
    asset: str,
    spec: DatasetSpec,
    store: ArtifactStore,
    run_id: str,
    compute: Compute | None,
    progress: Progress,
    reuse: bool = True,
    *,
    functions: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> StageOutcome:
    """Bring one asset of a dataset up to date and return what is now current.

    Args:
        compute: the device of stages that need one (`Stage.needs_compute`); others may pass None.
        reuse: return the current artifact when inputs, options and code are unchanged. The source
            itself is always asked whether it changed; False fetches all of it again.
        functions: replaces library functions by asset, as "module:function".
        log: receives what a child process prints.

    Raises:
        UserError: an input is missing, or as the stage says; nothing was published.
        TransientError: the network or the storage failed for now.
        Cancelled: stopped on request; checkpoints stay for the next run.
    """
    began = time.monotonic()
    stage = STAGES[asset]
    wanted = wanted_identity(asset, spec, store)
    with (
        store.lock(spec.name, asset, progress),
        _failure_on_record(store.folder(spec.name, asset), wanted, run_id),
        disk_full_is_a_sentence(store.local),
    ):
        known = store.current(spec.name, asset)
        same = known is not None and difference(known, wanted) is None
        if reuse and same and stage.upstream is not None:
            progress.update(1.0, f"{asset} is up to date")
            return _outcome(stage, spec, store, reused=True, began=began)
        with store.staging(spec.name, asset, run_id) as out:
            arguments = _arguments(stage, spec, store, wanted, compute, reuse, progress)
            if stage.upstream is not None:  # another run may have replaced it since
                version = arguments[stage.argument].data_version
                wanted = replace(wanted, inputs={stage.upstream: version})
            target = (functions or {}).get(asset, stage.function)
            artifact = _call(stage, target, out, arguments, store, compute, progress, log)
            manifest = replace(
                artifact.manifest,
                inputs=wanted.inputs,
                options=wanted.options,
                code_version=wanted.code_version,
                dataset=spec.name,
                run_id=run_id,
                seconds=time.monotonic() - began,
                created=time.time(),
            )
            if reuse and same and known and _tells_the_same(known, manifest):
                return _outcome(stage, spec, store, reused=True, began=began)
            store.publish(out, spec.name, asset, manifest, progress.span(0.99, 1.0))
            store.forget_resume(spec.name, asset)
        return _outcome(stage, spec, store, reused=False, began=began)


def statuses(specs: Sequence[DatasetSpec], store: ArtifactStore) -> list[dict[str, AssetStatus]]:
    """`status` of many datasets, several at a time where each costs requests to a bucket."""
    if not store.is_remote or len(specs) < 2:
        return [status(spec, store) for spec in specs]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda spec: status(spec, store), specs))


def status(spec: DatasetSpec, store: ArtifactStore) -> dict[str, AssetStatus]:
    """State of every asset, in order. An asset below a missing or stale one is stale itself."""
    found: dict[str, AssetStatus] = {}
    for asset, stage in STAGES.items():
        above = found.get(stage.upstream or "")
        manifest, location = store.current_at(spec.name, asset)
        state: State = "current"
        reason = ""
        if manifest is None:
            state, reason = "missing", "not made yet"
        elif above is not None and above.state != "current":
            state, reason = "stale", f"{above.asset} is {above.state}"
        else:
            changed = difference(
                manifest, _identity(stage, spec, above.manifest if above else None)
            )
            if changed is not None:
                state, reason = "stale", changed
        found[asset] = AssetStatus(asset, state, reason, manifest, location)
    return found


@dataclass(frozen=True)
class Identity:
    """What decides an artifact: equal identities mean equal work."""

    inputs: dict[str, str]  # asset → data version; "source" → URI for the first stage
    options: dict[str, Any]
    code_version: str
    volatile: tuple[str, ...]

    @property
    def key(self) -> str:
        """A short hash, for the resume folder."""
        options = {k: v for k, v in self.options.items() if k not in self.volatile}
        text = json.dumps([self.inputs, options, self.code_version], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def difference(known: Manifest, wanted: Identity) -> str | None:
    """Why an artifact is not what is wanted now, in a few words; None when it is."""
    if known.code_version != wanted.code_version:
        return "the code that makes it changed"
    for name, version in wanted.inputs.items():
        if known.inputs.get(name) != version:
            return f"{name} changed"
    return settings_difference(known, wanted)


def settings_difference(known: Manifest, wanted: Identity) -> str | None:
    """Which wish of the dataset's registry file an artifact does not meet; None when it does."""
    if "source" in wanted.inputs and known.inputs.get("source") != wanted.inputs["source"]:
        return "source changed"
    for name, value in wanted.options.items():
        if name not in wanted.volatile and known.options.get(name) != value:
            return f"option {name} changed"
    return None


@contextmanager
def _failure_on_record(folder: Path, wanted: Identity, run_id: str) -> Iterator[None]:
    """Leave a note of what failed beside the asset, and none of what was done or stopped."""
    try:
        yield
    except Cancelled:
        raise
    except Exception as error:
        with suppress(OSError):  # a full disk: the error itself says more
            record_failure(folder, wanted.key, run_id, error)
        raise
    forget_failure(folder)


def _tells_the_same(known: Manifest, made: Manifest) -> bool:
    """Equal data of an equal revision: publishing it again would only repeat what is there."""
    revisions = (known.summary.get("revision"), made.summary.get("revision"))
    return known.data_version == made.data_version and revisions[0] == revisions[1]


def wanted_identity(asset: str, spec: DatasetSpec, store: ArtifactStore) -> Identity:
    """What an asset of a dataset would be made from now."""
    stage = STAGES[asset]
    above = None if stage.upstream is None else store.current(spec.name, stage.upstream)
    return _identity(stage, spec, above)


def _identity(stage: Stage, spec: DatasetSpec, above: Manifest | None) -> Identity:
    options = getattr(spec.resolve(), stage.options).model_dump(mode="json")
    inputs = {"source": spec.source}
    if stage.upstream is not None:
        inputs = {stage.upstream: above.data_version if above else ""}
    return Identity(inputs, options, stage.code_version, stage.volatile)


def _arguments(
    stage: Stage,
    spec: DatasetSpec,
    store: ArtifactStore,
    wanted: Identity,
    compute: Compute | None,
    reuse: bool,
    progress: Progress,
) -> dict[str, Any]:
    fetching = progress.span(0.0, 0.01)
    arguments: dict[str, Any] = {"options": getattr(spec.resolve(), stage.options)}
    if stage.upstream is None:
        before = store.open_local(spec.name, stage.asset, fetching) if reuse else None
        arguments["source"] = spec.source
        arguments["previous"] = _contract(stage).open(before) if before else None
    else:
        arguments[stage.argument] = _open_input(STAGES[stage.upstream], spec, store, fetching)
    if stage.needs_compute:
        arguments["compute"] = compute
    if stage.resumable:
        arguments["resume_dir"] = store.resume_folder(spec.name, stage.asset, wanted.key)
    return arguments


def _open_input(
    above: Stage, spec: DatasetSpec, store: ArtifactStore, progress: Progress
) -> ArtifactFolder:
    folder = store.open_local(spec.name, above.asset, progress)
    if folder is None:
        raise UserError(
            f"Dataset {spec.name!r} has no {above.asset} yet; materialize {above.asset} first "
            f"(`splat-assets run {spec.name}` runs the whole chain)."
        )
    artifact = _contract(above).open(folder)
    artifact.validate()
    return artifact


def _call(
    stage: Stage,
    target: str,
    out: Path,
    arguments: dict[str, Any],
    store: ArtifactStore,
    compute: Compute | None,
    progress: Progress,
    log: Path | None,
) -> ArtifactFolder:
    arguments = {**arguments, "out": out}
    if not stage.isolated:
        return _load(target)(progress=progress, **arguments)
    if stage.beside and target == stage.function:
        _load(stage.beside)()
    lock = device_lock(compute, store) if stage.resumable and compute else None
    holder = (
        f"{stage.asset} of {out.parent.parent.name}, which uses {compute.device}" if compute else ""
    )
    return run_isolated(target, progress=progress, lock=lock, holder=holder, log=log, **arguments)


def device_lock(compute: Compute, store: ArtifactStore) -> Path:
    """The file whose holder may train on a device.

    Dagster's pools can lose count after a crash; the lock cannot. A GPU is shared by everything
    of this user on the machine, the CPU only within one data root. An engine that hands out cards
    numbers those of each step from 0: the lock is on the card itself.
    """
    if compute.device == "cpu":
        return store.local / ".locks" / "cpu.lock"
    from getpass import getuser

    number = int(compute.device.partition(":")[2] or 0)
    cards = [card for card in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if card]
    card = cards[number].strip() if number < len(cards) else str(number)
    name = f"cuda-{card}.lock".replace("/", "-")
    return Path(tempfile.gettempdir()) / f"splat-assets-{getuser()}" / name


def _outcome(
    stage: Stage, spec: DatasetSpec, store: ArtifactStore, *, reused: bool, began: float
) -> StageOutcome:
    folder = store.open_local(spec.name, stage.asset)
    if folder is None:
        raise RuntimeError(f"{stage.asset} of {spec.name} vanished after it was published")
    artifact = _contract(stage).open(folder)
    location = store.locate(spec.name, stage.asset) or str(folder)
    return StageOutcome(stage.asset, artifact, reused, time.monotonic() - began, location)


def _contract(stage: Stage) -> type[ArtifactFolder]:
    return _load(stage.contract)


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
