"""Robot episodes: every frame is the one its row of the data parquet says, in every layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from splat_assets.datasets.options import SourceOptions
from splat_assets.errors import UserError
from splat_assets.frames.frame_set import FrameSet
from splat_assets.frames.video import sample_video
from splat_assets.progress import silent
from splat_assets.sources.fetch import fetch_raw_dataset
from splat_assets.sources.raw_dataset import RawDataset
from splat_assets_tests.frames.making import extract
from splat_assets_tests.lerobot import (
    FPS,
    TOP,
    WRIST,
    encode,
    make_v21,
    picture,
    read_episodes,
    spell,
    to_v30,
    write_episodes,
)
from splat_assets_tests.paths import shared_data

EVERYTHING = {"max_frames": 1000, "drop_blurred": False, "drop_duplicates": False}


@pytest.fixture(scope="module")
def v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_v21(tmp_path_factory.mktemp("v21"))


@pytest.fixture(scope="module")
def v30(v21: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_v30(v21, tmp_path_factory.mktemp("v30"))


def fetch(dataset: Path, out: Path, **options: object) -> RawDataset:
    out.mkdir(parents=True)
    return fetch_raw_dataset(
        str(dataset),
        out,
        options=SourceOptions(**options),  # type: ignore[arg-type]
        previous=None,
        progress=silent(),
    )


def frames_of(dataset: Path, work: Path, source: dict | None = None, **options: object) -> FrameSet:
    raw = fetch(dataset, work / "raw", **(source or {}))
    return extract(raw, work / "frames", **{**EVERYTHING, **options})[0]


def same_pictures(a: FrameSet, b: FrameSet) -> bool:
    names = list(a.kept()["name"])
    return names == list(b.kept()["name"]) and all(
        (a.images / name).read_bytes() == (b.images / name).read_bytes() for name in names
    )


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_every_frame_is_that_of_its_row(tmp_path: Path, codec: str) -> None:
    dataset = make_v21(tmp_path / "data", (20, 13), (TOP, WRIST), codec=codec)
    frames = frames_of(dataset, tmp_path, {"cameras": "*", "episodes": "0-1"})
    kept = frames.kept()
    assert len(kept) == 2 * (20 + 13) and frames.ordered
    for row in kept.to_dict("records"):
        camera = 0 if row["camera"].startswith(TOP) else 1
        with Image.open(frames.images / row["name"]) as image:
            assert spell(image) == (camera, row["episode"], row["index"])
        assert row["timestamp_sec"] == np.float32(row["index"] / FPS)
        assert f"_e{row['episode']:04d}_f{row['index']:06d}.jpg" in row["name"]
    assert kept["camera"].nunique() == 2


def test_shards_of_v3_give_the_same_frames(v21: Path, v30: Path, tmp_path: Path) -> None:
    wishes = {"cameras": "top,wrist", "episodes": "0-2"}
    old = frames_of(v21, tmp_path / "old", wishes)
    new = frames_of(v30, tmp_path / "new", wishes)
    assert len(new.kept()) == 100 and same_pictures(old, new)
    columns = ["name", "timestamp_sec", "index", "episode", "camera"]
    pd.testing.assert_frame_equal(old.kept()[columns], new.kept()[columns])
    assert sorted(set(new.kept()["source_file"])) == [
        f"videos/{key}/chunk-000/file-00{number}.mp4" for key in (TOP, WRIST) for number in (0, 1)
    ]


def test_pictures_inside_parquet_keep_their_bytes(tmp_path: Path) -> None:
    v21 = make_v21(tmp_path / "v21", (9, 7), kind="image")
    v30 = to_v30(v21, tmp_path / "v30")
    old = frames_of(v21, tmp_path / "a", {"cameras": "top", "episodes": 1})
    new = frames_of(v30, tmp_path / "b", {"cameras": "top", "episodes": 1})
    assert len(old.kept()) == 7 and same_pictures(old, new)
    cell = pd.read_parquet(v21 / "data/chunk-000/episode_000001.parquet")[TOP][3]
    row = old.kept().iloc[3]
    assert (old.images / row["name"]).read_bytes() == cell["bytes"]
    assert (row["index"], row["episode"]) == (3, 1)
    assert row["timestamp_sec"] == np.float32(0.3)
    some = frames_of(v30, tmp_path / "c", {"cameras": "top", "episodes": "0,1"}, max_frames=4)
    assert list(some.kept()["episode"]) == [0, 0, 1, 1]


def test_frames_per_episode_and_part_of_it(v30: Path, tmp_path: Path) -> None:
    raw = fetch(v30, tmp_path / "raw", cameras="wrist", episodes="1,2")
    few, _ = extract(raw, tmp_path / "few", frames_per_episode=4, **EVERYTHING)
    assert list(few.kept()["episode"]) == [1] * 4 + [2] * 4
    part, _ = extract(raw, tmp_path / "part", start_sec=0.5, end_sec=0.9, **EVERYTHING)
    assert list(part.kept()["index"]) == [5, 6, 7, 8, 9] * 2
    for row in few.kept().to_dict("records"):
        with Image.open(few.images / row["name"]) as image:
            assert spell(image) == (1, row["episode"], row["index"])
    with pytest.raises(UserError, match=r"Episode 1 .* lasts 1.2 s.*frames.start_sec"):
        extract(raw, tmp_path / "late", start_sec=5, **EVERYTHING)


def test_by_default_max_frames_are_spread(v21: Path, tmp_path: Path) -> None:
    frames = frames_of(v21, tmp_path, max_frames=5, min_frames=2)
    kept = frames.kept()
    assert len(kept) == 5 and set(kept["episode"]) == {0}
    assert kept["index"].max() - kept["index"].min() >= 12
    assert all(name.startswith("wrist_e0000_f") for name in kept["name"])
    assert len(frames.table()) == 10


def test_timestamps_that_do_not_begin_at_zero(tmp_path: Path) -> None:
    """What LeRobot shows for a row is the frame at its timestamp, whatever its number is."""
    times = np.arange(10) / FPS + 0.3
    dataset = make_v21(tmp_path / "data", (20,), (WRIST,))
    path = dataset / "data/chunk-000/episode_000000.parquet"
    table = pd.read_parquet(path).iloc[:10].assign(timestamp=times.astype(np.float32))
    table.to_parquet(path)
    (dataset / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 10}\n')
    frames = frames_of(dataset, tmp_path)
    shown = []
    for name in frames.kept()["name"]:
        with Image.open(frames.images / name) as image:
            shown.append(spell(image)[2])
    assert shown == list(range(3, 13))


def broken_span(dataset: Path, start: float, end: float) -> None:
    table = read_episodes(dataset)
    table.loc[1, f"videos/{WRIST}/from_timestamp"] = start
    table.loc[1, f"videos/{WRIST}/to_timestamp"] = end
    write_episodes(dataset, table)


@pytest.mark.parametrize(
    ("start", "end", "complaint"),
    [
        (2.0, 2.9, r"puts episode 1 of camera wrist at 2.000 to 2.900 s .* last 1.300 s"),
        (9.0, 10.3, r"file-000.mp4, which is only 3.300 s long; the dataset's meta is wrong"),
        (3.0, 2.0, r"ends at 2 s, before it begins at 3 s"),
    ],
)
def test_a_wrong_span_is_one_sentence(
    v30: Path, tmp_path: Path, start: float, end: float, complaint: str
) -> None:
    dataset = tmp_path / "data"
    shutil.copytree(v30, dataset)
    broken_span(dataset, start, end)
    with pytest.raises(UserError, match=complaint):
        frames_of(dataset, tmp_path, {"cameras": "wrist", "episodes": 1})


def test_rows_and_video_that_do_not_fit_together(v21: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    shutil.copytree(v21, dataset)
    (dataset / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 21}\n')
    with pytest.raises(UserError, match=r"has 20 rows of episode 0 and meta/ says 21"):
        frames_of(dataset, tmp_path / "rows")

    shutil.copytree(v21, dataset, dirs_exist_ok=True)
    path = dataset / "data/chunk-000/episode_000000.parquet"
    table = pd.read_parquet(path)
    table["timestamp"] = table["timestamp"] * np.float32(2)
    table.to_parquet(path)
    with pytest.raises(UserError, match=r"belongs to no row of episode 0 of camera wrist"):
        frames_of(dataset, tmp_path / "times")

    table["timestamp"] = 0.0
    table.to_parquet(path)
    with pytest.raises(UserError, match="do not rise frame by frame"):
        frames_of(dataset, tmp_path / "flat")

    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="cannot be read as a LeRobot data file"):
        frames_of(dataset, tmp_path / "damaged")


def test_video_that_cannot_be_decoded(v21: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    shutil.copytree(v21, dataset)
    video = dataset / f"videos/chunk-000/{WRIST}/episode_000001.mp4"
    video.write_bytes(video.read_bytes()[:300])
    raw = fetch(dataset, tmp_path / "raw", cameras="wrist", episodes="0-1")
    frames, warnings = extract(raw, tmp_path / "frames", **EVERYTHING)
    assert set(frames.kept()["episode"]) == {0}
    assert any("episode_000001.mp4 is left out" in text for text in warnings)
    raw = fetch(dataset, tmp_path / "raw2", cameras="wrist", episodes=1)
    with pytest.raises(UserError, match=r"no usable picture .*\(episode 1 of camera wrist: not a"):
        extract(raw, tmp_path / "none", **EVERYTHING)
    assert not list((tmp_path / "none").iterdir())


def test_a_video_shorter_than_its_episode_is_said_so(v21: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "data"
    shutil.copytree(v21, dataset)
    encode(
        dataset / f"videos/chunk-000/{WRIST}/episode_000000.mp4",
        [picture(1, 0, i) for i in range(12)],
    )
    raw = fetch(dataset, tmp_path / "raw")
    frames, warnings = extract(raw, tmp_path / "frames", **EVERYTHING)
    assert list(frames.kept()["index"]) == list(range(12))
    assert any("gives only 12 of the 20 frames wanted" in text for text in warnings)


def test_a_real_dataset_of_two_episodes(tmp_path: Path) -> None:
    source = shared_data("lerobot_v21")
    key = "observation.images.cam_high"
    frames = frames_of(source, tmp_path / "old", {"episodes": "0-1"}, max_long_side=64)
    kept = frames.kept()
    assert len(kept) == 700
    for episode in (0, 1):
        rows = kept[kept["episode"] == episode]
        table = pd.read_parquet(source / f"data/chunk-000/episode_00000{episode}.parquet")
        assert np.array_equal(rows["index"], table["frame_index"])
        assert np.array_equal(rows["timestamp_sec"], table["timestamp"].astype(float))

    v30 = to_v30(source, tmp_path / "v30")
    assert (v30 / f"videos/{key}/chunk-000/file-000.mp4").is_file()
    some = {"frames_per_episode": 25, "start_sec": 9.0}
    old = frames_of(source, tmp_path / "a", {"episodes": 1}, **some)
    new = frames_of(v30, tmp_path / "b", {"episodes": 1}, **some)
    assert len(new.kept()) == 25 and same_pictures(old, new)
    # and they are the pictures that a plain decoder of the first layout shows at those times
    video = source / f"videos/chunk-000/{key}/episode_000001.mp4"
    shown = {round(s.time_sec * 30): s for s in sample_video(video, fps=30, start_sec=9.0)}
    for row in new.kept().iloc[::8].to_dict("records"):
        expected = np.asarray(shown[row["index"]].image(1600), float)
        with Image.open(new.images / row["name"]) as image:
            assert np.abs(np.asarray(image, float) - expected).mean() < 1.5
