"""What Dagster's storages do more often than they need to, on SQLite and on PostgreSQL.

Before a run is queued, Dagster plans an event for each of its assets and gates, and its storages
open a connection and a transaction or two for each of them: most of what queueing costs. While the
runs wait, the page of an asset's partitions looks at all of them, and unpacks each anew.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import lru_cache
from typing import Any

import dagster as dg
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.runs import SqlRunStorage
from dagster._serdes import deserialize_value
from sqlalchemy.exc import SQLAlchemyError

# Dagster hands events over one by one unless this is set; a larger batch comes in parts.
BATCH_VARIABLE, BATCH_SIZE = "DAGSTER_EVENT_BATCH_SIZE", "100"
os.environ.setdefault(BATCH_VARIABLE, BATCH_SIZE)


NUM_RUNS = 2000  # remembered by a process, some 10 kB each
LOADED_SEC = 15.0  # after which a web server has loaded all that it will


class OpenConnections(threading.local):
    """The connections of the batch that this thread is storing, by database; None: no batch."""

    connections: dict[str, Any] | None = None
    stack: ExitStack


class StoresTogether(SqlEventLogStorage):
    """Mixin of an event log storage: in a batch, each database is opened once.

    An error undoes the batch, and Dagster then stores its events one by one.
    """

    _open: OpenConnections

    def store_event_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """Store all events, or none."""
        with ExitStack() as self._open.stack:
            self._open.connections = {}
            try:
                for event in events:
                    self.store_event(event)
            finally:
                self._open.connections = None

    @contextmanager
    def shared(
        self,
        database: str,
        transaction: Callable[[], AbstractContextManager],
        alone: Callable[[], AbstractContextManager] | None = None,
    ) -> Iterator[Any]:
        """The batch's connection to this database; outside of a batch, one of its own.

        Args:
            database: its name.
            transaction: opens a connection with a transaction, committed when its block ends.
            alone: opens the one outside of a batch, where that is something else.
        """
        known = self._open.connections
        if known is None:
            with (alone or transaction)() as connection:
                yield connection
            return
        if database not in known:
            known[database] = self._open.stack.enter_context(transaction())
        yield known[database]


class RemembersRuns(SqlRunStorage):
    """Mixin of a run storage: what stands in a run's row is unpacked once."""

    def _row_to_run(self, row: dict) -> dg.DagsterRun:
        return _unpacked(row["run_body"], row["status"])

    def optimize_for_webserver(self, *arguments: Any, **known: Any) -> None:
        """Also prepare the web server for its first page, and for never pausing later."""
        super().optimize_for_webserver(*arguments, **known)
        threading.Thread(target=self._prepare, daemon=True, name="preparation").start()

    def _prepare(self) -> None:
        with suppress(SQLAlchemyError):  # the page says it better
            self.get_runs(limit=NUM_RUNS)
        time.sleep(LOADED_SEC)
        # Looking through all of Dagster for garbage takes half a second, in which nobody is
        # answered, and happens about every minute.
        gc.freeze()


@lru_cache(NUM_RUNS)
def _unpacked(body: str, status: str) -> dg.DagsterRun:
    # the column is right where the two differ
    return deserialize_value(body, dg.DagsterRun).with_status(dg.DagsterRunStatus(status))
