"""Comparing pairs: the same rows however many processes share the work; stopped cleanly."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import psutil
import pytest

from splat_assets.errors import Cancelled
from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses import pair_matching
from splat_assets.poses.features import (
    FeaturePlan,
    Workspace,
    create_database,
    extract_features,
    make_workspace,
)
from splat_assets.poses.matching import Pairs, all_pairs, verified_pairs
from splat_assets.poses.pair_matching import match_pairs
from splat_assets.progress import Progress, Report, silent

PAIRS = all_pairs(12)


@pytest.fixture(scope="module")
def described(capture_frames: FrameSet, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The capture's features, not matched yet."""
    kept = capture_frames.kept()
    workspace = make_workspace(tmp_path_factory.mktemp("described"), capture_frames, kept)
    plan = FeaturePlan(320, 1024)
    create_database(workspace, kept, "auto", plan)
    extract_features(workspace, plan, threads=1, progress=silent())
    return workspace


@pytest.fixture
def database(described: Workspace, tmp_path: Path) -> Path:
    return Path(shutil.copy(described.database, tmp_path / "database.db"))


def rows(database: Path) -> list[list[tuple[object, ...]]]:
    connection = sqlite3.connect(database)
    try:
        return [
            connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("matches", "two_view_geometries")
        ]
    finally:
        connection.close()


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def match(
    database: Path, described: Workspace, pairs: Pairs, threads: int, progress: Progress
) -> None:
    match_pairs(database, described.links, pairs, threads=threads, seed=3, progress=progress)


@pytest.mark.parametrize("threads", [2, 3])
def test_processes_share_the_work_and_change_nothing(
    described: Workspace,
    database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
) -> None:
    alone = Path(shutil.copy(database, tmp_path / "alone.db"))
    match(alone, described, PAIRS, 1, silent())
    assert len(verified_pairs(alone, 15)) > 20
    monkeypatch.setattr(pair_matching, "DIVIDE_FROM", 1)
    reports: list[Report] = []
    # in two goes, as a retry with more pairs does
    match(database, described, PAIRS[:30], threads, silent())
    match(database, described, PAIRS, threads, Progress(reports.append))
    assert rows(database) == rows(alone)
    assert reports[-1].message == "Matching: 36 of 36 pairs"
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.db", "database.db"]
    before = rows(database)
    match(database, described, PAIRS, threads, silent())  # nothing is left to do
    assert rows(database) == before


def test_cancel_stops_all_processes(
    described: Workspace, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_matching, "DIVIDE_FROM", 1)
    before = children()
    seen: list[int] = []

    def note(_: Report) -> None:
        seen.append(len(children() - before))

    with pytest.raises(Cancelled):
        match(database, described, PAIRS, 2, Progress(note, lambda: 2 in seen))
    assert children() <= before
    assert [path.name for path in tmp_path.iterdir()] == ["database.db"]


def test_a_part_that_fails_ends_the_others(
    described: Workspace, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_matching, "DIVIDE_FROM", 1)
    before = children()
    whole = pair_matching._copy_features

    def spoil(source: Path, copy: Path, pairs: Pairs) -> None:
        whole(source, copy, pairs)
        if copy.name == "1.db":
            copy.write_bytes(b"no database")

    monkeypatch.setattr(pair_matching, "_copy_features", spoil)
    with pytest.raises(Exception, match=r"(?i)database"):
        match(database, described, PAIRS, 2, silent())
    assert rows(database) == [[], []]
    assert children() <= before
