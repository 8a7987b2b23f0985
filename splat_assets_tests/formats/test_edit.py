"""Edits and conversions: each does what it says, in a fixed order, and says what went."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from splat_assets.compression.quality import draw_views, psnr
from splat_assets.errors import Cancelled, UserError
from splat_assets.formats.convert import convert
from splat_assets.formats.decimate import decimate
from splat_assets.formats.edit import Edit, apply, euler_matrix
from splat_assets.formats.merge import merge
from splat_assets.formats.registry import read_splat, write_splat
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.transform import rotate
from splat_assets.progress import Progress, Report
from splat_assets_tests.compression.splat_models import CPU, two_tone_ball, upright_views
from splat_assets_tests.compression.splats import covariances, random_splat


def test_nothing_asked_nothing_changed() -> None:
    g = replace(random_splat(50, 2), antialiased=True)
    edited = apply(g, Edit())
    assert edited.dropped == {} and edited.gaussians.antialiased
    np.testing.assert_array_equal(edited.gaussians.means, g.means)


def test_crops_say_how_much_they_cut() -> None:
    g = random_splat(500)
    boxed = apply(g, Edit(box=(-0.5, -0.5, -0.5, 0.5, 0.5, 0.5)))
    assert np.abs(boxed.gaussians.means).max() <= 0.5
    assert boxed.dropped == {"outside the box": 500 - len(boxed.gaussians)}
    ball = apply(g, Edit(sphere=(0.1, 0, 0, 0.4)))
    distance = np.linalg.norm(ball.gaussians.means - (0.1, 0, 0), axis=1)
    assert distance.max() <= 0.4 and ball.dropped["outside the sphere"] > 0
    # the box is where the splat is after scaling and moving
    moved = apply(g, Edit(scale=2, translate=(10, 0, 0), box=(9, -1, -1, 11, 1, 1)))
    assert len(moved.gaussians) == len(boxed.gaussians)


def test_damage_strays_and_the_invisible_are_dropped_by_name() -> None:
    g = two_tone_ball(300)
    g.means[0] = np.inf
    g.quats[1] = 0
    g.opacities[2:5] = -9
    g.means[5] = 900
    g.scales[6] = 6
    edited = apply(g, Edit(drop_invisible=True, drop_stray=True))
    assert edited.dropped == {"not finite": 1, "zero rotation": 1, "invisible": 3, "stray": 2}
    assert len(edited.gaussians) == 293
    assert apply(g, Edit()).dropped == {"not finite": 1, "zero rotation": 1}


def test_turning_and_up() -> None:
    x, y, z = np.eye(3)
    np.testing.assert_allclose(euler_matrix((90, 0, 0)) @ y, z, atol=1e-12)
    np.testing.assert_allclose(euler_matrix((0, 90, 0)) @ z, x, atol=1e-12)
    np.testing.assert_allclose(euler_matrix((0, 0, 90)) @ x, y, atol=1e-12)
    np.testing.assert_allclose(euler_matrix((90, 0, 90)) @ y, z, atol=1e-12)  # x first
    ball = two_tone_ball(400)
    lying = rotate(ball, euler_matrix((-90, 0, 0)))  # its top now at another axis
    top = np.argmin(ball.means[:, 1])
    up = "xyz"[int(np.abs(lying.means[top]).argmax())]
    sign = "-" if lying.means[top].min() < -0.5 else ""
    stood = apply(lying, Edit(up=sign + up)).gaussians
    np.testing.assert_allclose(stood.means[:, 1], ball.means[:, 1], atol=1e-5)


def test_lower_degree_and_merge_of_degrees() -> None:
    g = random_splat(40, 3)
    less = apply(g, Edit(sh_degree=1)).gaussians
    np.testing.assert_array_equal(less.shN, g.shN[:, :3])
    both = merge([less, random_splat(10, 2), replace(random_splat(5), antialiased=True)])
    assert len(both) == 55 and both.sh_degree == 2 and not both.antialiased
    np.testing.assert_array_equal(both.shN[:40, :3], less.shN)
    assert not both.shN[:40, 3:].any() and not both.shN[50:].any()
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (Edit(scale=0), "cannot be scaled by 0"),
        (Edit(scale=float("nan")), "finite"),
        (Edit(up="north"), "choose one of x"),
        (Edit(box=(1, 0, 0, 0, 1, 1)), "lower corner first"),
        (Edit(sphere=(0, 0, 0, -1)), "holds nothing"),
        (Edit(sphere=(50, 0, 0, 0.1)), "Nothing is left"),
        (Edit(count=0), "cannot be reduced to 0"),
        (Edit(share=0.0), "cannot be reduced to 0"),
        (Edit(sh_degree=4), "no SH degree 4"),
    ],
)
def test_impossible_wishes_are_sentences(edit: Edit, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        apply(random_splat(20), edit)


def test_merging_two_keeps_their_mixture() -> None:
    """Mean and covariance are those of the two together, and so is what they cover."""
    g = random_splat(60, 1, seed=4).select(np.array([7, 8]))
    g = replace(
        g,
        means=np.array([[0, 0, 0], [0.02, 0, 0]], np.float32),
        scales=np.full((2, 3), -3, np.float32),
        opacities=np.zeros(2, np.float32),
    )
    one = decimate(g, 1)
    np.testing.assert_allclose(one.means[0], (0.01, 0, 0), atol=1e-7)
    expected = np.diag([np.exp(-6) + 0.01**2, np.exp(-6), np.exp(-6)])
    np.testing.assert_allclose(covariances(one.quats, one.scales)[0], expected, atol=1e-8)
    np.testing.assert_allclose(one.sh0[0], g.sh0.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(one.shN[0], g.shN.mean(axis=0), atol=1e-6)
    assert 1 / (1 + np.exp(-one.opacities[0])) == pytest.approx(0.98, abs=0.02)


def test_decimation_looks_better_than_dropping() -> None:
    ball = clean(two_tone_ball(3000))[0]
    views = upright_views(count=4)
    seen = list(draw_views(ball, views, background=(0, 0, 0), compute=CPU))

    def quality(g: object) -> float:
        pictures = draw_views(g, views, background=(0, 0, 0), compute=CPU)  # type: ignore[arg-type]
        return float(np.mean([psnr(a, b) for a, b in zip(pictures, seen, strict=True)]))

    merged = decimate(ball, 1500)
    assert len(merged) == 1500
    np.testing.assert_allclose(np.linalg.norm(merged.quats, axis=1), 1, atol=1e-5)
    dropped = ball.select(np.argsort(-ball.opacities)[:1500])
    assert quality(merged) > quality(dropped) + 4
    assert quality(merged) > 26
    again = decimate(ball, 1500)
    np.testing.assert_array_equal(merged.means, again.means)


def test_decimation_of_equal_and_few_gaussians() -> None:
    ball = two_tone_ball(64)
    same = ball.select(np.zeros(300, np.int64))  # all in one place
    assert len(decimate(same, 7)) == 7
    assert len(decimate(ball, 1)) == 1 and len(decimate(ball, 64)) == 64
    with pytest.raises(Cancelled):
        decimate(ball, 3, Progress(None, lambda: True))


def test_convert_reads_merges_edits_and_writes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.splat", tmp_path / "two.compressed.ply"
    write_splat(one, two_tone_ball(200))
    write_splat(two, two_tone_ball(100, seed=1))
    reports: list[Report] = []
    done = convert(
        [one, two], tmp_path / "all.spz", Edit(share=0.5), progress=Progress(reports.append)
    )
    assert (done.format, done.num_read, done.num_gaussians, done.sh_degree) == ("spz", 300, 150, 1)
    assert done.dropped == {"merged": 150} and done.notes == ()
    assert done.bytes == (tmp_path / "all.spz").stat().st_size
    assert len(read_splat(tmp_path / "all.spz")) == 150
    fractions = [r.fraction for r in reports]
    assert fractions == sorted(fractions)
    json.dumps(done.to_dict())
    lossy = convert([two], tmp_path / "two.splat")
    assert lossy.notes == ("splat holds no view-dependent colour; it was left out",)
    assert lossy.sh_degree == 0


def test_a_failed_conversion_leaves_the_target_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "a.splat", tmp_path / "b.sog"
    write_splat(source, two_tone_ball(50))
    target.write_text("precious")
    with pytest.raises(UserError, match="Nothing is left"):
        convert([source], target, Edit(sphere=(99, 0, 0, 1)))
    with pytest.raises(Cancelled):
        convert([source], target, progress=Progress(None, lambda: True))
    assert target.read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.splat", "b.sog"]
