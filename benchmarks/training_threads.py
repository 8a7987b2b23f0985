"""Whole training steps on one thread and on two, side by side: what does a second core bring?

    python -m benchmarks.training_threads --poses FOLDER [--steps 1000] [--repeats 3]

`FOLDER` is a version of the asset `camera_poses`. Each training runs in a process of its own, one
thread and two threads in turn; the medians of wall and CPU seconds of the training loop (its scores
on held-out views included) are compared, and the splats must be the same bytes. Wall times only
mean something on an idle machine.
Writes `benchmarks/results/training_threads.md`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "training_threads.md"


def train(poses: Path, threads: int, steps: int, gaussians: int, long_side: int) -> dict[str, Any]:
    """One training in this process; its figures."""
    from splat_assets.compute import Compute
    from splat_assets.datasets.options import TrainOptions
    from splat_assets.poses.pose_model import PoseModel
    from splat_assets.progress import silent
    from splat_assets.rendering.warm_up import warm_up
    from splat_assets.training.train import train_splat
    from splat_assets.training.trainer import Trainer

    warm_up()
    spent: list[float] = []
    run = Trainer.run

    def timed(trainer: Trainer, *positional: Any, **named: Any) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        run(trainer, *positional, **named)
        spent.extend((time.perf_counter() - wall, time.process_time() - cpu))

    Trainer.run = timed  # type: ignore[assignment, method-assign]
    options = TrainOptions(steps=steps, max_gaussians=gaussians, long_side=long_side)
    compute = Compute("cpu", "numba", "the benchmark asked for it", threads)
    with tempfile.TemporaryDirectory() as folder:
        splat = train_splat(
            PoseModel.open(poses), Path(folder), options=options, compute=compute, progress=silent()
        )
        summary = splat.summary
        return {
            "wall": spent[0],
            "cpu": spent[1],
            "gaussians": summary["num_gaussians"],
            "psnr_db": summary.get("psnr_db"),
            "sha256": hashlib.sha256(splat.ply.read_bytes()).hexdigest(),
        }


def in_a_process(arguments: argparse.Namespace, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training_threads", "--child", str(threads)]
    for name in ("poses", "steps", "gaussians", "long_side"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--poses", type=Path, required=True, help="a version of camera_poses")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--gaussians", type=int, default=20_000)
    parser.add_argument("--long-side", type=int, default=320)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        figures = train(
            arguments.poses, arguments.child, arguments.steps, arguments.gaussians,
            arguments.long_side,
        )  # fmt: skip
        print(json.dumps(figures))
        return
    runs: dict[int, list[dict[str, Any]]] = {1: [], 2: []}
    for repeat in range(arguments.repeats):
        for threads, known in runs.items():
            known.append(in_a_process(arguments, threads))
            one = known[-1]
            print(
                f"{repeat}: {threads} thread(s), {one['wall']:.2f} s wall, {one['cpu']:.2f} s CPU"
            )
    same = len({one["sha256"] for known in runs.values() for one in known}) == 1
    medians = {
        threads: {key: median(one[key] for one in known) for key in ("wall", "cpu")}
        for threads, known in runs.items()
    }
    example = runs[1][0]
    ratio = medians[1]["wall"] / medians[2]["wall"]
    psnr = "" if example["psnr_db"] is None else f", {example['psnr_db']:.2f} dB held out"
    lines = [
        "# Whole training steps on one and two threads",
        "",
        f"{arguments.steps} steps at {arguments.long_side} px, {example['gaussians']} Gaussians at "
        f"the end{psnr}; medians of {arguments.repeats} runs each, in turn; "
        f"{platform.processor() or platform.machine()}.",
        "",
        "| threads | wall s | CPU s | ms a step |",
        "|---|---|---|---|",
        *(
            f"| {threads} | {f['wall']:.2f} | {f['cpu']:.2f} | "
            f"{1e3 * f['wall'] / arguments.steps:.2f} |"
            for threads, f in medians.items()
        ),
        "",
        f"The second thread makes it {ratio:.2f} times as fast; all splats are "
        + ("the same bytes." if same else "NOT the same bytes."),
        "",
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
