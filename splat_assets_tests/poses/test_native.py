"""Long native calls: watched, stopped, and their errors passed on."""

from __future__ import annotations

import time
from pathlib import Path

import pycolmap
import pytest

from splat_assets.errors import Cancelled
from splat_assets.poses import mapping, native
from splat_assets.poses.features import make_workspace
from splat_assets.poses.mapping import run_mapper
from splat_assets.poses.native import run_native
from splat_assets.progress import Progress, Report
from splat_assets_tests.poses.rings import grey_frames, ring_model


def nothing() -> None:
    """A poll that finds all well."""


def test_results_and_errors_come_back() -> None:
    assert run_native(lambda token: 7, nothing) == 7

    def fail(token: pycolmap.CancellationToken) -> None:
        raise RuntimeError("from below")

    with pytest.raises(RuntimeError, match="from below"):
        run_native(fail, nothing)


def test_cancel_reaches_the_call() -> None:
    stopped: list[bool] = []

    def call(token: pycolmap.CancellationToken) -> None:
        while not token.is_cancelled:
            time.sleep(0.01)
        stopped.append(True)

    def poll() -> None:
        raise Cancelled("Stopped on request.")

    with pytest.raises(Cancelled):
        run_native(call, poll)
    assert stopped == [True]


def test_a_deaf_call_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "STOP_SEC", 0.2)

    def poll() -> None:
        raise Cancelled("Stopped on request.")

    began = time.monotonic()
    with pytest.raises(Cancelled):
        run_native(lambda token: time.sleep(3), poll)
    assert time.monotonic() - began < 2.5


def test_registration_moves_forward_over_several_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COLMAP begins again at two images with every further model; the bar does not."""
    monkeypatch.setattr(native, "POLL_SEC", 0.005)
    names = [f"{i}.png" for i in range(10)]

    def mapper(*_: object, **calls: object) -> dict[int, pycolmap.Reconstruction]:
        sizes = (3, 6, 4)
        for size in sizes:
            calls["initial_image_pair_callback"]()  # type: ignore[operator]
            for _ in range(size - 2):
                time.sleep(0.02)
                calls["next_image_callback"]()  # type: ignore[operator]
            time.sleep(0.02)
        return {i: ring_model(names[:size]) for i, size in enumerate(sizes)}

    monkeypatch.setattr(mapping.pycolmap, "incremental_mapping", mapper)
    frames = grey_frames(tmp_path / "frames", names)
    workspace = make_workspace(tmp_path / "work", frames, frames.kept())
    reports: list[Report] = []
    mapped = run_mapper(
        "incremental", workspace, threads=1, seed=0, progress=Progress(reports.append)
    )
    assert [model.num_reg_images() for model in mapped.models] == [6, 4, 3]  # largest first
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions)
    assert reports[-1].message == "Registered 6 of 10 images"
