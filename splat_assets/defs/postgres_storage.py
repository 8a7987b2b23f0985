"""PostgreSQL for a shared instance: Dagster's own storages, through a connection that is kept.

Dagster (1.13) connects anew for every query, but for the web server, which keeps one connection for
each of three storages. To connect costs the server a process and both sides the arithmetic of a
login: most of what an idle instance takes. Here a process keeps one connection in all, opens more
only while several threads need one, and looks whether it still lives before each use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as db
from dagster._serdes import ConfigurableClassData
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
    PostgresScheduleStorage,
)
from dagster_postgres.utils import (
    create_pg_connection,
    create_pg_engine,
    get_token_provider_from_config,
    pg_url_from_config,
    retry_pg_connection_fn,
)
from sqlalchemy.dialects.postgresql import psycopg2 as _psycopg2  # noqa: F401 - for what is forked

from splat_assets.defs.thrifty_storage import OpenConnections, RemembersRuns, StoresTogether

TABLES = {"event_logs", "runs", "instance_info", "schedules"}  # what Dagster looks for, one by one
RECYCLE_SEC = 1800  # firewalls forget connections that were idle for longer


class PostgresStorage(DagsterPostgresStorage):
    """Runs, events and schedules of the instance; configured like Dagster's `postgres`."""

    def __init__(
        self,
        postgres_url: str,
        should_autocreate_tables: bool = True,
        inst_data: ConfigurableClassData | None = None,
        token_provider: Any = None,
    ) -> None:
        self.postgres_url = postgres_url
        self.should_autocreate_tables = should_autocreate_tables
        self._inst_data = inst_data
        engine = create_pg_engine(
            postgres_url,
            token_provider,
            isolation_level="AUTOCOMMIT",
            pool_size=1,
            max_overflow=-1,
            pool_pre_ping=True,
            pool_recycle=RECYCLE_SEC,
        )
        create = should_autocreate_tables and not _has_tables(engine)
        known: dict[str, Any] = {"token_provider": token_provider}
        self._run_storage = Runs(postgres_url, create, **known)
        self._event_log_storage = Events(postgres_url, create, **known)
        self._schedule_storage = PostgresScheduleStorage(postgres_url, create, **known)
        for storage in (self._run_storage, self._event_log_storage, self._schedule_storage):
            storage._engine = engine
        super(DagsterPostgresStorage, self).__init__()

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> PostgresStorage:
        return cls(
            pg_url_from_config(config_value),
            config_value.get("should_autocreate_tables", True),
            inst_data,
            get_token_provider_from_config(config_value),
        )


class Runs(RemembersRuns, PostgresRunStorage):
    """Runs and backfills."""


class Events(StoresTogether, PostgresEventLogStorage):
    """The event log."""

    def __init__(self, *arguments: Any, **known: Any) -> None:
        self._open = OpenConnections()
        super().__init__(*arguments, **known)

    @contextmanager
    def _connect(self) -> Iterator[db.Connection]:
        with self.shared("events", self._transaction, alone=self._alone) as connection:
            yield connection

    def _alone(self) -> Any:
        return create_pg_connection(self._engine)

    @contextmanager
    def _transaction(self) -> Iterator[db.Connection]:
        """For a batch: all of it is committed at once."""
        with create_pg_connection(self._engine) as connection:
            connection = connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                yield connection


def _has_tables(engine: db.Engine) -> bool:
    found = retry_pg_connection_fn(lambda: db.inspect(engine).get_table_names())
    return set(found) >= TABLES
