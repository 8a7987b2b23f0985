"""Which pairs are compared: by number and kind of the pictures; loops of a video are closed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from splat_assets.poses import matching
from splat_assets.poses.matching import (
    all_pairs,
    choose_pairs,
    largest_component,
    sequential_pairs,
    spatial_pairs,
    verified_pairs,
)
from splat_assets.poses.retrieval import image_similarity, loop_pairs, nearest_pairs

VIDEO, GPS = np.zeros(400, np.int64), np.random.default_rng(0).uniform(0, 90, (400, 3))


@pytest.mark.parametrize(
    ("wanted", "count", "video", "gps", "strategy"),
    [
        ("auto", 80, False, False, "exhaustive"),
        ("auto", 81, False, False, "retrieval"),
        ("auto", 81, False, True, "spatial"),
        ("auto", 80, False, True, "exhaustive"),
        ("auto", 24, True, False, "exhaustive"),
        ("auto", 25, True, False, "sequential"),
        ("auto", 200, True, True, "sequential"),
        ("exhaustive", 200, True, True, "exhaustive"),
        ("sequential", 12, False, False, "sequential"),
        ("spatial", 30, False, True, "spatial"),
        ("spatial", 30, False, False, "exhaustive"),
        ("spatial", 200, False, False, "retrieval"),
    ],
)
def test_the_strategy_follows_the_set(
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    count: int,
    video: bool,
    gps: bool,
    strategy: str,
) -> None:
    rng = np.random.default_rng(1)
    monkeypatch.setattr(matching, "image_similarity", lambda *_: rng.uniform(size=(count, count)))
    chosen = choose_pairs(
        wanted,
        Path("unused.db"),
        list(range(1, count + 1)),
        sequences=VIDEO[:count] if video else None,
        positions=GPS[:count] if gps else None,
        seed=0,
    )
    assert chosen.strategy == strategy
    assert chosen.pairs == sorted(set(chosen.pairs))
    assert all(0 <= i < j < count for i, j in chosen.pairs)
    assert {i for pair in chosen.pairs for i in pair} == set(range(count))
    if strategy == "exhaustive":
        assert len(chosen.pairs) == count * (count - 1) // 2
    else:  # effort grows with the number of images, not with its square
        assert len(chosen.pairs) <= 25 * count


def test_sequential_pairs_stay_within_a_video() -> None:
    pairs = sequential_pairs(np.array([0] * 30 + [1] * 40))
    assert all((i < 30) == (j < 30) for i, j in pairs)
    gaps = {j - i for i, j in pairs}
    assert gaps == {1, 2, 3, 4, 5, 6, 7, 8, 16, 32}
    assert {(0, 1), (28, 29), (30, 31), (30, 62)} <= pairs


def test_spatial_pairs_join_the_nearest() -> None:
    along = np.array([[0.0, 0, 0], [1, 0, 0], [np.nan] * 3, [2.5, 0, 0], [9, 0, 0]])
    assert spatial_pairs(along, 1) == {(0, 1), (1, 3), (3, 4)}


def test_nearest_pairs_take_the_most_alike() -> None:
    similarity = np.array(
        [[1, 0.9, 0.1, 0], [0.9, 1, 0.2, 0.3], [0.1, 0.2, 1, 0.8], [0, 0.3, 0.8, 1]]
    )
    assert nearest_pairs(similarity, 1) == {(0, 1), (2, 3)}
    assert (1, 3) in nearest_pairs(similarity, 2)


def video_database(path: Path, places: np.ndarray, step: int = 10, seen: int = 220) -> list[int]:
    """A database of frames that each see `seen` features from `places[t] * step` on, with noise."""
    rng = np.random.default_rng(0)
    world = rng.integers(0, 90, (int(places.max()) * step + seen, 128))
    ids = []
    with pycolmap.Database.open(path) as database:
        camera = pycolmap.Camera(model="PINHOLE", width=64, height=48, params=[60, 60, 32, 24])
        camera_id = database.write_camera(camera)
        for t, place in enumerate(places):
            start = int(place) * step
            found = world[start : start + seen] + rng.integers(-6, 7, (seen, 128))
            image = pycolmap.Image(name=f"{t:03d}.jpg", camera_id=camera_id)
            number = database.write_image(image)
            descriptors = pycolmap.FeatureDescriptors()
            descriptors.type = pycolmap.FeatureExtractorType.SIFT
            descriptors.data = np.clip(found, 0, 255).astype(np.uint8)
            database.write_descriptors(number, descriptors)
            ids.append(number)
    return ids


def test_the_return_to_the_start_is_found(tmp_path: Path) -> None:
    """A slow walk of 80 frames, of which the last ten see the first places again, from the side."""
    there_and_back = np.concatenate([np.arange(70), np.arange(10) + 5])
    ids = video_database(tmp_path / "video.db", there_and_back)
    chosen = choose_pairs(
        "auto",
        tmp_path / "video.db",
        ids,
        sequences=np.zeros(80, np.int64),
        positions=None,
        seed=0,
    )
    assert chosen.strategy == "sequential"
    closing = [(i, j) for i, j in chosen.pairs if i < 25 and j >= 70]
    # 24 of the sequential ones: only those at distance 64 reach over
    found = [(i, j) for i, j in closing if abs(there_and_back[i] - there_and_back[j]) <= 4]
    assert len(found) >= 12


def test_loops_are_looked_for_past_the_next_frames() -> None:
    """Alike by nearness in time, and a little by a second visit at frames 40 and 75."""
    time = np.arange(80.0)
    similarity = np.exp(-(((time[:, None] - time) / 20) ** 2))
    similarity[40, 75] = similarity[75, 40] = 0.2  # frame 60 looks nearly twice as much like 75
    pairs = loop_pairs(similarity, np.zeros(80, int), 4, gap=8, every=5)
    assert (40, 75) in pairs
    assert all(j - i > 8 for i, j in pairs)
    # two videos: the same places are found however near they are in the list
    two = np.array([0] * 40 + [1] * 40)
    pairs = loop_pairs(np.tile(np.eye(40), (2, 2)), two, 4, gap=8, every=1)
    assert {(i, i + 40) for i in range(40)} <= pairs


def test_featureless_images_are_like_none(tmp_path: Path) -> None:
    ids = video_database(tmp_path / "a.db", np.arange(4), step=220)
    with pycolmap.Database.open(tmp_path / "a.db") as database:
        blank = pycolmap.Image(name="blank.jpg", camera_id=1)
        ids.append(database.write_image(blank))
    similarity = image_similarity(tmp_path / "a.db", ids, seed=0)
    assert similarity.shape == (5, 5)
    assert np.isfinite(similarity).all()
    np.testing.assert_allclose(np.diag(similarity)[:4], 1, atol=1e-5)
    again = image_similarity(tmp_path / "a.db", ids, seed=0)
    np.testing.assert_array_equal(similarity, again)


def test_unmatched_images_are_not_connected(tmp_path: Path) -> None:
    ids = video_database(tmp_path / "a.db", np.arange(3))
    assert verified_pairs(tmp_path / "a.db", 15) == []
    assert largest_component(tmp_path / "a.db", ids, 15) == 0
    assert all_pairs(3) == [(0, 1), (0, 2), (1, 2)]
