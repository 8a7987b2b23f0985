"""`run_stage` and `status`: reuse, staleness, resume, and what failures leave behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from splat_assets.artifacts.attempts import failed_attempt
from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.artifacts.store import ArtifactStore
from splat_assets.compute import Compute
from splat_assets.datasets.spec import DatasetSpec, make_spec
from splat_assets.errors import Cancelled, SourceError, UserError
from splat_assets.progress import Progress, Report, silent
from splat_assets.sources.raw_dataset import RawDataset
from splat_assets.stages import ASSETS, StageOutcome, run_stage, status, wanted_identity
from splat_assets_tests.defs.fake_stages import FUNCTIONS

CPU = Compute("cpu", "numba", "the test asks for it", 1)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(str(tmp_path / "data"), tmp_path / "data")


def spec(query: str = "", **values: Any) -> DatasetSpec:
    return make_spec(name="garden", source=f"fake:?{query}", **values)


def run(asset: str, spec: DatasetSpec, store: ArtifactStore, run_id: str = "run1", **kwargs: Any):
    kwargs.setdefault("progress", silent())
    return run_stage(asset, spec, store, run_id, CPU, functions=FUNCTIONS, **kwargs)


def run_all(spec: DatasetSpec, store: ArtifactStore, run_id: str, **kwargs: Any):
    return {asset: run(asset, spec, store, run_id, **kwargs) for asset in ASSETS}


def remains(store: ArtifactStore, asset: str) -> set[str]:
    """Everything in an asset's folder but the lock and the record of a failure."""
    found = {p.name for p in store.folder("garden", asset).iterdir()}
    return found - {".lock", ".failed.json"}


def test_whole_chain_then_nothing_to_do_then_only_what_changed(store: ArtifactStore) -> None:
    first = run_all(spec(), store, "run1")
    assert [o.reused for o in first.values()] == [False] * 5
    manifest = first["frames"].manifest
    assert manifest.dataset == "garden" and manifest.run_id == "run1"
    assert manifest.inputs == {"raw_dataset": first["raw_dataset"].manifest.data_version}
    assert manifest.options["max_frames"] == 60
    assert manifest.seconds > 0
    assert first["frames"].location == str(store.folder("garden", "frames") / "run1")

    again = run_all(spec(), store, "run2")
    assert [o.reused for o in again.values()] == [True] * 5
    assert again["trained_splat"].artifact.path.name == "run1"

    changed = spec(options={"compress": {"order": "morton"}})
    third = run_all(changed, store, "run3")
    assert [o.reused for o in third.values()] == [True, True, True, True, False]

    forced = run("camera_poses", changed, store, "run4", reuse=False)
    assert not forced.reused
    # equal output of equal work is an equal version: what follows stays current
    assert run("trained_splat", changed, store, "run4").reused


def test_options_that_do_not_change_the_result_do_not_retrain(store: ArtifactStore) -> None:
    run_all(spec(), store, "run1")
    touched = spec(options={"train": {"checkpoint_every_sec": 5}})
    assert run("trained_splat", touched, store, "run2").reused


def test_status_says_missing_stale_and_current_with_the_reason(store: ArtifactStore) -> None:
    assert {s.state for s in status(spec(), store).values()} == {"missing"}
    run("raw_dataset", spec(), store)
    run("frames", spec(), store)
    found = status(spec(), store)
    assert [s.state for s in found.values()] == ["current", "current"] + ["missing"] * 3
    changed = status(spec(options={"frames": {"fps": 5}}), store)
    assert changed["frames"].state == "stale"
    assert changed["frames"].reason == "option fps changed"
    moved = status(make_spec(name="garden", source="fake:?other=1"), store)
    assert [moved[a].state for a in ("raw_dataset", "frames")] == ["stale", "stale"]


def test_missing_upstream_is_one_sentence_that_says_what_to_run(store: ArtifactStore) -> None:
    with pytest.raises(UserError, match="no frames yet; materialize frames first"):
        run("camera_poses", spec(), store)
    assert remains(store, "camera_poses") == set()


def test_changed_source_flows_down(store: ArtifactStore) -> None:
    run_all(spec("content=one"), store, "run1")
    second = run_all(spec("content=two"), store, "run2")
    assert not second["raw_dataset"].reused
    assert not second["frames"].reused


def test_a_new_revision_of_the_same_files_is_published_and_changes_nothing_below(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = "one"

    def fetch(source: str, out: Path, **_: Any) -> RawDataset:
        (out / "files").mkdir()
        (out / "files" / "a.jpg").write_bytes(b"the same")
        write_manifest(out, build_manifest(out, "raw_dataset", summary={"revision": revision}))
        return RawDataset.open(out)

    monkeypatch.setattr("splat_assets.sources.fetch.fetch_raw_dataset", fetch)

    def fetched() -> StageOutcome:
        return run_stage("raw_dataset", spec(), store, revision, CPU, silent())

    first, again = fetched(), fetched()
    assert again.reused
    revision = "two"
    moved = fetched()
    assert not moved.reused
    assert moved.manifest.summary["revision"] == "two"
    assert moved.manifest.data_version == first.manifest.data_version


@pytest.mark.parametrize(
    ("query", "asset", "error", "message"),
    [
        ("fail=source", "raw_dataset", SourceError, "is empty"),
        ("fail=disk", "frames", UserError, "disk .* is full; free some space"),
        ("fail=overlap", "camera_poses", UserError, "more overlap"),
    ],
)
def test_a_failure_keeps_the_previous_artifact_and_leaves_nothing(
    store: ArtifactStore, query: str, asset: str, error: type[Exception], message: str
) -> None:
    before = run_all(spec(), store, "run1")
    bad = spec(query)
    with pytest.raises(error, match=message):
        run_all(bad, store, "run2", reuse=False)
    assert remains(store, asset) == {"run1", "current"}
    current = store.open_local("garden", asset)
    assert current == before[asset].artifact.path
    before[asset].artifact.validate()


def test_cancel_keeps_a_checkpoint_and_the_next_run_resumes(store: ArtifactStore) -> None:
    slow = spec("steps=40&step_sec=0.02")
    for asset in ASSETS[:3]:
        run(asset, slow, store)
    seen: list[Report] = []
    stop_after_step_10 = Progress(
        seen.append, lambda: any(r.figures.get("step", 0) >= 10 for r in seen)
    )
    with pytest.raises(Cancelled):
        run("trained_splat", slow, store, progress=stop_after_step_10)
    assert remains(store, "trained_splat") == {".resume"}
    resumed = run("trained_splat", slow, store, "run2")
    assert resumed.artifact.summary["resumed_from_step"] >= 10
    assert remains(store, "trained_splat") == {"run2", "current"}


def test_checkpoints_of_other_inputs_are_not_resumed(store: ArtifactStore) -> None:
    slow = spec("steps=5")
    for asset in ASSETS[:3]:
        run(asset, slow, store)
    stale = store.resume_folder("garden", "trained_splat", "another-key")
    (stale / "step.json").write_text('{"step": 4}')
    outcome: StageOutcome = run("trained_splat", slow, store)
    assert outcome.artifact.summary["resumed_from_step"] == 0
    assert not stale.exists()


def test_a_failure_is_on_record_until_the_work_is_done(store: ArtifactStore) -> None:
    folder = store.folder("garden", "raw_dataset")
    for attempt in (1, 2):
        with pytest.raises(SourceError):
            run_all(spec("fail=source"), store, f"run{attempt}")
        record = failed_attempt(folder)
        assert record is not None
        assert (record.kind, record.count) == ("mistake", attempt)
        assert record.message.startswith("The folder /pictures is empty")
        assert record.key == wanted_identity("raw_dataset", spec("fail=source"), store).key
    run_all(spec(), store, "run3")
    assert failed_attempt(folder) is None
