"""When an asset is asked for by itself: one condition per asset.

The rule is the one of `splat-assets status`: an asset is due when its input's data, its settings in
the registry file or (where that is cheap) its code differ from what it was made from. Dagster's
events say where to look, so that an idle tick costs next to nothing; the store's manifests have the
last word, so that nothing is trained again on identical data. A failing blocking gate stops the
chain, and the same work is tried once; where only the network failed, a few times.

The first fetch of a dataset is somebody's decision (a person, a sensor, a backfill), not
automation's. `automation_sensors.py` has the sensors that evaluate the conditions.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import dagster as dg

from splat_assets.artifacts.attempts import failed_attempt
from splat_assets.artifacts.store import ArtifactStore
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import DatasetSpec
from splat_assets.defs.partitions import DATASETS
from splat_assets.defs.registry_stamps import read_stamps
from splat_assets.errors import UserError
from splat_assets.settings import load_settings
from splat_assets.stages import STAGES, difference, settings_difference, wanted_identity

AC = dg.AutomationCondition

# A new version of these stages is applied to every dataset by itself: they take seconds to minutes.
# A new version of the others (hours of COLMAP or of a GPU) is for a backfill that somebody starts.
CHEAP = ("frames", "compressed_splat")

logger = logging.getLogger(__name__)


class SettingsChanged(dg.AutomationCondition[dg.AssetKey]):
    """The dataset's registry file was changed in what matters to this asset.

    One listing of the folder per tick; only files written since the tick before are read.
    """

    @property
    def description(self) -> str:
        return "The registry file asks for other settings than the asset was made with"

    @property
    def name(self) -> str:
        return "settings_changed"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        asset = context.key.to_user_string()

        def differs(spec: DatasetSpec, store: ArtifactStore) -> bool:
            made = store.current(spec.name, asset)
            wanted = wanted_identity(asset, spec, store)
            return made is None or settings_difference(made, wanted) is not None

        stamps = read_stamps(_registry())
        # switched on just now: nothing is new
        names = stamps.since(int(context.cursor)) if context.cursor else set()
        found = _where(differs, names & _keys(context)) if names else set()
        return _result(context, found, cursor=str(stamps.settled))


class OutOfDate(dg.AutomationCondition[dg.AssetKey]):
    """The store's artifact is not what input, settings and code ask for now.

    Reads a few small files per dataset, so it comes last: for the few that something happened to.
    """

    @property
    def requires_cursor(self) -> bool:
        return False

    @property
    def description(self) -> str:
        return "The artifact differs from what its input, settings and code ask for"

    @property
    def name(self) -> str:
        return "out_of_date"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        asset = context.key.to_user_string()

        def is_due(spec: DatasetSpec, store: ArtifactStore) -> bool:
            made = store.current(spec.name, asset)
            return made is None or difference(made, wanted_identity(asset, spec, store)) is not None

        return _result(context, _where(is_due, _keys(context)))


class WorthAnotherTry(dg.AutomationCondition[dg.AssetKey]):
    """What failed may work now: other inputs, settings or code, or the network had time to recover.

    Bounded by the record that each failure leaves (`artifacts.attempts`).
    """

    @property
    def requires_cursor(self) -> bool:
        return False

    @property
    def description(self) -> str:
        return "The last attempt failed for what has changed since, or may have passed"

    @property
    def name(self) -> str:
        return "worth_another_try"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        asset = context.key.to_user_string()

        def may_work(spec: DatasetSpec, store: ArtifactStore) -> bool:
            record = failed_attempt(store.folder(spec.name, asset))
            wanted = wanted_identity(asset, spec, store).key
            return record is not None and record.worth_repeating(wanted)

        return _result(context, _where(may_work, _keys(context)))


class AndThen(dg.AutomationCondition[dg.AssetKey]):
    """All of the operands, like `&`, but the rest is not even looked at once nothing is left.

    That is the usual case, and most of what an idle tick would cost. Only the first operand may
    remember anything from tick to tick.
    """

    def __init__(self, *operands: dg.AutomationCondition) -> None:
        self._operands = operands

    @property
    def requires_cursor(self) -> bool:
        return False

    @property
    def name(self) -> str:
        return "AND"

    @property
    def operator_type(self) -> Literal["and"]:
        return "and"

    @property
    def children(self) -> Sequence[dg.AutomationCondition]:
        return self._operands

    async def evaluate(  # type: ignore[override]
        self, context: dg.AutomationContext
    ) -> dg.AutomationResult:
        left, results = context.candidate_subset, []
        for index, operand in enumerate(self._operands):
            if index and left.is_empty:
                break
            found = await context.for_child_condition(
                operand, child_indices=[index], candidate_subset=left
            ).evaluate_async()
            results.append(found)
            left = left.compute_intersection(found.true_subset)
        return dg.AutomationResult(context, left, child_results=results)


def condition(asset: str) -> dg.AutomationCondition:
    """The automation condition of one asset of the chain."""
    stage = STAGES[asset]
    changed: dg.AutomationCondition = SettingsChanged()
    if stage.upstream is not None:
        # A cheap stage goes into the same run as its input. The others wait until the input is
        # made and known to differ: most often there is nothing to do for them.
        new_data: dg.AutomationCondition = AC.data_version_changed()
        if asset in CHEAP:
            new_data = new_data | AC.will_be_requested()
        changed = changed | AC.any_deps_match(new_data).with_label("input_changed")
    if asset in CHEAP:
        changed = changed | AndThen(AC.code_version_changed(), ~AC.missing())
    # An update counts as handling the change only when it used what is there now.
    handled = (
        AC.newly_requested()
        | AndThen(AC.newly_updated(), ~OutOfDate())
        | AC.execution_failed().newly_true()
    )
    # Not right after a request: that tick would count as the answer to it.
    again = AndThen(AC.execution_failed(), ~AC.newly_requested(), WorthAnotherTry()).newly_true()
    woken = changed.since(handled) | again.since(AC.newly_requested())
    # What its input will become in the same run cannot be known yet; the step finds out and keeps
    # what is up to date.
    due = OutOfDate() | AC.any_deps_match(AC.will_be_requested())
    if stage.upstream is None:
        # A source whose first fetch failed may be mended in its file; one never asked for waits.
        allowed = [~AC.missing() | AC.execution_failed()]
    else:
        allowed = [
            ~AC.any_deps_missing(),
            ~AC.any_deps_in_progress(),
            AC.all_deps_blocking_checks_passed(),
        ]
    return AndThen(woken.with_label("woken"), ~AC.in_progress(), *allowed, due)


CONDITIONS = {asset: condition(asset) for asset in STAGES}


# --- helpers --------------------------------------------------------------------------------------


def _registry() -> Registry:
    return Registry(load_settings().registry_folder)


def _keys(context: dg.AutomationContext) -> set[str]:
    return set(context.candidate_subset.expensively_compute_partition_keys())


def _where(question: Callable[[DatasetSpec, ArtifactStore], bool], names: Iterable[str]) -> set:
    """The datasets for which the answer is yes; one that cannot be read is told and left out."""
    names = sorted(names)
    if not names:
        return set()
    registry, store = _registry(), ArtifactStore.open(load_settings())
    found = set()
    for name in names:
        try:
            if question(registry.get(name), store):
                found.add(name)
        except UserError as error:
            logger.warning("%s", error)
    return found


def _result(
    context: dg.AutomationContext, names: set[str], cursor: str | None = None
) -> dg.AutomationResult:
    view = context.asset_graph_view
    subset = (
        view.get_subset_from_partition_keys(context.key, DATASETS, names)
        if names
        else context.get_empty_subset()
    )
    return dg.AutomationResult(context, subset, cursor=cursor)
