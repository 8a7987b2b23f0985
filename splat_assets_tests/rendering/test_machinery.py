"""The thread team, the reused memory and the warm-up below the rasteriser."""

from __future__ import annotations

import random
import threading
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit

from splat_assets.rendering import cuda_check
from splat_assets.rendering.cpu import buffers
from splat_assets.rendering.cpu.simd import fetch_add
from splat_assets.rendering.cpu.tasks import next_task, shares
from splat_assets.rendering.cpu.team import Team
from splat_assets.rendering.rasterize import rasterize
from splat_assets.rendering.warm_up import warm_up, warm_up_beside
from splat_assets.stages import STAGES
from splat_assets_tests.rendering.test_rasterize import make_scene


def test_a_team_runs_every_member_and_hands_on_errors() -> None:
    team = Team(3)
    seen: list[int] = []

    def note(share: object) -> None:
        seen.append(threading.get_ident())

    team.run(100, note)
    assert len(set(seen)) == 3
    seen.clear()
    team.run(2, note)
    assert len(set(seen)) == 2

    def fail(share: object) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("helper")

    with pytest.raises(RuntimeError, match="helper"):
        team.run(3, fail)
    seen.clear()
    team.run(3, note)
    assert len(seen) == 3


def test_every_task_is_done_once_and_most_by_whom_they_belong_to() -> None:
    for members, tasks in ((1, 5), (2, 9), (3, 100), (4, 4)):
        parts = shares(members, tasks)
        assert next_task(parts[-1]) == tasks * (members - 1) // members
        rest = [next_task(parts[0]) for _ in range(tasks - 1)]
        assert rest[0] == 0 or members == 1
        assert sorted([tasks * (members - 1) // members, *rest]) == list(range(tasks))
        assert all(next_task(part) >= tasks for part in parts)


def test_memory_comes_back_only_when_nobody_holds_it() -> None:
    first = buffers.take((1000, 100), np.float32)
    assert first.shape == (1000, 100) and first.ctypes.data % 64 == 0
    address = first.ctypes.data
    tensor = torch.from_numpy(first)
    del first
    other = buffers.take((1000, 100), np.float32)
    assert other.ctypes.data != address
    del tensor
    again = buffers.take((990, 100), np.float32)
    assert again.ctypes.data == address


def test_only_what_nobody_holds_is_released() -> None:
    held, idle = (buffers.take((500, 100), np.float32) for _ in range(2))
    held[:] = 7
    del idle
    buffers.release()
    fresh = [buffers.take((500, 100), np.float32) for _ in range(2)]
    assert held.ctypes.data not in [one.ctypes.data for one in fresh]
    for one in fresh:
        one[:] = 0
    assert (held == 7).all()


def test_no_wake_up_is_lost() -> None:
    """Jobs of every length around the time a thread looks out before it sleeps: each task is done
    when `run` returns, and nobody waits for ever."""
    team, counts = Team(3), np.zeros(9, np.int64)
    rng = random.Random(1)
    for _ in range(2000):
        counts[0] = 0
        team.run(8, _count, counts, rng.choice([0, 10, 100, 1000, 3000]))
        assert counts[0] == 8
        if rng.random() < 0.1:
            time.sleep(rng.choice([0, 1e-5, 1e-4]))


@njit(nogil=True)
def _count(share, counts, loops):  # type: ignore[no-untyped-def]
    while next_task(share) < 8:
        for _ in range(loops):
            fetch_add(counts, 8, 0)
        fetch_add(counts, 0, 1)


def test_two_renders_at_once_from_python_threads() -> None:
    def work(out: list[torch.Tensor]) -> None:
        for _ in range(5):
            scene = make_scene(500, seed=2)
            scene["means"].requires_grad_()
            image, _, _ = rasterize(**scene, width=70, height=50, sh_degree=3)
            image.square().sum().backward()
            assert scene["means"].grad is not None
            out.append(scene["means"].grad)

    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=work, args=(results,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 10
    assert all(torch.equal(result, results[0]) for result in results)


def test_warm_up_beside_fills_the_cache_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda_check, "driver_present", lambda: False)
    child = warm_up_beside()
    assert child is not None and child.wait(timeout=300) == 0
    # what the child found cached or compiled is what this process would
    assert warm_up_beside() is None
    warm_up()  # takes its turn, and only loads


def test_no_warm_up_where_cuda_will_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_check, "driver_present", lambda: True)
    assert warm_up_beside() is None


def test_poses_start_the_warm_up() -> None:
    stage = STAGES["camera_poses"]
    assert stage.beside is not None
    module, _, name = stage.beside.partition(":")
    assert getattr(import_module(module), name) is warm_up_beside
