"""Repositories on the Hub: the real client against a stand-in that speaks its HTTP API."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi

from splat_assets.errors import Cancelled, SourceError, TransientError
from splat_assets_tests.hub_standin import HubStandIn
from splat_assets_tests.paths import shared_data
from splat_assets_tests.sources.samples import (
    MP4,
    Fetcher,
    colmap_model,
    jpeg,
    names,
    photos,
    splat_ply,
    transforms,
    write,
)
from splat_assets_tests.sources.test_archives import pack

CARD = "---\nlicense: cc-by-4.0\n---\nA garden.\n"
TOKEN = "hf_secret"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    with HubStandIn(page=10) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def shard(rows: list[tuple[bytes | None, str | None]], **columns: list[object]) -> bytes:
    """A parquet shard with an image column as the Hub writes it."""
    images = [{"bytes": data, "path": path} for data, path in rows]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array(images, kind), **columns})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=4, compression="none", use_dictionary=False)
    return buffer.getvalue()


def test_images_in_folders(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    files = {
        **photos(12, "a/"),
        **photos(12, "b/"),
        "README.md": CARD,
        "big.jpg": jpeg(1, (400, 400)),
        "b/metadata.jsonl": "{}",
        "model.safetensors": bytes(300_000),
        ".gitattributes": "*",
    }
    sha = hub.add("me/garden", write(tmp_path / "repo", files)).commits[-1].sha
    raw = fetch("me/garden")
    expected = sorted([f"{d}/p{i:02d}.jpg" for d in "ab" for i in range(12)])
    assert names(raw) == sorted([*expected, "big.jpg", "b/metadata.jsonl"])
    for name in expected:
        assert (raw.files / name).read_bytes() == (tmp_path / "repo" / name).read_bytes()
    assert raw.content == "photos"
    assert raw.summary["revision"] == sha
    assert raw.summary["license"] == "cc-by-4.0"
    assert (raw.path / "docs" / "README.md").is_file()
    assert not any("safetensors" in path for path in hub.paths if "resolve" in path)
    assert hub.requests["tree"] > 2  # pages of ten
    assert {p.name for p in raw.path.iterdir()} == {"files", "docs", "origin.json", "manifest.json"}
    assert not (raw.path.parent / ".downloads").exists()


def test_a_second_run_downloads_nothing(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    hub.add("me/garden", write(tmp_path / "repo", {**photos(9), "README.md": CARD}))
    first = fetch("me/garden")
    hub.reset_counts()
    second = fetch("me/garden", first)
    assert dict(hub.requests) == {"info": 1} and hub.sent_bytes == 0
    assert second.summary["unchanged"]
    assert second.data_version == first.data_version
    assert (second.files / "p00.jpg").samefile(first.files / "p00.jpg")
    assert second.summary["license"] == "cc-by-4.0"


def test_of_a_new_commit_only_new_blobs_are_downloaded(
    hub: HubStandIn, tmp_path: Path, fetch: Fetcher
) -> None:
    hub.add("me/garden", write(tmp_path / "one", {**photos(9), "README.md": CARD}))
    first = fetch("me/garden")

    write(tmp_path / "two", {**photos(9), "README.md": CARD + "more"})
    hub.commit("me/garden", tmp_path / "two")
    hub.reset_counts()
    second = fetch("me/garden", first)
    assert hub.requests["get"] == 1  # the README
    assert second.data_version == first.data_version
    assert second.summary["unchanged"]
    assert second.summary["revision"] != first.summary["revision"]

    write(tmp_path / "three", {**photos(9), "README.md": CARD + "more", "p03.jpg": jpeg(33)})
    hub.commit("me/garden", tmp_path / "three")
    hub.reset_counts()
    third = fetch("me/garden", second)
    assert hub.requests["get"] == 1 and third.summary["downloaded_files"] == 1
    assert (third.files / "p03.jpg").read_bytes() == jpeg(33)
    assert third.data_version != first.data_version

    write(tmp_path / "four", {"x.txt": b"unrelated", **photos(9), "README.md": CARD + "more"})
    write(tmp_path / "four", {"p03.jpg": jpeg(33)})
    hub.commit("me/garden", tmp_path / "four")
    hub.reset_counts()
    assert fetch("me/garden", third).summary["unchanged"]
    assert hub.requests["get"] == 0


def test_revisions(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    hub.add("me/garden", write(tmp_path / "one", photos(2)))
    hub.repos["me/garden"].refs["v1"] = hub.repos["me/garden"].commits[0].sha
    hub.commit("me/garden", write(tmp_path / "two", photos(3)))
    assert fetch("me/garden").summary["num_files"] == 3
    assert fetch("me/garden@v1").summary["num_files"] == 2
    assert fetch("me/garden", revision="v1").summary["num_files"] == 2
    with pytest.raises(SourceError, match="no revision 'v9'"):
        fetch("me/garden@v9")
    with pytest.raises(SourceError, match="give one of them"):
        fetch("me/garden@v1", revision="v2")


def test_a_folder_of_a_repository(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    hub.add("me/scenes", write(tmp_path / "r", {**photos(2, "x/a/"), **photos(2, "x/b/")}))
    assert names(fetch("hf://datasets/me/scenes/x/a")) == ["p00.jpg", "p01.jpg"]
    assert names(fetch("me/scenes", include=("x/b/",))) == ["x/b/p00.jpg", "x/b/p01.jpg"]
    with pytest.raises(SourceError, match="no folder 'x/c'"):
        fetch("hf://datasets/me/scenes/x/c")


@pytest.mark.parametrize(
    ("files", "content", "count"),
    [
        ({"videos/a.mp4": MP4, "meta/info.json": b"{}", "data/x.parquet": b""}, "video", 1),
        ({**photos(3, "images/"), **colmap_model(["p00.jpg", "p01.jpg"])}, "colmap", 5),
        ({**photos(3, "t/"), "transforms.json": transforms(["t/p00", "t/p02"])}, "nerfstudio", 3),
        ({"s.ply": splat_ply(9000)}, "ply", 1),
    ],
)
def test_other_contents(
    files: dict[str, bytes],
    content: str,
    count: int,
    hub: HubStandIn,
    tmp_path: Path,
    fetch: Fetcher,
) -> None:
    hub.add("me/x", write(tmp_path / "r", files))  # type: ignore[arg-type]
    raw = fetch("me/x")
    assert (raw.content, raw.summary["num_files"]) == (content, count)


def test_archives_in_a_repository(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    (tmp_path / "r").mkdir()
    pack(tmp_path / "r" / "train.tar", photos(3))
    hub.add("me/x", tmp_path / "r")
    raw = fetch("me/x")
    assert names(raw) == [f"train/p0{i}.jpg" for i in range(3)]
    hub.reset_counts()
    assert fetch("me/x", raw).summary["unchanged"] and hub.requests["get"] == 0


def test_parquet(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    rows = [(jpeg(i), f"some/dir/p{i % 2}.jpg") for i in range(6)]
    files = {
        "data/train-0.parquet": shard(rows, depth=[bytes(200_000)] * 6),
        "data/train-1.parquet": shard([(jpeg(9), None), (None, "elsewhere.jpg")]),
        "README.md": CARD,
    }
    hub.add("me/x", write(tmp_path / "r", files))  # type: ignore[arg-type]
    raw = fetch("me/x")
    assert names(raw) == [
        *(f"data/train-0/{i:06d}_p{i % 2}.jpg" for i in range(6)),
        "data/train-1/000000.jpg",
    ]
    assert [(raw.files / name).read_bytes() for name in names(raw)] == [
        *(jpeg(i) for i in range(6)),
        jpeg(9),
    ]
    hub.reset_counts()
    assert fetch("me/x", raw).summary["unchanged"] and hub.requests["get"] == 0


def test_of_parquet_only_wanted_rows_are_read(
    hub: HubStandIn, tmp_path: Path, fetch: Fetcher
) -> None:
    big = [(jpeg(i, (800, 800)), f"{i}.jpg") for i in range(40)]
    data = shard(big)
    assert len(data) > 14e6
    hub.add("me/x", write(tmp_path / "r", {"a.parquet": data, "b.parquet": shard(big[:1])}))
    raw = fetch("me/x", max_rows=4)
    assert len(names(raw)) == 4
    assert hub.sent_bytes < len(data) * 0.7
    assert any("max_rows" in warning for warning in fetch.warnings)
    assert not any("b.parquet" in path for path in hub.paths if "resolve" in path)


def test_bad_parquet(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    hub.add("me/cut", write(tmp_path / "a", {"a.parquet": shard([(jpeg(0), "")])[:-40]}))
    with pytest.raises(SourceError, match=r"a\.parquet is not a whole parquet file"):
        fetch("me/cut")
    text = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"]}), text)
    hub.add("me/text", write(tmp_path / "b", {"a.parquet": text.getvalue()}))
    with pytest.raises(SourceError, match="hold no pictures"):
        fetch("me/text")


def test_missing_private_gated_disabled(
    hub: HubStandIn, tmp_path: Path, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "r", photos(2))
    hub.add("me/private", folder, token=TOKEN)
    hub.add("me/gated", folder, token=TOKEN, gated=True)
    hub.add("me/disabled", folder, disabled=True)
    for repo, says in [
        ("me/missing", "not on the Hub; check the name, and that HF_TOKEN is set"),
        ("me/private", "not on the Hub; check the name, and that HF_TOKEN is set"),
        ("me/gated", "is gated: accept its conditions at .* and set HF_TOKEN"),
        ("me/disabled", "is disabled"),
    ]:
        with pytest.raises(SourceError, match=says) as caught:
            fetch(repo)
        assert "\n" not in str(caught.value)
        assert list(fetch.out.iterdir()) == []
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert fetch("me/private").summary["num_files"] == 2
    assert fetch("me/gated").summary["num_files"] == 2
    with pytest.raises(SourceError, match="your token may read it"):
        fetch("me/missing")


def test_a_renamed_repository(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    hub.add("me/old", write(tmp_path / "r", photos(2)))
    hub.rename("me/old", "you/new")
    assert fetch("me/old").summary["num_files"] == 2
    assert any("is called you/new now" in warning for warning in fetch.warnings)


def test_nothing_usable_and_limits(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    hub.add("me/text", write(tmp_path / "a", {"data.json": b"{}", "README.md": CARD}))
    hub.add("me/photos", write(tmp_path / "b", photos(5)))
    (tmp_path / "c").mkdir()
    hub.add("me/empty", tmp_path / "c")
    for repo, options, says in [
        ("me/text", {}, "nothing usable: no photos"),
        ("me/empty", {}, "is empty"),
        ("me/photos", {"max_files": 3}, "limit of 3"),
        ("me/photos", {"max_bytes": 1000}, "limit of 1.0 kB"),
    ]:
        hub.reset_counts()
        with pytest.raises(SourceError, match=says):
            fetch(repo, **options)  # type: ignore[arg-type]
        assert hub.sent_bytes == 0


def test_a_failing_hub_is_worth_another_try(
    hub: HubStandIn, tmp_path: Path, fetch: Fetcher
) -> None:
    hub.add("me/x", write(tmp_path / "r", photos(3)))
    for status in (500, 503, 429):
        hub.fail_next(status, 9, kind="info")
        with pytest.raises(TransientError, match=f"HTTP {status}"):
            fetch("me/x")
        hub._failures.clear()
    assert list(fetch.out.iterdir()) == []
    assert fetch("me/x").summary["num_files"] == 3


def test_no_hub(fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="cannot be reached now"):
        fetch("me/x")


def test_a_broken_connection_is_resumed_by_the_client(
    hub: HubStandIn, tmp_path: Path, fetch: Fetcher
) -> None:
    hub.add("me/x", write(tmp_path / "r", {"a.mp4": MP4}))
    hub.cut_next(400_000)
    raw = fetch("me/x")
    assert (raw.files / "a.mp4").read_bytes() == MP4


def test_an_interrupted_run_goes_on(hub: HubStandIn, tmp_path: Path, fetch: Fetcher) -> None:
    hub.add("me/x", write(tmp_path / "r", photos(40)))
    with pytest.raises(Cancelled):
        fetch("me/x", should_cancel=lambda: hub.requests["get"] >= 10)
    assert list(fetch.out.iterdir()) == []
    before = hub.requests["get"]
    assert before < 40
    raw = fetch("me/x")
    assert raw.summary["num_files"] == 40
    assert hub.requests["get"] < 40 + before  # what had arrived was not asked for again


def test_cancel_on_a_slow_line_takes_seconds(
    hub: HubStandIn, tmp_path: Path, fetch: Fetcher
) -> None:
    hub.add("me/x", write(tmp_path / "r", {f"{i}.mp4": MP4 for i in range(3)}))
    hub.pause_sec = 2.0
    began = time.monotonic()
    with pytest.raises(Cancelled):
        fetch("me/x", should_cancel=lambda: hub.requests["get"] >= 3)
    assert time.monotonic() - began < 6
    hub.pause_sec = 0.0
    assert fetch("me/x").summary["num_files"] == 3


def test_the_stand_in_lists_repositories(hub: HubStandIn, tmp_path: Path) -> None:
    folder = write(tmp_path / "r", photos(1))
    for index in range(25):
        hub.add(f"me/d{index:02d}", folder, tags=("LeRobot",) if index % 2 else ())
    hub.add("you/x", folder)
    hub.add("me/hidden", folder, token=TOKEN)
    api = HfApi(endpoint=hub.url)
    listed = list(api.list_datasets(author="me"))
    assert len(listed) == 25 and listed[0].sha == hub.repos[listed[0].id].commits[-1].sha
    assert len(list(api.list_datasets(author="me", limit=3))) == 3
    assert len(list(api.list_datasets(author="me", filter="LeRobot"))) == 12
    assert [d.id for d in api.list_datasets(search="YOU")] == ["you/x"]
    assert len(list(HfApi(endpoint=hub.url, token=TOKEN).list_datasets(author="me"))) == 26


def test_real_shapes(hub: HubStandIn, fetch: Fetcher) -> None:
    hub.add("me/folder", shared_data("hf_imagefolder"))
    hub.add("me/parquet", shared_data("hf_parquet"))
    folder, parquet = fetch("me/folder"), fetch("me/parquet")
    assert folder.content == parquet.content == "photos"
    assert folder.summary["license"] == parquet.summary["license"] == "mit"
    assert folder.data_version == fetch(shared_data("hf_imagefolder")).data_version
    assert parquet.data_version == fetch(shared_data("hf_parquet")).data_version
