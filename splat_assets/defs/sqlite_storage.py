"""SQLite for the embedded instance: Dagster's own storages and files, opened less often.

Dagster (1.13) opens and sets up a database anew for every query: an engine, compiled statements, a
look at all migrations there ever were. Here engines are kept, what was set up is not looked at
again, and the database of a run is a copy of an empty one. The files are the same, so that
`storage: {sqlite: …}` can be put back into dagster.yaml at any time.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import sqlalchemy as db
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS, create_db_conn_string
from dagster._core.storage.sqlite_storage import (
    DagsterSqliteStorage,
    _event_logs_directory,
    _runs_directory,
    _schedule_directory,
)
from dagster._serdes import ConfigurableClassData
from sqlalchemy.pool import NullPool, QueuePool

from splat_assets.defs.thrifty_storage import OpenConnections, RemembersRuns, StoresTogether

KEPT = 2  # connections that a process keeps open to a database


class SqliteStorage(DagsterSqliteStorage):
    """Runs, events and schedules of the instance, in SQLite files below `base_dir`."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self.base_dir = base_dir
        self._inst_data = inst_data
        self._run_storage = Runs.from_local(_runs_directory(base_dir))
        self._event_log_storage = Events(_event_logs_directory(base_dir))
        self._schedule_storage = Schedules.from_local(_schedule_directory(base_dir))
        super(DagsterSqliteStorage, self).__init__()

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> SqliteStorage:
        return cls.from_local(inst_data=inst_data, **config_value)


class Runs(RemembersRuns, SqliteRunStorage):
    """`runs.db`."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(conn_string, inst_data)
        self._engine = _kept_engine(conn_string)

    @classmethod
    def from_local(cls, base_dir: str, inst_data: ConfigurableClassData | None = None) -> Runs:
        if is_set_up(Path(base_dir) / "runs.db", "instance_info"):
            return cls(create_db_conn_string(base_dir, "runs"), inst_data)
        return super().from_local(base_dir, inst_data)

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        with self._engine.begin() as connection:
            yield connection


class Schedules(SqliteScheduleStorage):
    """`schedules.db`: ticks and states of sensors and schedules."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(conn_string, inst_data)
        self._engine = _kept_engine(conn_string)

    @classmethod
    def from_local(cls, base_dir: str, inst_data: ConfigurableClassData | None = None) -> Schedules:
        if is_set_up(Path(base_dir) / "schedules.db"):
            return cls(create_db_conn_string(base_dir, "schedules"), inst_data)
        return cast(Schedules, super().from_local(base_dir, inst_data))

    @contextmanager
    def connect(self) -> Iterator[db.Connection]:
        with self._engine.begin() as connection:
            yield connection


class Events(StoresTogether, SqliteEventLogStorage):
    """`index.db` with the events of assets, and a database for all events of each run."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._open = OpenConnections()
        self._index = _kept_engine(create_db_conn_string(base_dir, INDEX_SHARD_NAME))
        # of any run: the connection of the moment is made for the path that the thread has set
        self._of_runs = create_engine("sqlite://", creator=self._connect_run, poolclass=NullPool)
        self._known_tables: set[str] = set()
        super().__init__(base_dir, inst_data)

    def has_table(self, table_name: str) -> bool:
        if table_name not in self._known_tables and super().has_table(table_name):
            self._known_tables.add(table_name)
        return table_name in self._known_tables

    def _has_asset_key_index_cols_on_connection(self, conn: db.Connection) -> bool:
        return True  # in every instance since 2021; Dagster asks the database at each event

    @contextmanager
    def _connect(self, shard: str) -> Iterator[db.Connection]:
        with self.shared(shard, partial(self._begin, shard)) as connection:
            yield connection

    @contextmanager
    def _begin(self, shard: str) -> Iterator[db.Connection]:
        if shard not in self._initialized_dbs:
            with self._db_lock:
                self._set_up(shard)
                self._initialized_dbs.add(shard)
        if shard == INDEX_SHARD_NAME:
            with self._index.begin() as connection:
                yield connection
        else:
            self._open.path = self.path_for_shard(shard)
            with self._of_runs.begin() as connection:
                yield connection

    def _connect_run(self) -> sqlite3.Connection:
        return sqlite3.connect(self._open.path, timeout=SQLITE_BUSY_TIMEOUT_SECONDS)

    def _set_up(self, shard: str) -> None:
        path = Path(self.path_for_shard(shard))
        if not path.exists():
            _write_once(path, empty_database())
        if not is_set_up(path, "event_logs"):  # Dagster was killed while it did
            engine = create_engine(self.conn_string_for_shard(shard), poolclass=NullPool)
            self._initdb(engine)
            engine.dispose()


@cache
def empty_database() -> bytes:
    """The file of a run without events, as Dagster makes it."""
    with tempfile.TemporaryDirectory(prefix="splat-assets-") as folder:
        path = Path(folder) / "empty.db"
        dagsters = SqliteEventLogStorage(folder)
        engine = create_engine(dagsters.conn_string_for_shard(path.stem), poolclass=NullPool)
        dagsters._initdb(engine)
        engine.dispose()
        return path.read_bytes()


def is_set_up(path: Path, *tables: str) -> bool:
    """True for a database that Dagster has made and marked with a version."""
    if not path.exists():
        return False
    with suppress(sqlite3.Error), closing(sqlite3.connect(path, timeout=30)) as connection:
        marked = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return marked is not None and {(table,) for table in tables} <= set(found)
    return False


def _kept_engine(conn_string: str) -> db.Engine:
    """An engine whose connections stay open, for the one database that every query goes to."""
    engine = create_engine(
        conn_string,
        poolclass=QueuePool,
        pool_size=KEPT,
        max_overflow=-1,
        connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
    )
    db.event.listen(engine, "connect", _prepare)
    return engine


def _prepare(connection: sqlite3.Connection, _record: object) -> None:
    # With a write-ahead log this is safe but for the last moments before a power failure.
    connection.execute("PRAGMA synchronous=NORMAL")


def _write_once(path: Path, content: bytes) -> None:
    """Write a file that appears whole, unless another process is faster."""
    temporary = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
    temporary.write_bytes(content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        if not path.exists():
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
