"""Comparing chosen pairs of images: SIFT matches and two-view geometry into COLMAP's database.

Every process matches in one thread. In two threads at once COLMAP's approximate search sometimes
finds other neighbours when the machine is busy (seen with pycolmap 4.2.1: about one run in twenty),
and other matches are other poses. So that all cores work and equal seeds still give equal files,
much work is divided among processes, each with a database of its own; it takes no longer.
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path

import pycolmap

from splat_assets.errors import Cancelled
from splat_assets.isolation import run_isolated
from splat_assets.poses.matching import Pairs
from splat_assets.poses.native import POLL_SEC, count_rows, hush, run_native
from splat_assets.progress import Progress, Report

# enough for half the matches to be wrong; COLMAP tries ten times as often, which without EXIF focal
# lengths is most of the time of matching and finds the same pairs (benchmarks/)
MAX_TRIALS = 1000
BLOCK = 48  # pairs between two looks at the cancel token
DIVIDE_FROM = 200_000  # pairs times features an image: about 4 CPU seconds
COPIES_BYTES = 8 << 30  # on disk, for all processes' databases together
RESULTS = ("matches", "two_view_geometries")


def match_pairs(
    database: Path,
    names: Sequence[str],
    pairs: Pairs,
    *,
    threads: int,
    seed: int,
    progress: Progress,
) -> None:
    """Match and verify `pairs` of `names`; pairs already in the database are not done again.

    The database's image ids must be the names' places plus 1. The result does not depend on
    `threads`, except where copies for all of them would take more than `COPIES_BYTES`.

    Raises:
        Cancelled: on request; the database then holds some of the pairs.
    """
    pairs = _not_done(database, pairs)
    if not pairs:
        return
    work = len(pairs) * _mean_features(database)
    parts = min(threads, max(1, COPIES_BYTES // database.stat().st_size))
    if parts == 1 or work < DIVIDE_FROM:
        match_part(database, names, pairs, threads=1, seed=seed, progress=progress)
        return
    with tempfile.TemporaryDirectory(prefix="pairs-", dir=database.parent) as scratch:
        copies = []
        for number, chosen in enumerate(_divide(pairs, parts)):
            copies.append((Path(scratch) / f"{number}.db", chosen))
            _copy_features(database, *copies[-1])
        _run_parts(copies, names, threads // parts, seed, progress)
        for copy, _ in copies:
            _bring_back(copy, database)


def match_part(
    database: Path,
    names: Sequence[str],
    pairs: Pairs,
    *,
    threads: int,
    seed: int,
    progress: Progress,
) -> None:
    """Match and verify `pairs` in this process."""
    hush()
    matching = pycolmap.FeatureMatchingOptions()
    matching.num_threads = threads
    matching.use_gpu = False
    verification = pycolmap.TwoViewGeometryOptions()
    verification.ransac.random_seed = seed
    verification.ransac.max_num_trials = MAX_TRIALS
    pairing = pycolmap.ImportedPairingOptions()
    pairing.block_size = BLOCK
    with tempfile.TemporaryDirectory(prefix="pairs-", dir=database.parent) as scratch:
        listing = Path(scratch) / "pairs.txt"
        listing.write_text("".join(f"{names[i]} {names[j]}\n" for i, j in pairs), encoding="utf-8")
        pairing.match_list_path = listing
        with count_rows(database, "two_view_geometries") as count:
            before = count()

            def poll() -> None:
                _tell(progress, min(count() - before, len(pairs)), len(pairs))

            run_native(
                lambda token: pycolmap.match_image_pairs(
                    database,
                    matching_options=matching,
                    pairing_options=pairing,
                    verification_options=verification,
                    device=pycolmap.Device.cpu,
                    cancellation_token=token,
                ),
                poll,
            )


def _run_parts(
    copies: list[tuple[Path, Pairs]],
    names: Sequence[str],
    threads: int,
    seed: int,
    progress: Progress,
) -> None:
    """Each part in a process of its own; when one fails, or on a cancel, the others are stopped."""
    stop = threading.Event()
    done = [0] * len(copies)
    total = sum(len(pairs) for _, pairs in copies)

    def run(number: int) -> None:
        def note(report: Report) -> None:
            done[number] = int(report.figures.get("pairs", done[number]))

        copy, pairs = copies[number]
        run_isolated(
            "splat_assets.poses.pair_matching:match_part",
            progress=Progress(note, stop.is_set),
            database=copy,
            names=names,
            pairs=pairs,
            threads=threads,
            seed=seed,
        )

    with ThreadPoolExecutor(len(copies), thread_name_prefix="matching") as pool:
        running: list[Future[None]] = [pool.submit(run, number) for number in range(len(copies))]
        try:
            while wait(running, POLL_SEC, FIRST_EXCEPTION).not_done:
                _tell(progress, sum(done), total)
                if any(future.done() and future.exception() for future in running):
                    break
        finally:
            stop.set()  # of no meaning to those that have ended
    errors = [error for error in (future.exception() for future in running) if error]
    if errors:  # the others were stopped for its sake
        raise next((e for e in errors if not isinstance(e, Cancelled)), errors[0])
    _tell(progress, total, total)


def _tell(progress: Progress, done: int, total: int) -> None:
    progress.update(done / total, f"Matching: {done} of {total} pairs", pairs=done)


def _divide(pairs: Pairs, parts: int) -> Iterator[Pairs]:
    """Runs of neighbouring pairs, as they share images."""
    bounds = [len(pairs) * number // parts for number in range(parts + 1)]
    for start, stop in itertools.pairwise(bounds):
        if start < stop:
            yield pairs[start:stop]


def _not_done(database: Path, pairs: Pairs) -> Pairs:
    with _connect(database) as connection:
        rows = connection.execute("SELECT pair_id FROM two_view_geometries")
        done = {number for (number,) in rows}
    return [(i, j) for i, j in pairs if pycolmap.image_pair_to_pair_id(i + 1, j + 1) not in done]


def _mean_features(database: Path) -> float:
    with _connect(database) as connection:
        return float(connection.execute("SELECT AVG(rows) FROM keypoints").fetchone()[0] or 0)


def _copy_features(database: Path, copy: Path, pairs: Pairs) -> None:
    """A database of its own with all cameras and images, and the features of those in `pairs`."""
    with pycolmap.Database.open(copy):
        pass  # makes the tables
    wanted = sorted({row + 1 for pair in pairs for row in pair})
    with _connect(copy) as connection:
        connection.execute("ATTACH ? AS whole", (str(database),))
        connection.execute("CREATE TEMP TABLE wanted (image_id INTEGER PRIMARY KEY)")
        connection.executemany("INSERT INTO wanted VALUES (?)", [(number,) for number in wanted])
        tables = connection.execute(
            "SELECT name FROM main.sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        ).fetchall()
        for (table,) in tables:
            if table in RESULTS:
                continue
            where = "WHERE image_id IN wanted" if table in ("keypoints", "descriptors") else ""
            connection.execute(f"INSERT INTO main.{table} SELECT * FROM whole.{table} {where}")
        connection.commit()


def _bring_back(copy: Path, database: Path) -> None:
    with _connect(database) as connection:
        connection.execute("ATTACH ? AS part", (str(copy),))
        for table in RESULTS:
            connection.execute(f"INSERT OR REPLACE INTO main.{table} SELECT * FROM part.{table}")
        connection.commit()


@contextlib.contextmanager
def _connect(database: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(database)
    try:
        yield connection
    finally:
        connection.close()
