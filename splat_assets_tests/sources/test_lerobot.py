"""LeRobot datasets as sources: what is taken, from where, and what is said when they are wrong."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest
from pydantic import ValidationError

from splat_assets.datasets.options import SourceOptions
from splat_assets.errors import SourceError
from splat_assets.sources.describe import describe_folder
from splat_assets.sources.lerobot.choice import motion_rank
from splat_assets_tests.hub_standin import HubStandIn
from splat_assets_tests.lerobot import (
    DEPTH,
    TOP,
    WRIST,
    change_info,
    make_v21,
    read_episodes,
    to_v30,
    write_episodes,
)
from splat_assets_tests.sources.samples import Fetcher, names


@pytest.fixture(scope="module")
def v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_v21(tmp_path_factory.mktemp("v21"), (6, 4, 5), (TOP, WRIST, DEPTH))


@pytest.fixture(scope="module")
def v30(v21: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return to_v30(v21, tmp_path_factory.mktemp("v30"))


@pytest.fixture
def copy(v21: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(v21, tmp_path / "copy"))


@pytest.fixture
def copy_v30(v30: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(v30, tmp_path / "copy30"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    with HubStandIn(page=10) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def asked_for(hub: HubStandIn) -> set[str]:
    """Files whose bodies were asked for."""
    return {
        unquote(path.split("/resolve/")[1].split("/", 1)[1]).split("?")[0]
        for path in hub.paths
        if path.startswith("GET") and "/resolve/" in path
    }


META_21 = {"meta/info.json", "meta/episodes.jsonl", "meta/tasks.jsonl"}
META_30 = {"meta/info.json", "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"}


def test_by_default_the_first_episode_of_the_carried_camera(v21: Path, fetch: Fetcher) -> None:
    raw = fetch(v21)
    assert raw.content == "lerobot"
    assert set(names(raw)) == META_21 | {
        "data/chunk-000/episode_000000.parquet",
        f"videos/chunk-000/{WRIST}/episode_000000.mp4",
    }
    facts = raw.summary["lerobot"]
    assert (facts["version"], facts["robot"], facts["fps"]) == ("v2.1", "so100", 10)
    assert (facts["num_episodes"], facts["episodes"], facts["cameras"]) == (3, [0], [WRIST])
    assert facts["tasks"] == ["pick"]
    assert raw.summary["taken"] == "LeRobot v2.1: wrist, 1 of 3 episodes"
    listed = {c["camera"]: (c["holds"], c["taken"], c["width"]) for c in facts["all_cameras"]}
    assert listed == {
        TOP: ("photographs", False, 96),
        WRIST: ("photographs", True, 96),
        DEPTH: ("depth", False, 96),
    }
    (note,) = fetch.warnings
    assert "only wrist is taken" in note and "depth (shows depth, not used)" in note
    assert "of 3 episodes only number 0" in note


def test_from_the_hub_only_the_needed_shards_come(
    hub: HubStandIn, v30: Path, fetch: Fetcher
) -> None:
    hub.add("robots/pick", v30)
    wishes = {"cameras": "top", "episodes": "2"}
    raw = fetch("robots/pick", **wishes)
    needed = META_30 | {
        "data/chunk-000/file-001.parquet",
        f"videos/{TOP}/chunk-000/file-001.mp4",
    }
    assert asked_for(hub) == needed == set(names(raw))
    assert hub.sent_bytes == sum((v30 / name).stat().st_size for name in needed)
    hashed = {e.path for e in raw.manifest.files if e.path.startswith("files/")}
    assert hashed == {f"files/{name}" for name in needed}

    hub.reset_counts()
    again = fetch("robots/pick", raw, **wishes)
    assert not asked_for(hub) and again.summary["unchanged"]
    assert again.summary["lerobot"] == raw.summary["lerobot"]

    hub.reset_counts()
    other = fetch("robots/pick", again, cameras="top", episodes="0")
    assert asked_for(hub) - META_30 == {
        "data/chunk-000/file-000.parquet",
        f"videos/{TOP}/chunk-000/file-000.mp4",
    }
    assert other.data_version != raw.data_version


def test_a_commit_that_touches_other_episodes_brings_nothing_new(
    hub: HubStandIn, copy: Path, fetch: Fetcher, tmp_path: Path
) -> None:
    hub.add("robots/pick", copy)
    first = fetch("robots/pick", cameras="wrist", episodes="0-1")
    assert f"videos/chunk-000/{WRIST}/episode_000001.mp4" in names(first)
    assert not any("episode_000002" in path or TOP in path for path in asked_for(hub))
    second = Path(shutil.copytree(copy, tmp_path / "second"))
    (second / f"videos/chunk-000/{WRIST}/episode_000002.mp4").write_bytes(b"new")
    (second / "README.md").write_text("new")
    hub.commit("robots/pick", second)
    hub.reset_counts()
    moved = fetch("robots/pick", first, cameras="wrist", episodes="0-1")
    assert asked_for(hub) <= META_21 | {"README.md"}
    assert moved.summary["unchanged"] and moved.data_version == first.data_version


def test_a_folder_of_the_repository(hub: HubStandIn, v21: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(v21, tmp_path / "repo/sets" / name)
    hub.add("robots/many", tmp_path / "repo")
    fetch = Fetcher(tmp_path)
    with pytest.raises(SourceError, match=r"holds 2 LeRobot datasets \(sets/one, sets/two\)"):
        fetch("robots/many")
    raw = fetch("hf://datasets/robots/many/sets/two")
    assert raw.content == "lerobot" and "meta/info.json" in names(raw)


def test_in_an_archive_below_a_folder(v21: Path, fetch: Fetcher, tmp_path: Path) -> None:
    path = tmp_path / "robot.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in v21.rglob("*"):
            if file.is_file():
                archive.write(file, Path("robot") / file.relative_to(v21))
    raw = fetch(path, cameras=[TOP])
    assert raw.content == "lerobot" and raw.summary["layout"]["root"] == "robot"
    assert f"robot/videos/chunk-000/{TOP}/episode_000000.mp4" in names(raw)
    assert len(names(raw)) == 5


def test_a_folder_named_otherwise_than_info_says(copy_v30: Path, fetch: Fetcher) -> None:
    (copy_v30 / "videos").rename(copy_v30 / "video")
    raw = fetch(copy_v30, episodes=1)
    assert f"video/{WRIST}/chunk-000/file-000.mp4" in names(raw)


def test_of_a_part_the_first_episode_that_is_there(copy: Path, fetch: Fetcher) -> None:
    (copy / f"videos/chunk-000/{WRIST}/episode_000000.mp4").unlink()
    (copy / "data/chunk-000/episode_000001.parquet").unlink()
    assert fetch(copy).summary["lerobot"]["episodes"] == [2]
    with pytest.raises(SourceError, match=r"no file videos/.*wrist/episode_000000.mp4, which"):
        fetch(copy, episodes="0,2")
    (copy / "data/chunk-000/episode_000002.parquet").unlink()
    (copy / "data/chunk-000/episode_000000.parquet").unlink()
    with pytest.raises(SourceError, match=r"has no file .*of episode 0; choose other episodes"):
        fetch(copy)


def test_version_2_0_and_globs(copy: Path, fetch: Fetcher) -> None:
    raw = fetch(change_info(copy, codebase_version="v2.0"), cameras="*", episodes="0-2")
    assert raw.summary["lerobot"]["cameras"] == [TOP, WRIST]  # depth is no photograph
    assert len(names(raw)) == 3 + 3 + 6
    assert not fetch.warnings


def without(name: str) -> Callable[[Path], None]:
    return lambda dataset: (dataset / name).unlink()


def info(**changes: object) -> Callable[[Path], None]:
    return lambda dataset: (change_info(dataset, **changes), None)[1]


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda dataset: (dataset / name).write_text(content) and None


@pytest.mark.parametrize(
    ("damage", "options", "complaint"),
    [
        (without("meta/info.json"), {}, r"\(meta/.*\) but has no meta/info.json; restore"),
        (without("meta/episodes.jsonl"), {}, r"has no meta/episodes.jsonl, which lists"),
        (info(codebase_version="v1.6"), {}, r"'v1.6', and v2.0, v2.1, v3.0 are read"),
        (info(codebase_version="v4.0"), {}, r"'v4.0', and v2.0, v2.1, v3.0 are read"),
        (info(fps=0), {}, r"says fps is 0; it must be a positive number"),
        (info(features=None), {}, r"has no `features`"),
        (info(features={"action": {"dtype": "float32"}}), {}, r"dataset without cameras"),
        (info(video_path="v/{camera}.mp4"), {}, r"the path template 'v/\{camera\}.mp4', which"),
        (info(video_path="{video_key:99999999d}"), {}, r"the path template"),
        (info(video_path="../{video_key}.mp4"), {}, r"has no file \.\./"),
        (text("meta/info.json", "{"), {}, r"meta/info.json is not valid JSON"),
        (text("meta/episodes.jsonl", "{"), {}, r"meta/episodes.jsonl is not JSON lines"),
        (text("meta/episodes.jsonl", '{"a": 1}'), {}, r"has no column episode_index"),
        (
            text("meta/episodes.jsonl", '{"episode_index": null, "length": 3}'),
            {},
            r"an `episode_index` in meta/episodes.jsonl is no number",
        ),
        (
            text("meta/episodes.jsonl", '{"episode_index": 0, "length": "x"}'),
            {},
            r"`length` of episode 0 in meta/ is 'x'",
        ),
        (info(), {"cameras": "chest"}, r"no camera 'chest'; source.cameras may name top, wrist,"),
        (info(), {"cameras": "depth"}, r"camera 'depth' shows depth, which are not used"),
        (info(), {"episodes": 7}, r"no episode 7; its 3 episodes are numbered 0 to 2"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    copy: Path, fetch: Fetcher, damage: Callable[[Path], None], options: dict, complaint: str
) -> None:
    damage(copy)
    with pytest.raises(SourceError, match=complaint) as caught:
        fetch(copy, **options)
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)
    assert not list(fetch.out.iterdir())


def test_v3_without_spans_or_list(copy_v30: Path, fetch: Fetcher) -> None:
    table = read_episodes(copy_v30)
    write_episodes(copy_v30, table.drop(columns=[f"videos/{WRIST}/from_timestamp"]))
    with pytest.raises(SourceError, match=r"from_timestamp` of episode 0 in meta/ is 'missing'"):
        fetch(copy_v30)
    table.loc[0, f"videos/{WRIST}/file_index"] = 5
    write_episodes(copy_v30, table)
    with pytest.raises(SourceError, match=r"no file videos/.*file-005.mp4, which holds the camera"):
        fetch(copy_v30, episodes=0)
    (copy_v30 / "meta/episodes/chunk-000/file-000.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match="is not a whole parquet file"):
        fetch(copy_v30)
    shutil.rmtree(copy_v30 / "meta/episodes")
    with pytest.raises(SourceError, match=r"has no meta/episodes/…parquet, which lists"):
        fetch(copy_v30)


def test_only_depth_is_no_camera(tmp_path: Path, fetch: Fetcher) -> None:
    dataset = make_v21(tmp_path / "data", (3,), (DEPTH,))
    with pytest.raises(SourceError, match=r"no camera of photographs: depth \(shows depth"):
        fetch(dataset)


def test_a_file_called_info_is_no_robot_dataset(tmp_path: Path, fetch: Fetcher) -> None:
    from splat_assets_tests.sources.samples import photos, write

    files = {**photos(9), "meta/info.json": json.dumps({"title": "garden"})}
    assert fetch(write(tmp_path / "photos", files)).content == "photos"


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("wrist", 0),
        ("cam_left_wrist", 0),
        ("eye_in_hand", 0),
        ("hand_camera", 0),
        ("head", 1),
        ("egocentric", 1),
        ("overhead", 3),
        ("over_head_cam", 3),
        ("cam_high", 3),
        ("up", 3),
        ("side", 3),
        ("exterior_image_1_left", 3),
        ("laptop", 3),
        ("image", 2),
        ("cam1", 2),
        ("support", 2),
    ],
)
def test_names_tell_what_moves(name: str, rank: int) -> None:
    assert motion_rank(name) == rank


def test_wishes_in_short() -> None:
    assert SourceOptions(episodes="0-2, 7").episodes == (0, 1, 2, 7)  # type: ignore[arg-type]
    assert SourceOptions(episodes=[3, "5-6", 3]).episodes == (3, 5, 6)  # type: ignore[arg-type]
    assert SourceOptions(cameras="wrist, top").cameras == ("wrist", "top")  # type: ignore[arg-type]
    dumped = SourceOptions(episodes="1-2").model_dump(mode="json")  # type: ignore[arg-type]
    assert SourceOptions(**dumped).episodes == (1, 2)
    for bad in ("x", "3-", "1--2", -1):
        with pytest.raises(ValidationError):
            SourceOptions(episodes=bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_cameras_to_choose_from_are_described(version: str, v21: Path, v30: Path) -> None:
    found = describe_folder({"v2.1": v21, "v3.0": v30}[version])
    assert found["format"] == f"LeRobot {version}" and found["num_episodes"] == 3
    shown = [(c["camera"], c["holds"], c["mount"], c["taken"]) for c in found["cameras"]]
    assert shown == [
        ("top", "photographs", "fixed", False),
        ("wrist", "photographs", "on the gripper", True),
        ("depth", "depth", "", False),
    ]
    assert {(c["kind"], c["width"], c["height"]) for c in found["cameras"]} == {("video", 96, 64)}


def test_cameras_are_described_where_their_videos_are_missing(copy: Path) -> None:
    shutil.rmtree(copy / "videos")
    found = describe_folder(copy)
    assert len(found["cameras"]) == 3 and not any(c["taken"] for c in found["cameras"])
    assert "has no file videos/" in found["problem"]
