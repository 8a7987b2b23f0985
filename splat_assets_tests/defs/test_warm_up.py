"""The fork server has loaded what every step needs, and nothing that must not be shared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from splat_assets_tests.dagster_services import prepare_home

PROGRAM = """
import multiprocessing, os, sys
import splat_assets.defs.preload
opened = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
          if os.path.exists(f"/proc/self/fd/{fd}")] if os.path.isdir("/proc") else []
print(*sys.modules)
print(*[name for name in opened if ".db" in name or "socket" in name])

def step():
    before = set(sys.modules)
    import dagster as dg
    from splat_assets.definitions import defs
    with dg.DagsterInstance.get() as instance:
        run = instance.create_run_for_job(defs.resolve_job_def("reconstruct"))
        instance.add_run_tags(run.run_id, {"a": "b"})
        list(instance.all_logs(run.run_id))
    print(*(set(sys.modules) - before), flush=True)

child = multiprocessing.get_context("fork").Process(target=step)
child.start()
child.join()
sys.exit(child.exitcode)
"""


def test_steps_find_the_database_code_and_no_open_database(tmp_path: Path) -> None:
    environment = prepare_home(tmp_path / "home", tmp_path / "data")
    program = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules, opened, later = (line.split() for line in done.stdout.split("\n")[:3])
    assert {"sqlalchemy", "alembic", "numpy", "splat_assets.defs.run_launcher"} <= set(modules)
    assert {"torch", "pycolmap", "pandas", "numba"}.isdisjoint(modules)
    assert opened == []
    assert not [name for name in later if name.startswith(("sqlalchemy.", "alembic.", "upath"))]
    assert sum(name.startswith("dagster.") for name in later) < 10, later


def test_without_an_instance_the_definitions_are_loaded_all_the_same(tmp_path: Path) -> None:
    program = "import splat_assets.defs.preload, sys; print('sqlalchemy' in sys.modules)"
    environment = prepare_home(tmp_path / "home", tmp_path / "data")
    del environment["DAGSTER_HOME"]
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr
