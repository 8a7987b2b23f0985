"""Commands that need no pipeline: what they print, their exit codes, and users' mistakes."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splat_assets.cli.output import show_bytes, show_seconds
from splat_assets.cli.specs import parse_overrides
from splat_assets.errors import UserError
from splat_assets.stages import ASSETS
from splat_assets_tests.cli.conftest import Cli
from splat_assets_tests.lerobot import make_v21


@pytest.fixture
def photos(home: Path) -> Path:
    """A folder with five (meaningless) photos."""
    folder = home / "My Photos"
    folder.mkdir()
    for number in range(5):
        Image.new("RGB", (64, 48), (number * 20, 90, 90)).save(folder / f"{number}.jpg")
    return folder


def test_add_list_status_remove(cli: Cli, home: Path, photos: Path) -> None:
    added = cli("add", photos, "--set", "train.steps=60", "-s", "source.include=['*.jpg']")
    assert added.exit_code == 0
    assert "my-photos" in added.stdout
    text = (home / "data" / "datasets" / "my-photos.yaml").read_text()
    assert f"source: {photos}" in text
    assert "steps: 60" in text

    listed = json.loads(cli("list", "--json").stdout)
    assert [row["name"] for row in listed["datasets"]] == ["my-photos"]
    assert listed["problems"] == {}
    assert "my-photos" in cli("list").stdout

    states = json.loads(cli("status", "my-photos", "--json").stdout)
    assert set(states) >= {"name", "source", "preset", "revision", "assets"}
    assert tuple(states["assets"]) == ASSETS
    for shown in states["assets"].values():
        assert shown["state"] == "missing"
        assert {"run_id", "seconds", "path"} <= set(shown)

    assert cli("remove", "my-photos").exit_code == 0
    assert json.loads(cli("list", "--json").stdout)["datasets"] == []
    assert cli("remove", "my-photos").exit_code == 2


def test_adding_twice_is_harmless_and_changing_is_asked_for(cli: Cli, photos: Path) -> None:
    assert cli("add", photos).exit_code == 0
    again = cli("add", photos)
    assert again.exit_code == 0
    assert "Already registered" in again.stdout
    changed = cli("add", photos, "--set", "train.steps=5")
    assert changed.exit_code == 2
    assert "--replace" in changed.stderr
    assert cli("add", photos, "--set", "train.steps=5", "--replace").exit_code == 0


def test_remove_keeps_artifacts_unless_asked(cli: Cli, home: Path, photos: Path) -> None:
    kept = home / "data" / "my-photos" / "raw_dataset"
    cli("add", photos)
    kept.mkdir(parents=True)
    assert str(kept.parent) in cli("remove", "my-photos").stdout
    assert kept.is_dir()
    cli("add", photos)
    assert cli("remove", "my-photos", "--delete-artifacts").exit_code == 0
    assert not kept.exists()
    assert photos.is_dir()


def test_mistakes_are_one_sentence_and_exit_code_2(cli: Cli, home: Path, photos: Path) -> None:
    (home / "empty").mkdir()
    few = home / "few"
    few.mkdir()
    Image.new("RGB", (64, 48)).save(few / "a.jpg")
    (home / "notes.txt").write_text("nothing")
    (home / "exists.sog").write_text("x")
    (home / "fake.ply").write_text("not a ply")
    cli("add", photos)
    cases: list[tuple[tuple[str | Path, ...], str]] = [
        (("add", "empty"), "holds no photos"),
        (("add", few), "holds only 1 photo; at least 4"),
        (("add", "nowhere/at/all"), "no file or folder"),
        (("add", "notes.txt"), "notes.txt"),
        (("add", photos, "--name", "a/b"), "may hold lower-case letters"),
        (("add", photos, "--name", "../x"), "may hold lower-case letters"),
        (("add", photos, "--preset", "ultra"), "'preset'"),
        (("add", photos, "--set", "steps=5"), "stage.option=value"),
        (("add", photos, "--set", "train.steps=[1"), "not valid YAML"),
        (("add", photos, "--set", "train.speed=9"), "no option 'train.speed'"),
        (("add", "ftp://x/y.zip"), "ftp://"),
        (("run", "nothing-here"), "no dataset 'nothing-here'"),
        (("run", "my-photos", "--to", "moon"), "no asset 'moon'"),
        (("run", "my-photos", "--name", "other"), "--name is for new sources"),
        (("status", "nothing-here"), "no dataset 'nothing-here'"),
        (("status", "../../etc/passwd"), "may hold lower-case letters"),
        (("export", "my-photos", "--format", "obj", "-o", "x"), "no format 'obj'"),
        (("export", "my-photos", "--format", "sog", "-o", "x.sog"), "splat-assets run my-photos"),
        (("view", "my-photos"), "splat-assets run my-photos"),
        (("compress", "absent.ply", "-o", "x.sog"), "no file absent.ply"),
        (("compress", "fake.ply", "-o", "exists.sog"), "--force"),
        (("compress", "fake.ply", "-o", "no/folder/x.sog"), "does not exist"),
        (("compress", "fake.ply", "-o", "x.sog"), "fake.ply"),
        (("compress", "fake.ply", "-o", "x.ply"), "x.sog is one file, x/lod-meta.json a streamed"),
        (("compress", "fake.ply", "-o", "x/y/lod-meta.json"), "does not exist; make it first"),
        (("compress", "fake.ply", "-o", "x/lod-meta.json"), "fake.ply"),
        (
            ("compress", "fake.ply", "-o", "x/lod-meta.json", "--set", "max_mb=1"),
            "no compress.max_mb=1",
        ),
        (("compress", "fake.ply", "-o", "x.sog", "--set", "streamed=always"), "FOLDER/lod-meta"),
        (("info", "fake.ply"), "fake.ply"),
        (("info", "notes.txt"), "notes.txt"),
        (("info", "absent.ply"), "no file absent.ply"),
    ]
    for arguments, sentence in cases:
        result = cli(*arguments)
        assert result.exit_code == 2, (arguments, result.output)
        errors = [line for line in result.stderr.splitlines() if not line.startswith("compress:")]
        assert len(errors) == 1, (arguments, result.stderr)
        assert errors[0].startswith("Error: "), arguments
        assert sentence in errors[0], (arguments, errors)
    assert not (home / "x.sog").exists()


def test_unknown_options_are_mistakes(cli: Cli) -> None:
    for arguments in (["list", "--frob"], ["frobnicate"], ["add"]):
        assert cli(*arguments).exit_code == 2


def test_broken_registry_files_are_named(cli: Cli, home: Path, photos: Path) -> None:
    cli("add", photos)
    (home / "data" / "datasets" / "broken.yaml").write_text("source: [")
    for command in ("list", "status"):
        result = cli(command)
        assert result.exit_code == 0
        assert "my-photos" in result.stdout
        assert "broken.yaml" in result.stderr


def test_run_keeps_what_it_is_told_for_a_known_dataset(
    cli: Cli, home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` registers, then updates options; the chain itself is stood in for."""
    from splat_assets import launch

    ran = []

    def run_chain(name: str, **wishes: object) -> launch.RunOutcome:
        ran.append((name, wishes["to"], wishes["force"]))
        return launch.RunOutcome("run", True, {})

    monkeypatch.setattr(launch, "run_chain", run_chain)
    file = home / "data" / "datasets" / "my-photos.yaml"
    assert cli("run", photos, "--set", "train.steps=9").exit_code == 0
    assert "steps: 9" in file.read_text()
    assert cli("run", "my-photos", "--to", "frames", "--force").exit_code == 0
    assert "steps: 9" in file.read_text()
    assert cli("run", photos, "--set", "train.sh_degree=1").exit_code == 0
    assert "steps: 9" in file.read_text()
    assert "sh_degree: 1" in file.read_text()
    assert ran == [
        ("my-photos", None, False),
        ("my-photos", "frames", True),
        ("my-photos", None, False),
    ]
    other = home / "other" / "My Photos"
    other.parent.mkdir()
    photos.rename(other)
    collision = cli("run", other)
    assert collision.exit_code == 2
    assert "choose another with --name" in collision.stderr
    assert len(ran) == 3


def test_failures_exit_1_and_gates_are_told(
    cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splat_assets import launch

    checks = [launch.FailedCheck("trained_splat", "psnr", "PSNR is low; add photos.", False)]
    outcome = launch.RunOutcome("run", False, {}, checks, "It broke.")
    monkeypatch.setattr(launch, "run_chain", lambda name, **_: outcome)
    result = cli("run", photos)
    assert result.exit_code == 1
    assert "PSNR is low" in result.stderr
    assert "Error: It broke." in result.stderr


def test_ctrl_c_exits_130(cli: Cli, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from splat_assets import launch
    from splat_assets.errors import Cancelled

    def run_chain(name: str, **_: object) -> None:
        raise Cancelled("Stopped. What was finished is kept.")

    monkeypatch.setattr(launch, "run_chain", run_chain)
    result = cli("run", photos)
    assert result.exit_code == 130
    assert "What was finished is kept" in result.stderr


def test_compress_and_info(cli: Cli, home: Path) -> None:
    from splat_assets.gaussians.gaussians import Gaussians
    from splat_assets.gaussians.ply import write_ply

    rng = np.random.default_rng(0)
    count = 2000
    scene = Gaussians(
        means=rng.normal(size=(count, 3)).astype(np.float32),
        quats=rng.normal(size=(count, 4)).astype(np.float32),
        scales=np.full((count, 3), -3, np.float32),
        opacities=np.full(count, 2, np.float32),
        sh0=rng.normal(size=(count, 1, 3)).astype(np.float32),
        shN=np.zeros((count, 0, 3), np.float32),
    )
    write_ply(home / "scene.ply", scene)
    options = ("--set", "order=morton", "--set", "prune=false", "--json")
    made = cli("compress", "scene.ply", "-o", "scene.sog", *options)
    assert made.exit_code == 0
    report = json.loads(made.stdout)
    assert report["num_gaussians"] == count
    assert report["order"] == "morton"
    assert (home / "scene.sog").stat().st_size == report["sog_bytes"]
    found = json.loads(cli("info", "scene.sog", "--json").stdout)
    assert found["num_gaussians"] == count
    assert found["sh_degree"] == 0
    assert "num_gaussians" in cli("info", "scene.ply").stdout

    arguments = ("compress", "scene.ply", "-o", "scene/lod-meta.json", "--set", "preset=web")
    made = cli(*arguments, "--measure", "--json")
    assert made.exit_code == 0, made.output
    streamed = json.loads(made.stdout)
    assert streamed["num_gaussians"] == count == streamed["counts"][0] + streamed["environment"]
    written = [p.stat().st_size for p in (home / "scene").rglob("*") if p.is_file()]
    assert sum(written) == streamed["sog_bytes"] and streamed["ratio"] > 1
    assert streamed["psnr_vs_splat_db"] > 30 and streamed["notes"] == []
    found = json.loads(cli("info", "scene", "--json").stdout)
    assert (found["format"], found["num_gaussians"]) == ("streamed-sog", count)
    assert found["bytes"] == streamed["sog_bytes"]
    assert "pass --force" in cli(*arguments).stderr
    assert "holds other files" in cli("compress", "scene.ply", "-o", ".").stderr
    assert cli("compress", "scene.sog", "-o", "scene", "--force").exit_code == 0


def test_info_of_a_folder(cli: Cli, home: Path, photos: Path) -> None:
    robot = make_v21(home / "robot", (4,))
    lines = cli("info", robot).stdout.splitlines()
    assert "format        LeRobot v2.1" in lines
    wrist = next(line.split() for line in lines if line.startswith("wrist"))
    assert wrist == [
        "wrist",
        "video",
        "96×64",
        "photographs",
        "on",
        "the",
        "gripper",
        "by",
        "default",
    ]
    assert json.loads(cli("info", photos, "--json").stdout)["format"] == "photos"
    (home / "nothing").mkdir()
    assert "is empty" in cli("info", "nothing").stderr


def test_doctor_finds_this_machine_usable(cli: Cli) -> None:
    result = cli("doctor", "--json")
    findings = {entry["name"]: entry for entry in json.loads(result.stdout)}
    assert result.exit_code == 0, findings
    assert set(findings) >= {"torch", "cuda", "gsplat", "pycolmap", "video", "viewer", "plas"}
    for entry in findings.values():
        assert entry["state"] in ("ok", "warn", "missing")
        assert entry["detail"]
        assert entry["state"] == "ok" or entry["remedy"], entry
    assert "torch" in cli("doctor").stdout


def test_doctor_fails_when_something_essential_is_broken(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    result = cli("doctor")
    assert result.exit_code == 1
    assert re.search(r"missing +pycolmap", result.stdout)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from splat_assets.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'dagster', 'numba', 'pycolmap', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "doctor" in shown.stdout
    assert after.ru_utime - before.ru_utime < 0.5


def test_a_closed_pipe_is_no_traceback(home: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    code = "from splat_assets.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "list"],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(write_end)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], {}),
        (["train.steps=60"], {"train": {"steps": 60}}),
        (["source.include=['*.jpg', 'a=b']"], {"source": {"include": ["*.jpg", "a=b"]}}),
        (["frames.end_sec=null", "frames.fps=0.5"], {"frames": {"end_sec": None, "fps": 0.5}}),
        (["compress.viewer=false"], {"compress": {"viewer": False}}),
        (["train.steps=1", "train.steps=2"], {"train": {"steps": 2}}),
    ],
)
def test_set_options_are_yaml(texts: list[str], expected: dict) -> None:
    assert parse_overrides(texts) == expected


@pytest.mark.parametrize("text", ["", "=", "steps=5", "train=5", ".steps=5", "train.=5", "train.x"])
def test_set_options_of_another_form(text: str) -> None:
    with pytest.raises(UserError, match=r"stage\.option=value"):
        parse_overrides([text])


def test_numbers_for_people() -> None:
    assert [show_bytes(n) for n in (0, 999, 1000, 1_234_567, 5e9)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.23 MB",
        "5 GB",
    ]
    assert [show_seconds(s) for s in (0.04, 9.99, 59.4, 59.6, 75, 5400)] == [
        "0.0 s",
        "10 s",
        "59 s",
        "1 min 00 s",
        "1 min 15 s",
        "1 h 30 min",
    ]


def test_a_stopped_training_gives_its_splat(cli: Cli, photos: Path, home: Path) -> None:
    import torch

    from splat_assets.artifacts.store import ArtifactStore
    from splat_assets.settings import load_settings
    from splat_assets.training.checkpoint import save_checkpoint
    from splat_assets.training.optimizer import NAMES, SplatOptimizer

    cli("add", photos, "--name", "garden")
    wanted = ("export", "garden", "--unfinished", "-o", "so-far.ply", "--format")
    nothing = cli(*wanted, "ply")
    assert nothing.exit_code == 2
    assert "no training that was stopped" in nothing.stderr
    shapes = {"means": (3,), "scales": (3,), "quats": (4,), "sh0": (1, 3), "shN": (0, 3)}
    tensors = {name: torch.ones(50, *shapes.get(name, ())) for name in NAMES}
    optimizer = SplatOptimizer(tensors, dict.fromkeys(NAMES, 1e-3))
    state = {"step": 30, "steps": 100, "optimizer": optimizer.state_dict()}
    store = ArtifactStore.open(load_settings())
    save_checkpoint(store.resume_folder("garden", "trained_splat", "key"), "mark", state)
    assert "as ply" in cli(*wanted, "sog").stderr
    done = cli(*wanted, "ply")
    assert done.exit_code == 0
    assert "at step 30 of 100" in done.stdout
    assert json.loads(cli("info", "so-far.ply", "--json").stdout)["num_gaussians"] == 50
