"""Stand-ins for the five library functions: quick, slow, failing or crashing as the source says.

The source is `fake:` and URL query parameters (`fake:?frames=20&step_sec=0.05`), or anything
else for the defaults; the parameters travel down the chain in `summary["fake"]`, so that every
stage can be told how to behave.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from PIL import Image

from splat_assets.artifacts.contract import ArtifactFolder
from splat_assets.artifacts.manifest import build_manifest, write_bytes_atomic, write_manifest
from splat_assets.compression.compressed_splat import CompressedSplat
from splat_assets.compute import Compute
from splat_assets.datasets.options import (
    CompressOptions,
    FrameOptions,
    PoseOptions,
    SourceOptions,
    TrainOptions,
)
from splat_assets.errors import SourceError, TransientError, UserError
from splat_assets.frames.frame_set import FrameSet
from splat_assets.gaussians.splat_model import SplatModel
from splat_assets.poses.pose_model import PoseModel
from splat_assets.progress import Progress
from splat_assets.sources.raw_dataset import RawDataset

FUNCTIONS = {
    asset: f"splat_assets_tests.defs.fake_stages:{function}"
    for asset, function in {
        "raw_dataset": "fetch",
        "frames": "extract",
        "camera_poses": "solve",
        "trained_splat": "train",
        "compressed_splat": "compress",
    }.items()
}


def fetch(
    source: str,
    out: Path,
    *,
    options: SourceOptions,
    previous: RawDataset | None,
    progress: Progress,
) -> RawDataset:
    fake = dict(parse_qsl(source.partition("?")[2]))
    if "flaky" in fake:  # fails once, then works
        marker = Path(fake["flaky"])
        if not marker.exists():
            marker.write_text("seen")
            raise TransientError("The hub does not answer; try again later.")
    if fake.get("fail") == "network":
        raise TransientError("The hub does not answer; try again later.")
    if fake.get("fail") == "source":
        raise SourceError("The folder /pictures is empty; put photos in it.")
    if fake.get("fail") == "bug":
        raise ZeroDivisionError("a bug")
    progress.update(0.5, "fetching")
    (out / "files").mkdir()
    (out / "files" / "a.txt").write_text(fake.get("content", "pictures"))
    summary = {
        "content": "photos",
        "source": source,
        "revision": "r1",
        "license": "cc0",
        "num_files": 1,
        "total_bytes": 8,
        "downloaded_files": 0 if previous else 1,
        "downloaded_bytes": 0 if previous else 8,
        "unchanged": previous is not None,
    }
    return _finish(RawDataset, out, summary, fake)


def extract(raw: RawDataset, out: Path, *, options: FrameOptions, progress: Progress) -> FrameSet:
    fake = raw.summary["fake"]
    frames = int(fake.get("frames", 12))
    (out / "images").mkdir()
    for index in range(frames):
        progress.update(index / frames, f"frame {index}", num_frames=index)
        if fake.get("fail") == "disk":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
        image = Image.new("RGB", (64, 48), (index * 9 % 255, 90, 160))
        image.save(out / "images" / f"{index:03}.jpg")
    image.resize((320, 240)).save(out / "contact_sheet.jpg")
    summary = {"num_frames": frames, "num_seen": frames + 2, "num_dropped": {"blurred": 2}}
    return _finish(FrameSet, out, summary, fake, versioned=["images/"])


def solve(frames: FrameSet, out: Path, *, options: PoseOptions, progress: Progress) -> PoseModel:
    fake = frames.summary["fake"]
    if fake.get("fail") == "overlap":
        raise UserError("The photos share no view of the same thing; take them with more overlap.")
    if fake.get("fail") == "crash":
        os.kill(os.getpid(), 11)
    progress.update(0.5, "matching")
    (out / "report.json").write_text("{}")
    ratio = float(fake.get("registered", 1.0))
    total = int(frames.summary["num_frames"])
    summary = {
        "num_frames": total,
        "num_registered": round(total * ratio),
        "registered_ratio": ratio,
        "reprojection_error_px": float(fake.get("error_px", 0.7)),
        "num_points": 1000,
        "mean_track_length": 4.5,
        "mapper": "incremental",
        "matching": "exhaustive",
        "unregistered": [],
    }
    return _finish(PoseModel, out, summary, fake)


def train(
    poses: PoseModel,
    out: Path,
    *,
    options: TrainOptions,
    compute: Compute,
    resume_dir: Path | None,
    progress: Progress,
) -> SplatModel:
    """`steps` steps of `step_sec`; a checkpoint after each; `native=1` ignores every cancel."""
    fake = poses.summary["fake"]
    if "spawn" in fake:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    checkpoint = resume_dir / "step.json" if resume_dir else None
    first = 0
    if checkpoint is not None and checkpoint.exists():
        first = json.loads(checkpoint.read_text())["step"]
    steps = min(options.steps, int(fake.get("steps", 3)))
    for step in range(first, steps):
        if "native" in fake:
            progress.update(step / steps, f"step {step}")
            time.sleep(60)
        progress.update(step / steps, f"step {step}", step=step, psnr_db=10.0 + step)
        time.sleep(float(fake.get("step_sec", 0)))
        if checkpoint is not None:
            write_bytes_atomic(checkpoint, json.dumps({"step": step + 1}).encode())
    (out / "splat.ply").write_bytes(b"ply" * 1000)
    summary = {
        "num_gaussians": 1234,
        "ply_bytes": 3000,
        "psnr_db": float(fake.get("psnr", 25.0)),
        "ssim": 0.9,
        "steps": steps,
        "resumed_from_step": first,
        "device": compute.device,
        "backend": compute.backend,
    }
    return _finish(SplatModel, out, summary, fake, versioned=["splat.ply"])


def compress(
    splat: SplatModel,
    out: Path,
    *,
    options: CompressOptions,
    compute: Compute,
    progress: Progress,
) -> CompressedSplat:
    fake = splat.summary["fake"]
    progress.update(0.5, "writing")
    (out / "scene.sog").write_bytes(b"s" * 200)
    (out / "viewer.html").write_text("<html></html>")
    Image.new("RGB", (320, 240), (10, 90, 160)).save(out / "preview.jpg")
    (out / "report.json").write_text(json.dumps({"fields": {"means": 100, "quats": 100}}))
    summary = {
        "num_gaussians": 1234,
        "ply_bytes": 3000,
        "sog_bytes": 200,
        "ratio": float(fake.get("ratio", 15.0)),
        "psnr_loss_db": float(fake.get("loss", 0.1)),
        "psnr_vs_splat_db": 45.0,
        "order": options.order,
    }
    return _finish(CompressedSplat, out, summary, fake, versioned=["scene.sog"])


def _finish(
    kind: type[ArtifactFolder],
    out: Path,
    summary: dict[str, Any],
    fake: dict[str, str],
    versioned: list[str] | None = None,
) -> Any:
    (out / "fake.json").write_text(json.dumps(fake))  # other behaviour is another version
    versioned = None if versioned is None else [*versioned, "fake.json"]
    summary = {**summary, "fake": fake}
    write_manifest(out, build_manifest(out, kind.KIND, summary=summary, versioned=versioned))
    return kind.open(out)
