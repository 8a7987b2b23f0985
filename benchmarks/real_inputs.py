"""Real inputs through the whole chain, each by one command line, and a table of what came out.

    python -m benchmarks.real_inputs [NAME …] [--keep FOLDER]

The inputs are looked for in `$SPLAT_ASSETS_TEST_DATA`, by default `../shared/data` beside the
clone; those that are absent are skipped and named. The Hugging Face datasets come from a local
stand-in that speaks the Hub's HTTP API to the real `huggingface_hub` client. Writes
`benchmarks/results/real_inputs.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("SPLAT_ASSETS_TEST_DATA") or ROOT.parent / "shared" / "data")
RESULTS = ROOT / "benchmarks" / "results" / "real_inputs.md"
STAGES = ("raw_dataset", "frames", "camera_poses", "trained_splat", "compressed_splat")
HUB_ORG = "local"


@dataclass(frozen=True)
class Input:
    """One input: where it lies below the data folder, and what is promised of it."""

    name: str
    path: str
    wishes: tuple[str, ...] = ()
    on_hub: bool = False
    min_registered: int = 0
    min_ratio: float = 0.0  # registered, of the kept frames
    min_psnr_db: float = 0.0


INPUTS = (
    Input("photos_banana", "photos_banana", min_registered=14),
    Input("drone_caliterra", "drone_caliterra", min_registered=26),
    Input("video_walkaround", "video_walkaround", min_ratio=0.8),
    Input("gtpose_chair", "gtpose_chair", min_ratio=1.0, min_psnr_db=24.0),
    Input("hf_imagefolder", "hf_imagefolder", on_hub=True),
    Input("hf_parquet", "hf_parquet", on_hub=True),
    Input("playbot_sh2_31k", "splats/playbot_sh2_31k.ply"),
)


@dataclass
class Row:
    """What one input gave."""

    item: Input
    succeeded: bool
    message: str = ""
    wall_sec: float = 0.0
    assets: dict[str, dict[str, Any]] = field(default_factory=dict)

    def figure(self, asset: str, name: str, form: str = "{}") -> str:
        shown = self.assets.get(asset, {})
        value = shown.get(name)
        return "–" if value is None or shown.get("skipped") else form.format(value)

    @property
    def keeps_promise(self) -> bool:
        poses = self.assets.get("camera_poses", {})
        registered = poses.get("num_registered") or 0
        frames = poses.get("num_frames") or 1
        psnr = self.assets.get("trained_splat", {}).get("psnr_db") or 0.0
        return (
            self.succeeded
            and registered >= self.item.min_registered
            and registered >= self.item.min_ratio * frames
            and psnr >= self.item.min_psnr_db
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="only these inputs")
    parser.add_argument("--keep", type=Path, help="data root to use and to leave behind")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - {item.name for item in INPUTS}
    if unknown:
        parser.error(f"there is no input {', '.join(sorted(unknown))}")
    chosen = [item for item in INPUTS if not arguments.names or item.name in arguments.names]
    with _work_folder(arguments.keep) as work:
        rows, absent = _run_all(chosen, work)
    text = render_table(rows, absent)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(text, encoding="utf-8")
    print(text)
    if not all(row.keeps_promise for row in rows):
        raise SystemExit(1)


def _run_all(chosen: list[Input], work: Path) -> tuple[list[Row], list[str]]:
    rows, absent = [], []
    environment = {
        **{k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"},
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "SPLAT_ASSETS_DATA": str(work / "data"),
        "XDG_DATA_HOME": str(work / "user"),
        "HF_HOME": str(work / "hub-cache"),
    }
    with _hub(environment):
        for item in chosen:
            if not (DATA / item.path).exists():
                absent.append(item.name)
                continue
            source = f"{HUB_ORG}/{item.name}" if item.on_hub else str(_source(DATA / item.path))
            rows.append(_run(item, source, environment, work))
    return rows, absent


def _run(item: Input, source: str, environment: dict[str, str], work: Path) -> Row:
    program = "from splat_assets.cli import main; main()"
    command = [sys.executable, "-c", program, "run", source, "--name", item.name, "--json"]
    print(f"{item.name}: splat-assets run {source}", flush=True)
    began = time.perf_counter()
    done = subprocess.run(
        command, env=environment, cwd=work, stdout=subprocess.PIPE, text=True, check=False
    )
    wall = time.perf_counter() - began
    try:
        outcome = json.loads(done.stdout)
    except ValueError:
        return Row(item, False, f"exit code {done.returncode}", wall)
    message = outcome["error"] or "; ".join(c["message"] for c in outcome["failed_checks"])
    return Row(item, outcome["succeeded"], message, wall, outcome["assets"])


def _source(path: Path) -> Path:
    """A video's folder stands for the video in it."""
    videos = [p for p in path.glob("*") if p.suffix.lower() in (".mp4", ".mov", ".mkv")]
    return videos[0] if path.is_dir() and len(videos) == 1 else path


@contextlib.contextmanager
def _hub(environment: dict[str, str]) -> Iterator[None]:
    """Serve the Hub datasets, and point the client at them."""
    from splat_assets_tests.hub_standin import HubStandIn

    with HubStandIn() as hub:
        for item in INPUTS:
            if item.on_hub and (DATA / item.path).exists():
                hub.add(f"{HUB_ORG}/{item.name}", DATA / item.path)
        environment["HF_ENDPOINT"] = hub.url
        yield


@contextlib.contextmanager
def _work_folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="real-inputs-") as folder:
        yield Path(folder)


def render_table(rows: list[Row], absent: list[str]) -> str:
    """The Markdown report."""
    head = (
        "input",
        "frames",
        "registered",
        "reproj. error px",
        "PSNR dB",
        "SSIM",
        "Gaussians",
        "PLY MB",
        "SOG MB",
        "ratio",
        *(f"{stage} s" for stage in STAGES),
        "wall s",
        "result",
    )
    lines = [
        "# Real inputs, whole chain, preset `preview`",
        "",
        f"`python -m benchmarks.real_inputs` on {_machine()}, {time.strftime('%Y-%m-%d')}.",
        "PSNR and SSIM are of held-out views. Seconds are wall time of each stage.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    if absent:
        lines += ["", f"Not measured, because their data is not here: {', '.join(absent)}."]
    remarks = [f"- {row.item.name}: {row.message}" for row in rows if row.message]
    return "\n".join([*lines, *([""] if remarks else []), *remarks]) + "\n"


def _cells(row: Row) -> list[str]:
    poses = row.assets.get("camera_poses", {})
    registered = row.figure("camera_poses", "num_registered")
    return [
        row.item.name,
        row.figure("frames", "num_frames"),
        registered + (" (given)" if poses.get("poses_given") and not poses["skipped"] else ""),
        row.figure("camera_poses", "reprojection_error_px", "{:.2f}"),
        row.figure("trained_splat", "psnr_db", "{:.2f}"),
        row.figure("trained_splat", "ssim", "{:.3f}"),
        row.figure("compressed_splat", "num_gaussians", "{:,}"),
        _megabytes(row, "ply_bytes"),
        _megabytes(row, "sog_bytes"),
        row.figure("compressed_splat", "ratio", "{:.1f}"),
        *(row.figure(stage, "seconds", "{:.1f}") for stage in STAGES),
        f"{row.wall_sec:.0f}",
        "ok" if row.keeps_promise else "**not as promised**",
    ]


def _megabytes(row: Row, name: str) -> str:
    value = row.assets.get("compressed_splat", {}).get(name)
    return "–" if value is None else f"{value / 1e6:.2f}"


def _machine() -> str:
    from splat_assets.compute import available_threads, select_compute

    compute = select_compute()
    return f"{platform.machine()}, {available_threads()} cores, {compute.device}"


if __name__ == "__main__":
    main()
