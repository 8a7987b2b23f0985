"""The stage as a whole: it learns, resumes bit for bit, says what is wrong, passes splats on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from splat_assets.datasets.options import TrainOptions
from splat_assets.errors import Cancelled, UserError
from splat_assets.gaussians.ply import read_ply, write_ply
from splat_assets.gaussians.splat_model import CHECKPOINT, SplatModel
from splat_assets.poses.pose_model import PoseModel
from splat_assets.progress import Progress, Report, silent
from splat_assets.training.checkpoint import delete_checkpoint
from splat_assets.training.dataset import load_training_set
from splat_assets.training.evaluate import psnr
from splat_assets.training.train import train_splat
from splat_assets_tests.gaussians.test_ply import make_gaussians
from splat_assets_tests.training.scenes import CPU, make_scene

OPTIONS = TrainOptions(steps=120, max_gaussians=600, long_side=64, sh_degree=1)


@pytest.fixture(scope="module")
def poses(tmp_path_factory: pytest.TempPathFactory) -> PoseModel:
    return make_scene(tmp_path_factory.mktemp("scene") / "poses")


def train(
    poses: PoseModel,
    out: Path,
    options: TrainOptions = OPTIONS,
    *,
    threads: int = 1,
    resume_dir: Path | None = None,
    progress: Progress | None = None,
) -> SplatModel:
    out.mkdir(parents=True)
    return train_splat(
        poses,
        out,
        options=options,
        compute=replace(CPU, threads=threads),
        resume_dir=resume_dir,
        progress=progress or silent(),
    )


def cancel_at(step: int) -> Progress:
    """Asks to stop once `step` was reported."""
    seen: list[Report] = []
    return Progress(
        seen.append, lambda: any(report.figures.get("step", 0) >= step for report in seen)
    )


def test_it_learns_and_leaves_a_complete_artifact(poses: PoseModel, tmp_path: Path) -> None:
    reports: list[Report] = []
    splat = train(poses, tmp_path / "out", progress=Progress(reports.append))
    splat.validate()
    summary = splat.summary
    assert summary["psnr_db"] > 23
    assert summary["ssim"] > 0.6
    assert summary["num_gaussians"] == len(read_ply(splat.ply)) <= 600
    assert summary["num_test_views"] == 2
    assert summary["ply_bytes"] == splat.ply.stat().st_size
    for name in ("seconds", "cpu_seconds", "peak_memory_bytes"):
        assert summary[name] > 0
    np.testing.assert_allclose(summary["scene_center"], 0, atol=0.1)

    evaluation = splat.evaluation()
    assert [row["name"] for row in evaluation["views"]] == ["view_00.png", "view_08.png"]
    assert np.mean([row["psnr_db"] for row in evaluation["views"]]) == pytest.approx(
        summary["psnr_db"], abs=1e-3
    )
    views = splat.views()
    assert len(views) == 12
    held_out = [view for view in views if view.is_test]
    for view in held_out:
        with Image.open(splat.path / view.photo) as photo:
            assert photo.size == (view.width, view.height) == (64, 48)
    assert (splat.path / "renders" / "001.jpg").exists()
    curve = pd.read_parquet(splat.path / "training.parquet")
    assert list(curve.columns) == ["step", "loss", "psnr_db", "num_gaussians", "seconds"]
    assert curve["psnr_db"].iloc[-1] > curve["psnr_db"].iloc[0]

    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert len(reports) >= 12
    told = [report.figures.keys() for report in reports if report.figures]
    assert {"step", "loss", "num_gaussians", "psnr_db"} <= told[-1]


@pytest.mark.parametrize("strategy", ["mcmc", "gradient"])
def test_resumed_equals_uninterrupted_bit_for_bit(
    poses: PoseModel, tmp_path: Path, strategy: str
) -> None:
    options = OPTIONS.model_copy(update={"strategy": strategy})
    whole = train(poses, tmp_path / "whole", options)
    resume = tmp_path / "resume"
    for run, step in enumerate((30, 70)):
        with pytest.raises(Cancelled):
            train(
                poses, tmp_path / f"part{run}", options, resume_dir=resume, progress=cancel_at(step)
            )
        assert not (tmp_path / f"part{run}" / "manifest.json").exists()
    resumed = train(poses, tmp_path / "last", options, resume_dir=resume)
    assert resumed.summary["resumed_from_step"] >= 70
    assert resumed.ply.read_bytes() == whole.ply.read_bytes()
    assert resumed.data_version == whole.data_version
    columns = ["step", "loss", "psnr_db", "num_gaussians"]
    pd.testing.assert_frame_equal(
        pd.read_parquet(resumed.path / "training.parquet")[columns],
        pd.read_parquet(whole.path / "training.parquet")[columns],
        check_exact=True,
    )
    delete_checkpoint(resume)
    assert list(resume.iterdir()) == []


def test_same_bytes_on_two_threads_and_others_with_another_seed(
    poses: PoseModel, tmp_path: Path
) -> None:
    options = OPTIONS.model_copy(update={"steps": 40, "strategy": "mcmc"})
    one = train(poses, tmp_path / "one", options)
    two = train(poses, tmp_path / "two", options, threads=2)
    assert one.ply.read_bytes() == two.ply.read_bytes()
    other = train(poses, tmp_path / "other", options.model_copy(update={"seed": 1}))
    assert one.ply.read_bytes() != other.ply.read_bytes()


def test_saving_often_changes_nothing(poses: PoseModel, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"steps": 25})
    plain = train(poses, tmp_path / "plain", options)
    often = options.model_copy(update={"checkpoint_every_sec": 1e-9})
    saved = train(poses, tmp_path / "saved", often, resume_dir=tmp_path / "resume")
    assert plain.ply.read_bytes() == saved.ply.read_bytes()
    assert [p.name for p in (tmp_path / "resume").iterdir()] == [CHECKPOINT]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "other options"])
def test_an_unfit_checkpoint_is_said_and_not_used(
    poses: PoseModel, tmp_path: Path, damage: str
) -> None:
    options = OPTIONS.model_copy(update={"steps": 30})
    resume = tmp_path / "resume"
    with pytest.raises(Cancelled):
        train(poses, tmp_path / "a", options, resume_dir=resume, progress=cancel_at(20))
    path = resume / CHECKPOINT
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "garbage":
        path.write_bytes(b"x" * 100)
    else:
        options = options.model_copy(update={"max_gaussians": 500})
    reports: list[Report] = []
    splat = train(
        poses, tmp_path / "b", options, resume_dir=resume, progress=Progress(reports.append)
    )
    assert splat.summary["resumed_from_step"] == 0
    assert any("starts again" in report.message for report in reports if report.warning)


def test_transparent_pictures_without_points(tmp_path: Path) -> None:
    poses = make_scene(
        tmp_path / "p", alpha=True, points=False, test_images=("view_03.png", "view_07.png")
    )
    splat = train(poses, tmp_path / "out")
    assert splat.summary["psnr_db"] > 15
    evaluation = splat.evaluation()
    assert evaluation["background"] == [1.0, 1.0, 1.0]
    assert [row["name"] for row in evaluation["views"]] == ["view_03.png", "view_07.png"]
    with Image.open(splat.path / "views" / "000.png") as photo:
        assert photo.mode == "RGB"
        assert photo.getpixel((0, 0)) == (255, 255, 255)


def test_masked_pixels_do_not_count(tmp_path: Path) -> None:
    poses = make_scene(tmp_path / "p", mask_columns=16)
    splat = train(poses, tmp_path / "out")
    assert splat.summary["psnr_db"] > 22  # the spoilt quarter alone would hold it below 16
    view = next(view for view in splat.views() if view.is_test)
    with Image.open(splat.path / view.mask) as mask:
        assert np.asarray(mask)[:, :16].max() == 0


def test_without_held_out_views(poses: PoseModel, tmp_path: Path) -> None:
    options = OPTIONS.model_copy(update={"steps": 20, "test_every": 0})
    splat = train(poses, tmp_path / "out", options)
    assert splat.summary["num_test_views"] == 0
    assert "psnr_db" not in splat.summary
    assert splat.evaluation()["split"] == "train"
    assert not (splat.path / "views").exists()


def test_too_few_cameras(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        train(make_scene(tmp_path / "p", views=1), tmp_path / "out")


def test_non_finite_gaussians_are_dropped(
    poses: PoseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splat_assets.training import train as module

    original = module.initial_gaussians

    def spoil(*args: object, **kwargs: object) -> tuple[dict[str, torch.Tensor], str]:
        tensors, origin = original(*args, **kwargs)
        tensors["sh0"][3] = torch.nan
        tensors["means"][5] = torch.inf
        return tensors, origin

    monkeypatch.setattr(module, "initial_gaussians", spoil)
    splat = train(poses, tmp_path / "out", OPTIONS.model_copy(update={"steps": 30}))
    assert splat.summary["dropped_non_finite"] >= 1
    assert np.isfinite(read_ply(splat.ply).means).all()
    assert np.isfinite(splat.summary["psnr_db"])


def test_divergence_is_one_sentence(
    poses: PoseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from splat_assets.training import trainer

    def broken(*_: object, **__: object) -> torch.Tensor:
        return torch.tensor(torch.nan, requires_grad=True)

    monkeypatch.setattr(trainer, "l1_ssim", broken)
    with pytest.raises(UserError, match="diverged at step 20"):
        train(poses, tmp_path / "out")


def test_a_given_splat_is_passed_on(tmp_path: Path) -> None:
    folder = tmp_path / "poses"
    (folder / "given").mkdir(parents=True)
    given = make_gaussians(n=200, degree=2)
    means = given.means.copy()
    means[7] = np.nan
    write_ply(folder / "given" / "splat.ply", replace(given, means=means))
    from splat_assets.artifacts.manifest import build_manifest, write_manifest

    write_manifest(folder, build_manifest(folder, PoseModel.KIND, skipped="a splat was given"))
    reports: list[Report] = []
    splat = train(PoseModel.open(folder), tmp_path / "out", progress=Progress(reports.append))
    assert splat.skipped
    assert splat.summary["num_gaussians"] == len(read_ply(splat.ply)) == 199
    assert splat.summary["sh_degree"] == 2
    assert {"scene_up", "scene_center", "scene_radius", "ply_bytes"} <= splat.summary.keys()
    assert splat.views() == []
    assert any("Dropped 1 of 200" in report.message for report in reports)
    (folder / "given" / "splat.ply").write_bytes(b"ply\nnonsense")
    with pytest.raises(UserError):
        train(PoseModel.open(folder), tmp_path / "out2")


def test_psnr_counts_only_what_the_mask_keeps() -> None:
    a, b = torch.zeros(4, 4, 3), torch.zeros(4, 4, 3)
    b[:, :2] = 1.0
    b[:, 2:] = 0.1
    mask = torch.zeros(4, 4)
    mask[:, 2:] = 1
    assert psnr(a, b, mask) == pytest.approx(20.0, abs=1e-4)
    assert psnr(a, a) == 100.0


def test_cameras_file_is_plain_json(poses: PoseModel, tmp_path: Path) -> None:
    splat = train(poses, tmp_path / "out", OPTIONS.model_copy(update={"steps": 3}))
    entries = json.loads((splat.path / "cameras.json").read_text())["views"]
    data = load_training_set(poses, long_side=64, test_every=8)
    np.testing.assert_array_equal(entries[4]["viewmat"], data.views[4].viewmat)
