"""Start everything a team runs, on this host, and reconstruct a dataset through it if given.

python deploy/up.py                     until Ctrl-C
python deploy/up.py PHOTOS              reconstruct these photos, then stop
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from deploy.servers import UnavailableError
from deploy.stack import Stack, stack

STATE = Path(__file__).resolve().parent / ".state"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="what `splat-assets add` takes; none: only start")
    parser.add_argument("--name", help="the dataset's name; default: made from the source")
    parser.add_argument("--preset", default="preview", help="preview, standard or high")
    parser.add_argument("--set", action="append", default=[], metavar="STAGE.OPTION=VALUE")
    parser.add_argument("--keep", action="store_true", help="stay up after the dataset is done")
    parser.add_argument("--port", type=int, default=3000, help="of the web UI")
    parser.add_argument("--viewer-port", type=int, default=3001, help="of the read-only web UI")
    parser.add_argument("--folder", type=Path, default=STATE, help="for state and logs")
    wanted = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()

    def tell(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)

    code = 0
    try:
        ports = {"port": wanted.port, "viewer_port": wanted.viewer_port}
        with stack(wanted.folder, **ports, tell=tell) as running:
            if wanted.source:
                code = reconstruct(running, wanted, tell)
            if not wanted.source or wanted.keep:
                tell("Ctrl-C stops everything.")
                signal.pause()
    except KeyboardInterrupt:
        pass
    except UnavailableError as error:
        print(error, file=sys.stderr)
        return 1
    tell("stopped")
    return code


def reconstruct(running: Stack, wanted: argparse.Namespace, tell: Callable[[str], None]) -> int:
    """Register the source, run its chain, and say where every artifact is; the exit code."""
    from splat_assets.errors import UserError
    from splat_assets.sources.uri import default_name, parse_source

    try:
        name = wanted.name or default_name(parse_source(wanted.source))
    except UserError as error:
        raise UnavailableError(str(error)) from None
    overrides = [part for option in wanted.set for part in ("--set", option)]
    add = ["add", wanted.source, "--name", name, "--preset", wanted.preset, *overrides]
    tell(running.command(*add, "--replace").splitlines()[0])
    run_id = running.launch(name)
    tell(f"run {running.url}/runs/{run_id}")
    status = running.follow(run_id, tell)
    for asset, entry in json.loads(running.command("status", name, "--json"))["assets"].items():
        tell(f"{asset}: {entry['state']}, {entry.get('seconds') or 0:.1f} s, {entry.get('path')}")
    tell(f"run {status}")
    return 0 if status == "SUCCESS" else 1


if __name__ == "__main__":
    sys.exit(main())
