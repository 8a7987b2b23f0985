"""Damaged splat files by the thousand: does any make a reader crash, hang or take all memory?

    python -m splat_assets_tests.formats.fuzz [--inputs 100000] [--seed 0] [--json FILE]

Small valid files of every format that is read are damaged in ways that a transfer, a faulty tool or
an attacker might: cut short, bits flipped, numbers replaced by absurd ones, NaN and infinities,
members of archives left out, swapped or replaced by bombs, JSON entries replaced by other types.
Each must be read, or be refused with a `UserError` of one line, within `--timeout` seconds and
`--memory-mb` of address space above the start (`RLIMIT_AS`: more raises `MemoryError`, which
counts as a failure). The work is done in a child process; when it dies, that is a failure too and
the next child goes on behind the input at fault.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_LIMIT_MB = 768
_TIMEOUT_SEC = 10.0
_STEP = 4000  # inputs of one child


@dataclass
class Outcome:
    """What became of the inputs, by format: counts of "read" and "refused", and the failures."""

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)
    slowest_seconds: float = 0.0
    peak_mb: float = 0.0  # resident memory of the worst child

    @property
    def inputs(self) -> int:
        return sum(sum(counter.values()) for counter in self.counts.values())


def run(first: int, count: int, seed: int, scratch: Path, timeout: float) -> Outcome:
    """Read the inputs `first` … `first + count` of a seed in this process."""
    from splat_assets_tests.formats.fuzz_inputs import damaged_input, seeds

    outcome = Outcome()
    known = seeds()
    for number in range(first, first + count):
        name, path = damaged_input(known, seed, number, scratch)
        counter = outcome.counts.setdefault(name, Counter())
        began = time.monotonic()
        problem = _try_to_read(path, timeout)
        outcome.slowest_seconds = max(outcome.slowest_seconds, time.monotonic() - began)
        counter["refused" if problem == "refused" else "read" if not problem else "failed"] += 1
        if problem and problem != "refused":
            outcome.failures.append({"input": number, "format": name, "problem": problem})
    return outcome


class _TooSlowError(Exception):
    pass


def _try_to_read(path: Path, timeout: float) -> str:
    """ "" when it was read, "refused" when that was said properly, else what went wrong."""
    from splat_assets.errors import UserError
    from splat_assets.formats.registry import read_splat
    from splat_assets.gaussians.cleanup import clean

    def ring(*_: object) -> None:
        raise _TooSlowError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            clean(read_splat(path))
        return ""
    except UserError as error:
        text = str(error)
        return "refused" if "\n" not in text and len(text) < 1000 else f"many lines: {text[:200]!r}"
    except _TooSlowError:
        return f"longer than {timeout:g} s"
    except BaseException as error:  # whatever it is, it is a finding
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_guarded(total: int, seed: int, *, limit_mb: int, timeout: float, say: Any) -> Outcome:
    """Read inputs 0 … `total` in children with a memory limit, whatever happens to them."""
    outcome = Outcome()
    first, fatal = 0, total
    while first < total:
        if first == fatal:  # already told
            first, fatal = first + 1, total
            continue
        count = min(_STEP, fatal - first)
        command = [sys.executable, "-m", __spec__.name if __spec__ else __name__, "--child"]
        command += [str(first), str(count), "--seed", str(seed), "--memory-mb", str(limit_mb)]
        command += ["--timeout", str(timeout)]
        with tempfile.TemporaryDirectory(prefix="splat-assets-fuzz-") as scratch:
            mark = Path(scratch) / "mark"
            child = subprocess.Popen(
                [*command, "--scratch", scratch], stdout=subprocess.PIPE, text=True
            )
            text, killed = _wait(child, mark, timeout)
            if child.returncode == 0:
                _add(outcome, json.loads(text.splitlines()[-1]))
                first += count
            else:  # the inputs before the one at fault are read once more, then it is left out
                if not mark.exists():
                    raise RuntimeError("the inputs could not be made")
                fatal = int(mark.read_text())
                problem = "hang" if killed else f"the process died ({child.returncode})"
                outcome.failures.append({"input": fatal, "format": "?", "problem": problem})
                outcome.counts.setdefault("?", Counter())["failed"] += 1
        say(outcome, first)
    return outcome


def _wait(child: subprocess.Popen[str], mark: Path, timeout: float) -> tuple[str, bool]:
    """The child's output, and whether it had to be killed for staying on one input."""
    seen, since = "", time.monotonic()
    while True:
        try:
            return child.communicate(timeout=1.0)[0], False
        except subprocess.TimeoutExpired:
            now = mark.read_text() if mark.exists() else ""
            if now != seen:
                seen, since = now, time.monotonic()
            # before the first input the valid files are made; later the alarm did not help, so it
            # hangs in native code
            elif time.monotonic() - since > (3 * timeout + 30 if seen else 900):
                child.kill()
                return child.communicate()[0], True


def _add(outcome: Outcome, part: dict[str, Any]) -> None:
    for name, counter in part["counts"].items():
        outcome.counts.setdefault(name, Counter()).update(counter)
    outcome.failures += part["failures"]
    outcome.slowest_seconds = max(outcome.slowest_seconds, part["slowest_seconds"])
    outcome.peak_mb = max(outcome.peak_mb, part["peak_mb"])


def _child(arguments: argparse.Namespace) -> None:
    from splat_assets_tests.formats import fuzz_inputs

    scratch = Path(arguments.scratch)
    fuzz_inputs.seeds()  # what making the valid files takes is not the readers'
    _limit_memory(arguments.memory_mb)
    damage = fuzz_inputs.damaged_input

    def marked(known: Any, seed: int, number: int, folder: Path) -> Any:
        (scratch / "mark").write_text(str(number))
        return damage(known, seed, number, folder)

    fuzz_inputs.damaged_input = marked
    first, count = arguments.child
    outcome = run(first, count, arguments.seed, scratch, arguments.timeout)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        json.dumps(
            {
                "counts": outcome.counts,
                "failures": outcome.failures,
                "slowest_seconds": outcome.slowest_seconds,
                "peak_mb": peak,
            }
        )
    )


def _limit_memory(megabytes: int) -> None:
    """Address space: what there is now and so much more (Linux; elsewhere only the peak tells)."""
    status = Path("/proc/self/statm")
    if not status.exists():
        return
    now = int(status.read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    most = now + (megabytes << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--memory-mb", type=int, default=_LIMIT_MB)
    parser.add_argument("--timeout", type=float, default=_TIMEOUT_SEC)
    parser.add_argument("--json", type=Path, help="also write the result here")
    parser.add_argument("--child", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        _child(arguments)
        return
    began = time.monotonic()

    def say(outcome: Outcome, done: int) -> None:
        seconds = time.monotonic() - began
        print(f"{done:7d} inputs, {len(outcome.failures)} failures, {seconds:.0f} s", flush=True)

    outcome = run_guarded(
        arguments.inputs,
        arguments.seed,
        limit_mb=arguments.memory_mb,
        timeout=arguments.timeout,
        say=say,
    )
    result = {
        "inputs": outcome.inputs,
        "seed": arguments.seed,
        "memory_limit_mb": arguments.memory_mb,
        "timeout_seconds": arguments.timeout,
        "by_format": {name: dict(counter) for name, counter in sorted(outcome.counts.items())},
        "failures": outcome.failures,
        "slowest_seconds": round(outcome.slowest_seconds, 3),
        "peak_resident_mb": round(outcome.peak_mb),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if outcome.failures else 0)


if __name__ == "__main__":
    main()
