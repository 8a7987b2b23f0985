"""How much memory a training takes: per Gaussian, per training pixel, and for a large capture.

    python -m benchmarks.memory [--skip-large] [--threads N]

Each figure is the peak resident memory of a process of its own that runs the stage on a made-up
capture (textured photos, a ring of cameras, random points); bytes per Gaussian and per pixel are
differences between two such runs, so that Python, torch and the compiled kernels cancel out. Goals:
1500 bytes a Gaussian, 3 bytes a training pixel, and 100 photos of 1600 pixels below 3 GB.
Writes `benchmarks/results/memory.md`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

GOAL_PER_GAUSSIAN = 1500
GOAL_PER_PIXEL = 3
GOAL_LARGE = 3e9
POINTS = 10_000  # sparse points of every capture
RESULTS = Path(__file__).resolve().parent / "results" / "memory.md"


@dataclass(frozen=True)
class Case:
    """One process: a capture and a training on it that grows to its budget."""

    photos: int
    width: int
    gaussians: int
    steps: int

    @property
    def height(self) -> int:
        return self.width * 3 // 4

    @property
    def pixels(self) -> int:
        return self.photos * self.width * self.height


FEW_GAUSSIANS = Case(8, 320, 50_000, 60)
MANY_GAUSSIANS = Case(8, 320, 250_000, 60)
FEW_PHOTOS = Case(10, 1600, 20_000, 120)
LARGE = Case(100, 1600, 20_000, 120)
LARGE_MANY = Case(100, 1600, 200_000, 120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--skip-large", action="store_true", help="only bytes per Gaussian")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run(Case(**json.loads(arguments.child)), arguments.threads)))
        return
    rows: list[str] = []
    few, many = (measure(case, arguments.threads, rows) for case in (FEW_GAUSSIANS, MANY_GAUSSIANS))
    count = MANY_GAUSSIANS.gaussians - FEW_GAUSSIANS.gaussians
    per_gaussian = (many["peak"] - few["peak"]) / count
    print(f"bytes per Gaussian: {per_gaussian:.0f} (goal {GOAL_PER_GAUSSIAN})")
    if arguments.skip_large:
        return
    few, large = (measure(case, arguments.threads, rows) for case in (FEW_PHOTOS, LARGE))
    per_pixel = (large["peak"] - few["peak"]) / (LARGE.pixels - FEW_PHOTOS.pixels)
    print(f"bytes per training pixel: {per_pixel:.2f} (goal {GOAL_PER_PIXEL})")
    most = measure(LARGE_MANY, arguments.threads, rows)
    print(f"100 photos of 1600 px: {most['peak'] / 1e9:.2f} GB (goal {GOAL_LARGE / 1e9:.0f} GB)")
    write(per_gaussian, per_pixel, most["peak"], rows)


def write(per_gaussian: float, per_pixel: float, largest: float, rows: list[str]) -> None:
    lines = [
        "# Memory of a training",
        "",
        "`python -m benchmarks.memory`: whole runs to their end (training with checkpoints, "
        "cleanup, evaluation, PLY), each in a process of its own; the peak of its resident memory.",
        "",
        "| | measured | goal |",
        "|---|---|---|",
        f"| bytes a Gaussian | {per_gaussian:.0f} | {GOAL_PER_GAUSSIAN} |",
        f"| bytes a training pixel | {per_pixel:.2f} | {GOAL_PER_PIXEL} |",
        f"| {LARGE_MANY.photos} photos of {LARGE_MANY.width} px, {LARGE_MANY.gaussians} Gaussians "
        f"| {largest / 1e9:.2f} GB | {GOAL_LARGE / 1e9:.0f} GB |",
        "",
        "| photos | pixels | Gaussians | steps | peak MB | of which before training |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines))


def measure(case: Case, threads: int, rows: list[str]) -> dict[str, Any]:
    """Run `case` in a process of its own; its answer, printed and added to the table's rows."""
    command = [sys.executable, "-m", "benchmarks.memory", "--threads", str(threads)]
    command += ["--child", json.dumps(asdict(case))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{case.photos:4d} photos of {case.width} px, {case.gaussians:7d} Gaussians: "
        f"peak {answer['peak'] / 1e6:.0f} MB, of which {answer['start'] / 1e6:.0f} MB before "
        f"training; {answer['cpu_seconds']:.0f} CPU s"
    )
    rows.append(
        f"| {case.photos} | {case.width} × {case.height} | {case.gaussians} | {case.steps} "
        f"| {answer['peak'] / 1e6:.0f} | {answer['start'] / 1e6:.0f} |"
    )
    return answer


def run(case: Case, threads: int) -> dict[str, Any]:
    """In the child: make the capture, train, and say what the memory was."""
    import pandas as pd

    from splat_assets.compute import Compute, peak_memory_bytes
    from splat_assets.datasets.options import TrainOptions
    from splat_assets.poses.pose_model import PoseModel
    from splat_assets.progress import silent
    from splat_assets.rendering.warm_up import warm_up
    from splat_assets.training.train import train_splat

    with tempfile.TemporaryDirectory() as scratch:
        poses, out = Path(scratch) / "poses", Path(scratch) / "out"
        # in yet another process: what making it takes is not to be counted
        subprocess.run(
            [sys.executable, "-c", _MAKE, json.dumps(asdict(case)), str(poses)], check=True
        )
        out.mkdir()
        warm_up()
        start = peak_memory_bytes()
        options = TrainOptions(
            steps=case.steps,
            max_gaussians=case.gaussians,
            long_side=case.width,
            strategy="mcmc",
            test_every=case.photos // 2,  # two are held out in each case
            dense_init="off",
            checkpoint_every_sec=1.0,
            min_contribution_px=0.0,  # else few would be left when the curve is written
        )
        splat = train_splat(
            PoseModel.open(poses),
            out,
            options=options,
            compute=Compute("cpu", "numba", "the benchmark asks for it", threads),
            resume_dir=Path(scratch) / "resume",
            progress=silent(),
        )
        # those hidden behind others are removed at the end, but all of them were trained
        assert pd.read_parquet(splat.path / "training.parquet")["num_gaussians"].max() > (
            0.95 * case.gaussians
        )
    return {"peak": peak_memory_bytes(), "start": start, "cpu_seconds": time.process_time()}


def make_capture(case: Case, folder: Path) -> None:
    """Write a `PoseModel` of textured photos around random points."""
    import pycolmap
    from PIL import Image

    from splat_assets.artifacts.manifest import build_manifest, write_manifest
    from splat_assets.poses.pose_model import PoseModel

    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    model = pycolmap.Reconstruction()
    parameters = [case.width, case.width, case.width / 2, case.height / 2]
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(
            camera_id=1, model="PINHOLE", width=case.width, height=case.height, params=parameters
        )
    )
    for i in range(case.photos):
        turn = 2 * np.pi * i / case.photos
        center = 4 * np.array([np.cos(turn), -0.2, np.sin(turn)])
        forward = -center / np.linalg.norm(center)
        right = np.cross([0.0, 1.0, 0.0], forward)
        right /= np.linalg.norm(right)
        rotation = np.stack([right, np.cross(forward, right), forward])
        pose = np.concatenate([rotation, -(rotation @ center)[:, None]], axis=1)
        coarse = rng.integers(0, 255, (case.height // 10, case.width // 10, 3), np.uint8)
        photo = Image.fromarray(coarse).resize((case.width, case.height), Image.Resampling.BICUBIC)
        photo.save(folder / "images" / f"{i:03d}.jpg", quality=90)
        image = pycolmap.Image(name=f"{i:03d}.jpg", camera_id=1, image_id=i + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
    for xyz in rng.normal(size=(POINTS, 3)) * 0.6:
        model.add_point3D(xyz, pycolmap.Track(), rng.integers(0, 255, 3, np.uint8))
    (folder / "sparse" / "0").mkdir(parents=True)
    model.write(str(folder / "sparse" / "0"))
    (folder / "report.json").write_text("{}")
    write_manifest(folder, build_manifest(folder, PoseModel.KIND))


_MAKE = """
import json, sys
from pathlib import Path
from benchmarks.memory import Case, make_capture
make_capture(Case(**json.loads(sys.argv[1])), Path(sys.argv[2]))
"""


if __name__ == "__main__":
    main()
