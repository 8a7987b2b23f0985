"""The whole chain through the real program: photos in, a browsable compressed splat out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from splat_assets.demo import compare_centers
from splat_assets.poses.pose_model import PoseModel
from splat_assets.stages import ASSETS
from splat_assets_tests.data import Capture

pytestmark = pytest.mark.slow
TINY = (
    "train.steps=150",
    "train.max_gaussians=3000",
    "train.long_side=160",
    "train.sh_degree=1",
    "train.test_every=6",
    "poses.feature_long_side=320",
)
PROGRAM = (sys.executable, "-c", "from splat_assets.cli import main; main()")


class Terminal:
    """Runs command lines in a folder of its own, as a shell would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        hidden = ("DAGSTER_HOME", "SPLAT_ASSETS_DATA", "DAGSTER_IS_DEV_CLI")
        self.environment = {k: v for k, v in os.environ.items() if k not in hidden}
        self.environment |= {"XDG_DATA_HOME": str(folder / "user"), "SPLAT_ASSETS_DEVICE": "cpu"}

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PROGRAM, *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path, code: int = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        assert process.returncode == code, err
        assert "Traceback" not in err, err
        return out

    def json(self, *arguments: str | Path) -> Any:
        return json.loads(self.run(*arguments, "--json"))


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Terminal:
    return Terminal(tmp_path_factory.mktemp("terminal"))


@pytest.fixture(scope="module")
def finished(terminal: Terminal, small_capture: Capture) -> dict[str, Any]:
    """The chain's outcome, as `run --json` prints it."""
    wishes = [part for option in TINY for part in ("--set", option)]
    return terminal.json("run", small_capture.photos, "--name", "scene", *wishes)


def test_every_asset_is_made_and_its_figures_make_sense(
    finished: dict[str, Any], small_capture: Capture
) -> None:
    assert finished["succeeded"]
    figures = finished["assets"]
    assert tuple(figures) == ASSETS
    assert figures["frames"]["num_frames"] == 12
    assert figures["camera_poses"]["num_registered"] == 12
    assert figures["camera_poses"]["reprojection_error_px"] < 0.6
    assert figures["trained_splat"]["psnr_db"] > 11.5
    assert 100 < figures["trained_splat"]["num_gaussians"] <= 3000
    assert figures["compressed_splat"]["ratio"] > 4
    assert abs(figures["compressed_splat"]["psnr_loss_db"]) < 0.5
    poses = PoseModel.open(Path(figures["camera_poses"]["path"]))
    assert compare_centers(small_capture.truth, poses) < 0.005


def test_what_is_left_on_disk(finished: dict[str, Any], terminal: Terminal) -> None:
    folder = Path(finished["assets"]["compressed_splat"]["path"])
    assert folder.is_relative_to(terminal.folder / "data" / "scene")
    with zipfile.ZipFile(folder / "scene.sog") as bundle:
        assert "meta.json" in bundle.namelist()
    assert "<html" in (folder / "viewer.html").read_text()[:4000].lower()
    hidden = [p.name for p in (terminal.folder / "data" / "scene").rglob(".partial-*")]
    assert hidden == []


def test_status_is_what_scripts_expect(finished: dict[str, Any], terminal: Terminal) -> None:
    states = terminal.json("status", "scene")
    assert states["name"] == "scene"
    assert states["preset"] == "preview"
    for asset, shown in states["assets"].items():
        assert shown["state"] == "current", (asset, shown)
        assert shown["run_id"] == finished["run_id"]
        assert shown["seconds"] > 0
        assert Path(shown["path"]).is_dir()
    assets = states["assets"]
    names = {
        "frames": ("num_frames",),
        "camera_poses": ("num_registered", "reprojection_error_px"),
        "trained_splat": ("psnr_db", "ssim", "num_gaussians", "ply_bytes"),
        "compressed_splat": ("sog_bytes", "ratio", "psnr_loss_db"),
    }
    for asset, wanted in names.items():
        assert all(isinstance(assets[asset][name], int | float) for name in wanted), asset
    assert "12 of 12 registered" in terminal.run("status", "scene")


def test_a_second_run_keeps_everything(finished: dict[str, Any], terminal: Terminal) -> None:
    again = terminal.json("run", "scene")
    assert again["succeeded"]
    for asset, shown in again["assets"].items():
        assert shown["reused"], asset
        assert shown["path"] == finished["assets"][asset]["path"]


def test_results_can_be_taken_away(finished: dict[str, Any], terminal: Terminal) -> None:
    for form, magic in (("sog", b"PK"), ("ply", b"ply"), ("html", b"<!")):
        target = terminal.folder / f"out.{form}"
        terminal.run("export", "scene", "--format", form, "-o", target)
        assert target.read_bytes().startswith(magic)
    found = terminal.json("info", terminal.folder / "out.sog")
    assert found["num_gaussians"] == finished["assets"]["compressed_splat"]["num_gaussians"]
    terminal.run("export", "scene", "--format", "sog", "-o", terminal.folder / "out.sog", code=2)


def test_ctrl_c_stops_soon_and_the_earlier_result_stays(
    finished: dict[str, Any], terminal: Terminal
) -> None:
    process = terminal.start("run", "scene", "--set", "train.steps=100000")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("trained_splat") and "step" in line:
            break
    asked = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert time.monotonic() - asked < 30
    assert "splat-assets run scene" in rest
    states = terminal.json("status", "scene")["assets"]
    assert states["trained_splat"]["path"] == finished["assets"]["trained_splat"]["path"]
    assert states["camera_poses"]["state"] == "current"
    assert states["trained_splat"]["state"] in ("stale", "failed")
    terminal.run("run", "scene", "--set", "train.steps=150")
    assert terminal.json("status", "scene")["assets"]["trained_splat"]["state"] == "current"


def test_photos_without_overlap_fail_in_one_sentence(terminal: Terminal) -> None:
    """A mistake found midway: exit code 2, nothing half-written, the state says why."""
    import numpy as np
    from PIL import Image

    folder = terminal.folder / "noise"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 255, (30, 40, 3), np.uint8).repeat(8, 0).repeat(8, 1)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    process = terminal.start("run", folder, "--set", "poses.feature_long_side=320")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2, err
    assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1
    assert "Traceback" not in err
    shown = terminal.json("status", "noise")["assets"]["camera_poses"]
    assert shown["state"] == "failed"
    assert shown["reason"]
    left = (terminal.folder / "data" / "noise" / "camera_poses").iterdir()
    assert not [p.name for p in left if p.name.startswith(".partial-")]
