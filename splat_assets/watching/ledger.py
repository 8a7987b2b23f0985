"""The ledger: what was found by watching, and what became of each, in one small SQLite file.

A row is a repository or an item of a drop box. It goes `found → waiting → asked → current`, or to
`refused` or `gone` with a reason. That a run was asked for is only believed when the run is seen
(`defs/admission.py`): the daemon may have been killed in between. Losing the file loses nothing but
reasons: everything is found again, and what is registered or has runs is recognised.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from splat_assets.datasets.registry import Registry
from splat_assets.errors import UserError
from splat_assets.settings import load_settings

LEDGER_FILE = ".watch.sqlite"
VERSION = 1
CHUNK = 400  # SQLite allows 999 variables in its oldest builds
Kind = Literal["hub", "drop"]
State = Literal["found", "waiting", "asked", "current", "refused", "gone"]
STATES: tuple[State, ...] = ("found", "waiting", "asked", "current", "refused", "gone")


@dataclass(frozen=True)
class Entry:
    """One thing found. Versions are commits (Hub) or fingerprints of sizes and times (drop box)."""

    key: str  # the Hub's id of the repository, or box and item
    kind: Kind
    label: str  # org/name, or the path
    watch: str  # name of the entry in the watch list that found it
    state: State
    head: str = ""  # the newest version seen
    done: str = ""  # the version that a run was made for
    asked: str = ""  # the version a run is being asked for
    asked_by: str = ""  # the sensor that asks
    asked_at: float = 0.0  # seconds since 1970
    name: str = ""  # of the dataset; "" before it is registered
    reason: str = ""  # why it is refused or gone
    created: str = ""  # orders what waits: the latest first
    used_bytes: int = 0
    restricted: bool = False  # gated: access must be asked for
    seen: float = 0.0  # when it was listed last
    check_at: float = 0.0  # not looked at again before

    @property
    def run_key(self) -> str:
        """Dagster makes at most one run of each."""
        return f"{self.label}@{self.asked}"


_COLUMNS = tuple(f.name for f in fields(Entry))
_TYPES = {"float": "REAL", "int": "INTEGER", "bool": "INTEGER"}


class Ledger:
    """An open ledger; every method is one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def get(self, keys: Sequence[str]) -> dict[str, Entry]:
        """The entries of these keys, by key."""
        found = {}
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            marks = ",".join("?" * len(chunk))
            for entry in self._select(f"WHERE key IN ({marks})", chunk):
                found[entry.key] = entry
        return found

    def put(self, entries: Iterable[Entry]) -> None:
        """Insert or replace."""
        rows = [tuple(getattr(entry, name) for name in _COLUMNS) for entry in entries]
        marks = ",".join("?" * len(_COLUMNS))
        with self._transaction():
            self._db.executemany(f"INSERT OR REPLACE INTO entry VALUES ({marks})", rows)

    def revise(
        self, keys: Sequence[str], change: Callable[[dict[str, Entry]], Iterable[Entry]]
    ) -> None:
        """Put what `change` makes of the present entries, without another tick in between."""
        with self._transaction():
            self.put(change(self.get(keys)))

    def set(self, key: str, **columns: Any) -> None:
        """Change single columns; others may change other columns at the same time."""
        names = ", ".join(f"{name}=?" for name in columns)
        with self._transaction():
            self._db.execute(f"UPDATE entry SET {names} WHERE key=?", [*columns.values(), key])

    def set_many(self, changes: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """`set` for many, in one transaction."""
        with self._transaction():
            for key, columns in changes:
                self.set(key, **columns)

    def having(
        self, state: State, watch: str, *, limit: int = -1, due: float | None = None
    ) -> list[Entry]:
        """Entries of a watch in one state, the latest first; with `due`, only those to check."""
        where, values = "WHERE watch=? AND state=?", [watch, state]
        more: list[Any] = []
        if due is not None:
            where += " AND check_at<=?"
            more.append(due)
        return self._select(f"{where} ORDER BY created DESC, key LIMIT ?", [*values, *more, limit])

    def asked_by(self, sensor: str) -> list[Entry]:
        """What this sensor has asked for and not yet seen as a run."""
        return self._select("WHERE state='asked' AND asked_by=? ORDER BY asked_at", [sensor])

    def moved(self, watch: str, *, due: float, limit: int) -> list[Entry]:
        """Current entries whose newest version is not the one that was run."""
        return self._select(
            "WHERE watch=? AND state='current' AND head<>done AND check_at<=? "
            "ORDER BY check_at, seen LIMIT ?",
            [watch, due, limit],
        )

    def unseen(self, watch: str, since: float, limit: int) -> list[Entry]:
        """What a sweep that began at `since` did not list, though it was there before."""
        return self._select(
            "WHERE watch=? AND seen<? AND state NOT IN ('gone', 'refused') LIMIT ?",
            [watch, since, limit],
        )

    def labelled(self, label: str) -> list[Entry]:
        return self._select("WHERE label=?", [label])

    def delete(self, keys: Iterable[str]) -> None:
        with self._transaction():
            self._db.executemany("DELETE FROM entry WHERE key=?", [(key,) for key in keys])

    def num_asked_since(self, watch: str, since: float) -> int:
        query = "SELECT count(*) FROM entry WHERE watch=? AND asked_at>=?"
        return int(self._db.execute(query, [watch, since]).fetchone()[0])

    def counts(self, watch: str) -> dict[State, int]:
        """Number of entries of a watch by state; states without any are left out."""
        query = "SELECT state, count(*) FROM entry WHERE watch=? GROUP BY state"
        found = dict(self._db.execute(query, [watch]).fetchall())
        return {state: found[state] for state in STATES if state in found}

    def reasons(self, watch: str, limit: int = 20) -> list[Entry]:
        """Refused and gone entries, the latest looked at first."""
        return self._select(
            "WHERE watch=? AND state IN ('refused', 'gone') ORDER BY seen DESC LIMIT ?",
            [watch, limit],
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self._db.in_transaction:  # part of a larger one
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _select(self, rest: str, values: Sequence[Any]) -> list[Entry]:
        query = f"SELECT {', '.join(_COLUMNS)} FROM entry {rest}"
        rows = self._db.execute(query, list(values)).fetchall()
        return [_entry(row) for row in rows]


def _entry(row: tuple[Any, ...]) -> Entry:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Entry(**values | {"restricted": bool(values["restricted"])})


@contextmanager
def open_ledger(registry: Registry) -> Iterator[Ledger]:
    """The ledger that belongs to a registry, made where there is none. Raises `UserError`.

    It stands in the registry's folder or, where that is in a bucket, in the local scratch folder:
    only the host with the daemon needs it.
    """
    place = str(registry.folder)
    folder = load_settings().local_root if "://" in place else Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LEDGER_FILE
    try:
        db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
        try:
            _prepare(db, path)
            yield Ledger(db)
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{path} cannot be used ({error}); delete it, what it knows is found again."
        ) from error


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise UserError(f"{path} is of a newer splat_assets; update, or delete the file.")
    if version == VERSION:
        return
    columns = ", ".join(
        f"{f.name} {_TYPES.get(str(f.type), 'TEXT')} NOT NULL" for f in fields(Entry)
    )
    # each of these can be done twice, should two ticks meet here
    db.execute(f"CREATE TABLE IF NOT EXISTS entry ({columns}, PRIMARY KEY (key)) WITHOUT ROWID")
    db.execute("CREATE INDEX IF NOT EXISTS by_state ON entry (watch, state, created DESC)")
    db.execute(f"PRAGMA user_version={VERSION}")
