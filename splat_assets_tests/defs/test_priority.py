"""Run workers give way to everything else, as far as the environment says."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from splat_assets.defs.priority import give_way
from splat_assets.errors import UserError
from splat_assets.settings import load_settings


def _niceness(send: multiprocessing.connection.Connection) -> None:
    give_way()
    give_way()  # more than one run in a process
    send.send(os.nice(0))


@pytest.mark.parametrize(("value", "expected"), [("", 10), ("3", 3), ("0", 0)])
def test_only_run_workers_give_way(
    value: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLAT_ASSETS_NICE", value)
    before = os.nice(0)
    give_way()
    assert os.nice(0) == before  # a terminal's process
    receive, send = multiprocessing.Pipe()
    worker = multiprocessing.get_context("spawn").Process(target=_niceness, args=(send,))
    worker.start()
    assert receive.recv() == max(expected, before)
    worker.join()


def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLAT_ASSETS_NICE", "very")
    with pytest.raises(UserError, match="SPLAT_ASSETS_NICE is 'very'; set it to a whole number"):
        load_settings()
