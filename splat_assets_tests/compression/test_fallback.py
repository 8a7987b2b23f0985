"""Steps that fail, one after the other: the file is whole, and the report says what was done."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splat_assets.compression import (
    compress,
    judging,
    palette_images,
    rate_control,
    sog_images,
    sog_texels,
    sog_writer,
    streamed,
)
from splat_assets.compression.compress import compress_splat
from splat_assets.compression.fallback import Notes, first_that_works
from splat_assets.compression.plain import plain_palette
from splat_assets.compression.sog_reader import decode_members, read_sog
from splat_assets.compression.sog_writer import SogOptions, encode_sog
from splat_assets.compression.streamed import StreamOptions, write_streamed
from splat_assets.compression.streamed_reader import read_streamed
from splat_assets.compression.targets import encode_as_wished
from splat_assets.datasets.options import CompressOptions
from splat_assets.errors import Cancelled, UserError
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.progress import Progress, Report, silent
from splat_assets_tests.compression.splat_models import (
    CPU,
    trained_model,
    two_tone_ball,
    upright_views,
)

VIEWS = upright_views(count=4)
# the step that fails, what is said, and whether the finest storage is what follows
STEPS = {
    "sorter": (sog_writer, "sort_gaussians", None),
    "importance": (sog_writer, "importance", "Weighing the Gaussians failed"),
    "rotations": (sog_texels, "canonical_rotations", "Reducing the rotations failed"),
    "codebooks": (sog_texels, "fit_codebook", "Fitting the codebook of scales failed"),
    "palette": (sog_writer, "PaletteSearch", "The search for a palette"),
    "palette order": (palette_images.PaletteArtist, "draw", "Ordering the palette failed"),
    "webp": (sog_images, "webp_bytes", "Encoding a picture tightly failed"),
    "sensitivity": (rate_control, "weigh_errors", "Measuring what errors cost failed"),
    "pruning": (rate_control, "Pruning", "Pruning failed"),
    "finetuning": (rate_control, "finetune", "Fine-tuning failed"),
    "precision": (rate_control.RateControl, "_precision", "Choosing the precision failed"),
    "look": (judging.Judge, "draw", "Looking at the result failed"),
}


def _fail(*_: Any, **__: Any) -> Any:
    raise MemoryError


@pytest.fixture(scope="module")
def ball() -> Gaussians:
    return clean(two_tone_ball(900))[0]


def _paired(decoded: Gaussians, original: Gaussians) -> Gaussians:
    """Those of `original` in the order of the file, found by their places."""
    assert len(decoded) == len(original)
    distance = ((decoded.means[:, None] - original.means[None]) ** 2).sum(-1)
    owner = distance.argmin(axis=1)
    assert sorted(owner) == list(range(len(original)))
    return original.select(owner)


def _assert_alike(decoded: Gaussians, original: Gaussians) -> None:
    """What a decoder reads is what was put in, as finely as `archive` asks for."""
    expected = _paired(decoded, original)
    np.testing.assert_allclose(decoded.means, expected.means, atol=0.01)
    np.testing.assert_allclose(decoded.sh0, expected.sh0, atol=0.1)
    # entries of a palette are shared, so that single numbers may be far off
    assert np.sqrt(np.mean((decoded.shN - expected.shN) ** 2)) < 0.5 * expected.shN.std()
    np.testing.assert_allclose(
        np.sort(decoded.scales, axis=1), np.sort(expected.scales, axis=1), atol=0.1
    )
    shown = [1 / (1 + np.exp(-g.opacities.astype(np.float64))) for g in (decoded, expected)]
    np.testing.assert_allclose(*shown, atol=0.08)


def _inject(monkeypatch: pytest.MonkeyPatch, step: str) -> str:
    module, name, said = STEPS[step]
    if step == "sorter":
        monkeypatch.setattr("splat_assets.compression.sorting.hilbert_key", _fail)
        return "Sorting by hilbert failed (MemoryError): morton"
    failing: Callable[..., Any] = _fail
    if step == "webp":  # what it asks for beyond the plainest
        plain = sog_images.webp_bytes

        def failing(image: Any, quality: int = 0, method: int = 0) -> bytes:
            return _fail() if method else plain(image)

    monkeypatch.setattr(module, name, failing)
    return said or ""


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_fails_costs_neither_the_file_nor_the_truth(
    step: str, ball: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = _inject(monkeypatch, step)
    told: list[Report] = []
    options = CompressOptions(
        preset="archive", prune=step == "pruning", finetune=step == "finetuning"
    )
    wished = encode_as_wished(ball, options, VIEWS, Progress(told.append))
    (note,) = [note for note in wished.notes if note.startswith(said)]
    assert note.count("MemoryError") == 1 and note.endswith(".") and "\n" not in note
    assert [report.message for report in told if report.warning].count(note) == 1
    _assert_alike(decode_members(wished.encoded.files), ball)


def test_nothing_is_said_when_nothing_fails(ball: Gaussians) -> None:
    wished = encode_as_wished(ball, CompressOptions(), VIEWS, silent())
    assert wished.notes == () == wished.encoded.notes


@pytest.mark.parametrize("wish", [{"target_db": 55.0}, {"max_mb": 0.02}])
def test_targets_hold_their_ground_when_nothing_can_be_measured(
    wish: dict[str, float], ball: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("sensitivity", "look", "finetuning"):
        _inject(monkeypatch, step)
    wished = encode_as_wished(ball, CompressOptions(**wish), VIEWS, silent())
    assert wished.measured_db is None
    assert any("everything is stored finely" in note for note in wished.notes)
    _assert_alike(decode_members(wished.encoded.files), ball)


def test_view_dependent_colour_is_left_out_when_even_a_plain_palette_fails(
    ball: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PaletteSearch", "plain_palette"):
        monkeypatch.setattr(sog_writer, name, _fail)
    encoded = encode_sog(ball)
    assert encoded.notes[0].endswith("view-dependent colour was left out.")
    decoded = decode_members(encoded.files)
    assert decoded.sh_degree == 0 and encoded.palette_size == 0
    expected = _paired(decoded, ball)
    np.testing.assert_allclose(decoded.sh0, expected.sh0, atol=0.05)


def test_a_plain_palette_is_exact_as_far_as_its_steps_and_small_where_asked() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(0, 0.1, (3000, 9)).astype(np.float32)
    worth = rng.uniform(0.5, 2, 3000)

    def size_of(codes: np.ndarray, labels: np.ndarray, tier: np.ndarray) -> int:
        return codes.nbytes + labels.nbytes

    whole = plain_palette(points, worth, size_of=size_of)
    step = np.ptp(points) / 255
    stored = whole.book.decode(whole.codes)[whole.labels]
    assert np.abs(stored - points).max() <= 0.51 * step
    assert whole.error == pytest.approx(worth @ ((stored - points) ** 2).sum(1), rel=1e-5)
    few = plain_palette(points, worth, size_of=size_of, size=100)
    assert few.codes.shape == (100, 9) and few.labels.max() < 100
    entries = few.book.decode(few.codes)
    distance = ((entries[None] - points[:, None]) ** 2).sum(-1)
    chosen = distance[np.arange(3000), few.labels]
    assert (chosen <= distance.min(axis=1) + 0.01).all()


def test_a_streamed_scene_survives_each_step(
    ball: Gaussians, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("weigh_errors", "decimate"):
        monkeypatch.setattr(streamed, name, _fail)
    _inject(monkeypatch, "palette")
    told: list[Report] = []
    target = tmp_path / "scene" / "lod-meta.json"
    written = write_streamed(
        target, ball, StreamOptions(chunk=400, levels=2), progress=Progress(told.append)
    )
    assert len(written.chunks) > 2 and len(written.notes) == 3
    messages = [report.message for report in told if report.warning]
    assert sorted(messages) == sorted(written.notes)  # each once, however many chunks
    assert written.counts[1] == pytest.approx(written.counts[0] / 4, rel=0.02)
    _assert_alike(read_streamed(target), ball)


def test_the_stage_tells_it_in_summary_report_and_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one file is what there is when the chunks cannot be made."""
    _inject(monkeypatch, "palette")
    monkeypatch.setattr(compress, "write_streamed", _fail)
    splat = trained_model(tmp_path / "splat")
    (tmp_path / "out").mkdir()
    options = CompressOptions(viewer=False, streamed="always", prune=False, finetune=False)
    done = compress_splat(splat, tmp_path / "out", options=options, compute=CPU, progress=silent())
    notes = done.summary["notes"]
    assert len(notes) == 2 and notes[0].startswith("The search for a palette")
    assert (
        notes[1] == "Cutting the scene into chunks failed (MemoryError): there is scene.sog only."
    )
    assert json.loads((done.path / "report.json").read_text())["notes"] == notes
    page = done.report_page.read_text(encoding="utf-8")
    assert all(note in page for note in notes)
    assert not (done.path / "streamed").exists() and len(read_sog(done.sog)) == 600


def test_a_stop_and_a_fault_of_the_input_are_no_failures() -> None:
    notes = Notes()
    for kind in (Cancelled, UserError):

        def stop(kind: type[Exception] = kind) -> int:
            raise kind("as it is")

        with pytest.raises(kind, match="as it is"):
            first_that_works("A step", (("", stop), ("never", lambda: 1)), notes)
    assert not list(notes)


def test_the_last_way_says_what_is_wrong() -> None:
    def fail(text: str) -> int:
        raise ValueError(text)

    notes = Notes()
    ways = (("", lambda: fail("one\ntwo")), ("again", lambda: fail("x" * 900)))
    with pytest.raises(ValueError, match=r"x{900}"):
        first_that_works("A step", ways, notes)
    assert not list(notes)
    assert first_that_works("A step", (*ways, ("three it is", lambda: 3)), notes) == 3
    (note,) = notes
    assert note.startswith("A step failed (ValueError: one two; ValueError: xxx")
    assert note.endswith("x…): three it is.") and len(note) < 300


def test_an_order_of_the_file_is_kept_when_sorters_fail(
    ball: Gaussians, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("hilbert_key", "morton_key"):
        monkeypatch.setattr(f"splat_assets.compression.sorting.{name}", _fail)
    encoded = encode_sog(ball, SogOptions(order="hilbert"))
    assert encoded.sorting.order == "none" and "none (built-in)" in encoded.notes[0]
    np.testing.assert_allclose(decode_members(encoded.files).means, ball.means, atol=1e-3)
