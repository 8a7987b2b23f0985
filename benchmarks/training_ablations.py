"""Every switch of training turned over, on three scenes and two seeds: seconds saved, dB lost.

    python -m benchmarks.training_ablations WORK [--minutes N]

WORK keeps the scenes (`training_vs_peer_scenes`) and every finished run, so that a call which ran
out of its minutes goes on where it stopped. Scores are of split B, which no setting was chosen on.
Writes `benchmarks/results/training_ablations.md` once all runs are there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.training_vs_peer_scenes import DEMO, prepare
from splat_assets.compute import Compute, select_compute
from splat_assets.datasets.options import TrainOptions
from splat_assets.poses.pose_model import PoseModel
from splat_assets.progress import silent
from splat_assets.training.train import train_splat

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SPLAT_ASSETS_TEST_DATA") or ROOT.parent / "shared" / "data")
RESULTS = ROOT / "benchmarks" / "results" / "training_ablations.md"

SCENES = (DEMO, "photos_banana", "drone_caliterra")
SEEDS = (0, 1)
BASE: dict[str, Any] = {"steps": 1000, "max_gaussians": 12_000, "long_side": 240}
SWITCHES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "progressive blur on": {"progressive_blur": True},
    "SH ramp off": {"sh_ramp": False},
    "stereo points off": {"dense_init": "off"},
    "plateau stop, patience 3": {"plateau_patience": 3},
    "pruning by contribution off": {"min_contribution_px": 0.0},
    "camera clearance off": {"camera_clearance": 0.0},
    "strategy gradient": {"strategy": "gradient"},
    "strategy multiview": {"strategy": "multiview"},
    "exposure on": {"exposure": "on"},
    "cleanup off": {"cleanup": False},
    # reduced pictures are left out where little would be left of them, so at a larger size
    "defaults, 640 px": {"long_side": 640},
    "progressive resolution off, 640 px": {"long_side": 640, "progressive_resolution": False},
}
BASELINES = {"progressive resolution off, 640 px": "defaults, 640 px"}
FIGURES = ("psnr_db", "ssim", "cpu_seconds", "seconds", "num_gaussians", "steps")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--minutes", type=float, default=1e9, help="start no run after so many")
    arguments = parser.parse_args()
    began = time.monotonic()
    compute = select_compute()
    for scene, switch, seed in _cases():
        path = _result_path(arguments.work, scene, switch, seed)
        if path.is_file():
            continue
        if time.monotonic() - began > 60 * arguments.minutes:
            print("Out of minutes; call again to go on.")
            return
        split_b = prepare(scene, DATA, arguments.work / "scenes")[1]
        found = _run(split_b.poses, arguments.work / "run", switch, seed, compute)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found))
        print(scene, switch, seed, found, flush=True)
    text = report(arguments.work, compute)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)


def _cases() -> Iterator[tuple[str, str, int]]:
    return ((scene, switch, seed) for switch in SWITCHES for scene in SCENES for seed in SEEDS)


def _result_path(work: Path, scene: str, switch: str, seed: int) -> Path:
    return work / "runs" / f"{scene}, {switch}, {seed}.json"


def _run(poses: PoseModel, out: Path, switch: str, seed: int, compute: Compute) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    options = TrainOptions(**{**BASE, **SWITCHES[switch], "seed": seed})
    splat = train_splat(poses, out, options=options, compute=compute, progress=silent())
    return {name: splat.summary[name] for name in FIGURES}


def report(work: Path, compute: Compute) -> str:
    """The Markdown table, differences to the defaults of the same scene and seed."""
    runs = {
        case: json.loads(_result_path(work, *case).read_text(encoding="utf-8")) for case in _cases()
    }
    head = ["switch", *(f"{scene} Δ dB" for scene in SCENES), "mean Δ dB", "mean Δ SSIM",
            "CPU s saved", "CPU saved", "Gaussians", "steps"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for switch in SWITCHES:
        cells = [switch]
        own = switch.startswith("defaults")
        per_scene = []
        for scene in SCENES:
            base = BASELINES.get(switch, switch if own else "defaults")
            found = [(runs[scene, switch, seed], runs[scene, base, seed]) for seed in SEEDS]
            gain = statistics.mean(a["psnr_db"] - b["psnr_db"] for a, b in found)
            level = statistics.mean(a["psnr_db"] for a, _ in found)
            per_scene.append(found)
            cells.append(f"{level:.2f}" if own else f"{gain:+.2f}")
        pairs = [pair for found in per_scene for pair in found]

        def mean(name: str, base: bool = False, pairs: list[Any] = pairs) -> float:
            return statistics.mean(pair[base][name] for pair in pairs)

        saved = mean("cpu_seconds", True) - mean("cpu_seconds")
        if own:
            cells += [f"{mean('psnr_db'):.2f}", f"{mean('ssim'):.3f}",
                      f"({mean('cpu_seconds'):.1f})", ""]  # fmt: skip
        else:
            cells += [
                f"{mean('psnr_db') - mean('psnr_db', True):+.2f}",
                f"{mean('ssim') - mean('ssim', True):+.3f}",
                f"{saved:+.1f}",
                f"{saved / mean('cpu_seconds', True):+.0%}",
            ]
        cells += [f"{mean('num_gaussians'):,.0f}", f"{mean('steps'):.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    spread = statistics.mean(
        abs(runs[scene, "defaults", 0]["psnr_db"] - runs[scene, "defaults", 1]["psnr_db"])
        for scene in SCENES
    )
    intro = [
        "# Ablations of training",
        "",
        f"`python -m benchmarks.training_ablations WORK` on {compute.threads} threads of "
        f"{compute.device}, {time.strftime('%Y-%m-%d')}: {BASE['steps']} steps, "
        f"{BASE['long_side']} px, {BASE['max_gaussians']:,} Gaussians, seeds {SEEDS}, held-out "
        "views of split B.",
        "Differences are to the defaults of the same scene, size and seed, whose own figures are "
        f"in rows of their own. Two seeds of the defaults differ by {spread:.2f} dB on average: "
        "smaller differences say nothing.",
        "",
    ]
    return "\n".join([*intro, *lines]) + "\n"


if __name__ == "__main__":
    main()
