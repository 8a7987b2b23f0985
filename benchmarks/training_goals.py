"""Short trainings as people start them: seconds with nothing compiled yet, and held-out quality.

    python -m benchmarks.training_goals WORK [--seeds 0 1 2]

Each run is a process of its own, on all cores; seconds are of the whole process, from its start to
the written splat. The first run of each kind finds an empty cache of compiled kernels. Splits hold
out every eighth picture, A from the first and B from the fifth (`training_vs_peer_scenes`); the
chair has test views of its own. WORK keeps the solved poses. Writes
`benchmarks/results/training_goals.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.training_vs_peer_scenes import DEMO, prepare

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SPLAT_ASSETS_TEST_DATA") or ROOT.parent / "shared" / "data")
RESULTS = ROOT / "benchmarks" / "results" / "training_goals.md"
BANANA, CHAIR = "photos_banana", "gtpose_chair"


@dataclass(frozen=True)
class Goal:
    """One kind of run, and what is asked of it."""

    scene: str
    splits: tuple[str, ...]
    long_side: int
    steps: int
    budget: int
    least_db: float | None = None  # mean over splits and seeds
    most_seconds: float | None = None  # from an empty cache
    seeds: int = 3  # at most


GOALS = (
    Goal(DEMO, ("A",), 320, 1000, 20_000, most_seconds=45, seeds=1),
    Goal(BANANA, ("A", "B"), 320, 1000, 20_000, least_db=28, most_seconds=45),
    Goal(BANANA, ("A", "B"), 320, 300, 20_000, least_db=25),
    Goal(CHAIR, ("",), 400, 3000, 50_000, least_db=31, most_seconds=600, seeds=1),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(_train(json.loads(arguments.child))))
        return
    lines = [
        "# Short trainings",
        "",
        f"`python -m benchmarks.training_goals WORK`, {time.strftime('%Y-%m-%d')}, "
        f"{os.cpu_count()} cores, no GPU. Held-out views; means over splits and seeds; seconds of "
        "whole processes. Goals in brackets.",
        "",
        "| scene | px | steps | Gaussians | runs | PSNR dB | of each split | SSIM "
        "| wall s, nothing compiled | wall s | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for goal in GOALS:
        lines.append(_row(goal, _measure(goal, arguments.work, arguments.seeds[: goal.seeds])))
        print(lines[-1], flush=True)
    RESULTS.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _measure(goal: Goal, work: Path, seeds: list[int]) -> list[dict[str, Any]]:
    prepare(goal.scene, DATA, work)
    runs = []
    with tempfile.TemporaryDirectory(prefix="kernels-") as cache:
        for seed in seeds:
            for split in goal.splits:
                case = {"poses": str(work / goal.scene / split / "poses"), "seed": seed}
                case |= {"long_side": goal.long_side, "steps": goal.steps, "budget": goal.budget}
                command = [sys.executable, "-m", "benchmarks.training_goals", str(work)]
                began = time.perf_counter()
                done = subprocess.run(
                    [*command, "--child", json.dumps(case)],
                    capture_output=True,
                    text=True,
                    check=False,
                    env=os.environ | {"NUMBA_CACHE_DIR": cache},
                )
                if done.returncode:
                    raise SystemExit(done.stderr)
                found = json.loads(done.stdout.splitlines()[-1])
                runs.append(found | {"split": split, "seconds": time.perf_counter() - began})
    return runs


def _train(case: dict[str, Any]) -> dict[str, Any]:
    """In the child."""
    from splat_assets.compute import select_compute
    from splat_assets.datasets.options import TrainOptions
    from splat_assets.poses.pose_model import PoseModel
    from splat_assets.progress import silent
    from splat_assets.training.train import train_splat

    options = TrainOptions(
        steps=case["steps"],
        max_gaussians=case["budget"],
        long_side=case["long_side"],
        seed=case["seed"],
    )
    with tempfile.TemporaryDirectory() as scratch:
        splat = train_splat(
            PoseModel.open(Path(case["poses"])),
            Path(scratch),
            options=options,
            compute=select_compute("cpu"),
            progress=silent(),
        )
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {name: splat.summary[name] for name in ("psnr_db", "ssim", "num_gaussians")} | {
            "cpu_seconds": used.ru_utime + used.ru_stime
        }


def _row(goal: Goal, runs: list[dict[str, Any]]) -> str:
    def mean(name: str, split: str | None = None) -> float:
        return statistics.mean(r[name] for r in runs if split in (None, r["split"]))

    compiled = runs[1:] or runs
    least = f" (≥ {goal.least_db:g})" if goal.least_db else ""
    most = f" (≤ {goal.most_seconds:g})" if goal.most_seconds else ""
    cells = [
        goal.scene,
        str(goal.long_side),
        str(goal.steps),
        f"{mean('num_gaussians'):,.0f}",
        str(len(runs)),
        f"{mean('psnr_db'):.2f}{least}",
        ", ".join(f"{mean('psnr_db', split):.2f}" for split in goal.splits),
        f"{mean('ssim'):.3f}",
        f"{runs[0]['seconds']:.1f}{most}",
        f"{statistics.median(r['seconds'] for r in compiled):.1f}" if len(runs) > 1 else "",
        f"{statistics.median(r['cpu_seconds'] for r in compiled):.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
