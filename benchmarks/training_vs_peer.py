"""Our CPU training against OpenSplat: quality for CPU seconds, and CPU seconds a step.

    python -m benchmarks.training_vs_peer --peer PATH_OF_BINARY --work FOLDER
        [--data FOLDER] [--scenes NAME …] [--only pace|peer|ours|report …] [--core N]

`--peer` is the program `opensplat` built for the CPU from its own README. Every run is kept in
`--work` and not repeated, so that the whole can be measured in pieces; `report` writes
`benchmarks/results/training_vs_peer.md` from what is there.

How it is made fair:
- Poses are solved once; both sides get the same training pictures (320 px, the same bytes of
  pixels), cameras and sparse points; the peer's COLMAP model lacks the held-out views.
- Both sides are whole processes pinned to one core; user and system seconds count, start-up, image
  loading and (on our side) scoring and pictures too. Our kernels are compiled before.
- All splats are drawn by our renderer at the held-out views on black, which is also the background
  that the peer trains on (its default); no colour space is converted on either side.
- The peer has the better of two settings, by PSNR on split A of the first scene that is measured.
  It has no seed option (its seeds are fixed), so it has one run where ours has several.
- What only we have and what asks or alters held-out views is off: exposure correction, cleanup.
  Our stereo start is on (it uses the training views) and its CPU seconds count.
- Our number of steps for a share of the peer's CPU seconds is calibrated on split A, first seed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.training_vs_peer_report import write_report
from benchmarks.training_vs_peer_scenes import SCENES, Split, prepare
from splat_assets.gaussians.ply import read_ply

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SPLAT_ASSETS_TEST_DATA") or ROOT.parent / "shared" / "data")
SEEDS = (0, 1)
PEER_STEPS = 1000
# For 1000 steps instead of its 30 000; the second leaves its optimiser its full rate for longer.
PEER_SETTINGS = {
    "short": {"refine-every": 100, "densify-from": 100, "densify-until": 600},
    "longer": {"refine-every": 100, "densify-from": 100, "densify-until": 900},
}
_PEER_SH = {"sh-degree-interval": 125}


@dataclass(frozen=True)
class Share:
    """Our run at a part of the peer's CPU seconds; `max_gaussians` was chosen on split A."""

    name: str
    of_peer_cpu: float
    max_gaussians: int


SHARES = {
    share.name: share
    for share in (
        Share("1/10", 0.1, 20_000),
        Share("1/4", 0.25, 30_000),
        Share("1/1", 1.0, 40_000),
    )
}
_FIRST_STEP_SECONDS = 0.018  # of 20 k Gaussians, to begin the calibration
_START_SECONDS = 5.0
_ACCEPTED = (0.85, 1.02)  # of the CPU seconds aimed at
_PACE_REPEATS = 3
_PEER_PACE_STEPS = (10, 40)
_OUR_PACE_STEPS = 200
_NEVER = 10**6


@dataclass(frozen=True)
class Runner:
    """Measured processes on one core, with what they gave kept in a file."""

    peer: Path
    core: int

    def cpu_seconds(self, command: list[str], log: Path) -> tuple[float, str]:
        """User and system seconds of a process, and what it printed (also in `log`)."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with log.open("w+") as stream:
            process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=ROOT,
                preexec_fn=lambda: os.sched_setaffinity(0, {self.core}),
            )  # fmt: skip
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            stream.seek(0)
            text = stream.read()
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{text[-2000:]}")
        return usage.ru_utime + usage.ru_stime, text

    def version(self) -> str:
        done = subprocess.run([self.peer, "--version"], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def run_peer(self, split: Split, setting: str) -> dict[str, Any]:
        folder = split.folder / f"peer_{setting}"
        return _kept(folder, lambda: self._run_peer(split, setting, folder))

    def _run_peer(self, split: Split, setting: str, folder: Path) -> dict[str, Any]:
        ply = folder / "splat.ply"
        options = {"num-iters": PEER_STEPS, **_PEER_SH, **PEER_SETTINGS[setting]}
        command = self._peer_command(split, ply, options)
        cpu, _ = self.cpu_seconds(command, folder / "log.txt")
        return {"cpu_seconds": cpu, "steps": PEER_STEPS, "setting": setting, **_score(ply, split)}

    def run_ours(self, split: Split, steps: int, max_gaussians: int, seed: int) -> dict[str, Any]:
        folder = split.folder / f"ours_{steps}_{max_gaussians}_{seed}"

        def run() -> dict[str, Any]:
            out = folder / "splat"
            out.mkdir()
            numbers = [str(n) for n in (steps, max_gaussians, seed)]
            command = _child("train", str(split.folder / "poses"), str(out), *numbers)
            cpu, _ = self.cpu_seconds(command, folder / "log.txt")
            scores = _score(out / "splat.ply", split)
            summary = json.loads((out / "manifest.json").read_text(encoding="utf-8"))["summary"]
            training = summary["cpu_seconds"]
            return {"cpu_seconds": cpu, "training_seconds": training, "steps": steps, **scores}

        return _kept(folder, run)

    def run_pace(self, split: Split, setting: str) -> dict[str, Any]:
        """CPU seconds a step from the same trained splat, by turns; medians."""
        start = split.folder / f"peer_{setting}" / "splat.ply"
        folder = split.folder / "pace"

        def run() -> dict[str, Any]:
            seconds: dict[str, list[float]] = {"peer": [], "peer_late": [], "ours": []}
            for _ in range(_PACE_REPEATS):
                for kind, until in (("peer", _NEVER), ("peer_late", 0)):
                    seconds[kind].append(self._peer_pace(split, start, until, folder))
                command = _child(
                    "pace", str(split.folder / "poses"), str(start), str(_OUR_PACE_STEPS)
                )
                _, text = self.cpu_seconds(command, folder / "log.txt")
                seconds["ours"].append(float(text.split()[-1]))
            return {
                "num_gaussians": len(read_ply(start)),
                **{kind: median(values) for kind, values in seconds.items()},
                "all": seconds,
            }

        return _kept(folder, run)

    def _peer_pace(self, split: Split, start: Path, until: int, folder: Path) -> float:
        """From the difference of a short and a longer run, so that its start-up does not count."""
        spent = []
        few, many = _PEER_PACE_STEPS
        for steps in (few, many):
            options = {
                "num-iters": PEER_STEPS + steps,
                "refine-every": _NEVER,
                "densify-from": _NEVER,
                "densify-until": until,
                **_PEER_SH,
                "resume": start,
            }
            command = self._peer_command(split, folder / "out.ply", options)
            spent.append(self.cpu_seconds(command, folder / "log.txt")[0])
        return (spent[1] - spent[0]) / (many - few)

    def _peer_command(self, split: Split, ply: Path, options: dict[str, Any]) -> list[str]:
        words = [str(self.peer), str(split.peer_input), "--cpu", "--output", str(ply)]
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        return words


def main() -> None:
    arguments = _arguments()
    work = arguments.work.resolve()
    runner = Runner(arguments.peer.resolve(), arguments.core)
    scenes = [s for s in arguments.scenes if s == SCENES[0] or (arguments.data / s).is_dir()]
    splits = {scene: prepare(scene, arguments.data, work) for scene in scenes}
    setting = arguments.setting
    if setting is None and set(arguments.only) != {"report"}:
        setting = _choose_setting(runner, next(iter(splits.values()))[0])
    for pair in splits.values():
        if "peer" in arguments.only:
            for split in pair:
                runner.run_peer(split, setting)
        if "pace" in arguments.only:
            runner.run_pace(pair[0], setting)
        if "ours" in arguments.only:
            _run_ours(runner, pair, setting, arguments)
    if "report" in arguments.only:
        print(write_report(work, runner.version(), arguments.note))


def _arguments() -> argparse.Namespace:
    pieces = ("peer", "pace", "ours", "report")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer", type=Path, required=True, help="the program opensplat")
    parser.add_argument("--work", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=SCENES[:3])
    parser.add_argument("--only", nargs="+", choices=pieces, default=pieces)
    parser.add_argument("--setting", choices=PEER_SETTINGS, help="the peer's; default: its better")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--shares", nargs="+", choices=SHARES, default=tuple(SHARES))
    parser.add_argument("--note", action="append", default=[], help="a sentence for the report")
    parser.add_argument("--core", type=int, default=0, help="the core that measured runs use")
    return parser.parse_args()


def _choose_setting(runner: Runner, split: Split) -> str:
    """The peer's better setting on split A."""
    results = {name: runner.run_peer(split, name) for name in PEER_SETTINGS}
    return max(results, key=lambda name: results[name]["psnr_db"])


def _run_ours(
    runner: Runner, splits: list[Split], setting: str, arguments: argparse.Namespace
) -> None:
    """Every share, split and seed, with the steps that split A's first seed called for."""
    first = splits[0]
    runner.run_ours(first, 20, 5_000, 0)  # compiles the kernels
    peer_cpu = runner.run_peer(first, setting)["cpu_seconds"]
    step_seconds = _FIRST_STEP_SECONDS
    for name in arguments.shares:
        share = SHARES[name]
        steps, step_seconds = _calibrate(
            runner, first, share, share.of_peer_cpu * peer_cpu, step_seconds
        )
        runs = [
            {"split": split.name, "seed": seed}
            | runner.run_ours(split, steps, share.max_gaussians, seed)
            for split in splits
            for seed in arguments.seeds
        ]
        path = first.folder.parent / f"ours_{name.replace('/', 'of')}.json"
        path.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")


def _calibrate(
    runner: Runner, split: Split, share: Share, budget: float, step_seconds: float
) -> tuple[int, float]:
    """Steps that take about `budget` CPU seconds, and the seconds a step took."""
    low, high = (bound * budget for bound in _ACCEPTED)
    fits = 0, step_seconds
    for _ in range(3):
        steps = max(50, round((0.95 * budget - _START_SECONDS) / step_seconds / 50) * 50)
        cpu = runner.run_ours(split, steps, share.max_gaussians, SEEDS[0])["cpu_seconds"]
        step_seconds = max(cpu - _START_SECONDS, 0.1 * cpu) / steps
        if cpu <= high and steps > fits[0]:
            fits = steps, step_seconds
        if low <= cpu <= high:
            break
    return fits if fits[0] else (steps, step_seconds)


def _score(ply: Path, split: Split) -> dict[str, Any]:
    from benchmarks.training_vs_peer_child import score

    return score(ply, split)


def _child(*words: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.training_vs_peer_child", *words]


def _kept(folder: Path, run: Any) -> dict[str, Any]:
    """The result in `folder`, or that of `run`, which begins with the folder empty."""
    path = folder / "run.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    result = run()
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    figures = {k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}
    print(folder.name, folder.parent.parent.name, folder.parent.name, figures, flush=True)
    return result


if __name__ == "__main__":
    main()
