"""Calling pycolmap so that it stays quiet, shows how far it is, and can be stopped.

A long call runs in a thread of its own and takes a `CancellationToken`; meanwhile the caller's
thread polls. pycolmap looks at the token between images, pairs and registrations.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pycolmap

T = TypeVar("T")
POLL_SEC = 0.2
STOP_SEC = 5.0


def hush() -> None:
    """Let COLMAP print errors only; its own progress lines would tear the terminal's bar."""
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR)


def run_native(call: Callable[[pycolmap.CancellationToken], T], poll: Callable[[], None]) -> T:
    """Run `call(token)` in a thread and `poll()` a few times a second in this one.

    What `poll` raises (`Cancelled`) cancels the token and is raised here once the call has come
    back; a call that does not look at its token is left behind after `STOP_SEC` (the stage's
    process ends with it). What `call` raises is raised here.
    """
    token = pycolmap.CancellationToken()
    result: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(call(token))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True, name="pycolmap")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(POLL_SEC)
            poll()
    except BaseException:
        token.cancel()
        thread.join(STOP_SEC)
        raise
    if failure:
        raise failure[0]
    return result[0]


@contextlib.contextmanager
def count_rows(database: Path, table: str) -> Iterator[Callable[[], int]]:
    """Yields a function that counts a table's rows while COLMAP writes to the database.

    The count is for progress only: when the database is locked at that moment, the last one stands.
    """
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=0.05)
    last = 0

    def count() -> int:
        nonlocal last
        with contextlib.suppress(sqlite3.OperationalError):
            last = connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
        return last

    try:
        yield count
    finally:
        connection.close()
