"""The drop box sensor: what arrives in a folder or bucket becomes a dataset, once."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from splat_assets.artifacts.bucket import Bucket
from splat_assets.datasets.spec import make_spec
from splat_assets.defs.drop_box import drop_boxes
from splat_assets.defs.drop_box_tick import drop_box_tick
from splat_assets.defs.hub_sensors import load_watches
from splat_assets.errors import SourceError
from splat_assets.watching.watch_list import DropBox, make_watch
from splat_assets_tests.s3_standin import BUCKET, s3_environment, s3_server, stumbling
from splat_assets_tests.sources.samples import MP4, Fetcher, names, photos, splat_ply, write
from splat_assets_tests.watching.ticking import World


class Boxes(World):
    """The world with a drop box `inbox`; a tick is 20 s after the one before, settling takes 30."""

    def tick_box(self, **how: object) -> list[str]:
        return self.tick("drop_boxes", _evaluate, **{"later": 20.0, **how})  # type: ignore[arg-type]

    def ticks(self, count: int) -> list[str]:
        return [name for _ in range(count) for name in self.tick_box()]


def _evaluate(context: dg.SensorEvaluationContext, world: World) -> dg.SensorResult:
    watches = load_watches(world.registry)
    return drop_box_tick(context, world.registry, watches, now=world.now)


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


@pytest.fixture
def world(tmp_path: Path, inbox: Path) -> Iterator[Boxes]:
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        world = Boxes(tmp_path / "data", instance)
        world.watch_file.add(make_watch(DropBox, path=str(inbox), preset="standard"))
        yield world


def pack_zip(path: Path, count: int = 3) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in photos(count).items():
            archive.writestr(name, data)
    return path


def test_without_a_drop_box_a_tick_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPLAT_ASSETS_DATA", str(tmp_path / "data"))
    assert isinstance(drop_boxes(dg.build_sensor_context()), dg.SkipReason)
    assert not (tmp_path / "data").exists()


def test_zip_video_folder_and_splat_become_datasets_once(world: Boxes, inbox: Path) -> None:
    pack_zip(inbox / "Old Garden.zip")
    (inbox / "walk.mp4").write_bytes(MP4)
    write(inbox / "Room", {**photos(3, "raw/"), "notes.txt": "x"})
    (inbox / "model.ply").write_bytes(splat_ply(4))
    assert world.tick_box() == [] and "4 arriving" in world.said
    assert world.tick_box() == []  # 20 s are not yet 30
    assert sorted(world.tick_box()) == ["model", "old-garden", "room", "walk"]
    assert world.ticks(5) == [] and "4 current" in world.said
    spec = world.registry.get("old-garden")
    assert (spec.source, spec.preset) == (str(inbox / "Old Garden.zip"), "standard")
    (run, *_) = world.instance.get_runs(dg.RunsFilter(tags={"dagster/partition": "walk"}))
    assert run.tags["splat/watch"] == "inbox"
    assert run.tags["splat/source"] == str(inbox / "walk.mp4")


def test_what_is_still_arriving_waits(world: Boxes, inbox: Path) -> None:
    whole = pack_zip(inbox.parent / "whole.zip").read_bytes()
    folder = write(inbox / "room", photos(1))
    for part in range(1, 5):
        (inbox / "slow.zip").write_bytes(whole[: len(whole) * part // 4])
        write(folder, photos(part))
        (inbox / "movie.mp4.crdownload").write_bytes(MP4[: 1000 * part])
        assert world.ticks(2) == []
    (folder / "p99.jpg.part").write_bytes(b"half")
    (inbox / "movie.mp4.crdownload").rename(inbox / "movie.mp4")
    assert sorted(world.ticks(4)) == ["movie", "slow"]
    (folder / "p99.jpg.part").unlink()
    assert world.ticks(4) == ["room"]


def test_a_zip_that_stays_cut_short_is_named_and_taken_when_whole(
    world: Boxes, inbox: Path
) -> None:
    whole = pack_zip(inbox.parent / "whole.zip").read_bytes()
    (inbox / "cut.zip").write_bytes(whole[:-30])
    assert world.ticks(3) == []
    assert "cut.zip is not a whole zip" in world.said
    assert world.ticks(2) == [] and "1 left out" in world.said
    (inbox / "cut.zip").write_bytes(whole)
    assert world.ticks(4) == ["cut"]


def test_a_replaced_file_runs_again_when_it_has_arrived(world: Boxes, inbox: Path) -> None:
    pack_zip(inbox / "a.zip", 3)
    pack_zip(inbox / "b.zip", 3)
    assert sorted(world.ticks(4)) == ["a", "b"]
    pack_zip(inbox / "a.zip", 5)
    assert world.ticks(6) == []  # the first run is not over
    world.finish()
    assert world.ticks(2) == ["a"]
    world.finish()
    assert world.ticks(4) == []
    assert len({key for _, key in world.runs()}) == 3
    shutil.move(inbox / "b.zip", inbox.parent / "b.zip")
    assert world.tick_box() == [] and "1 taken out" in world.said
    assert "b" in world.registry.names()
    shutil.move(inbox.parent / "b.zip", inbox / "b.zip")
    assert world.ticks(4) == []  # it is the same as before


def test_names_that_are_taken_get_a_number(world: Boxes, inbox: Path) -> None:
    world.registry.add(make_spec(name="walk", source="hf://datasets/me/walk"))
    (inbox / "walk.mp4").write_bytes(MP4)
    pack_zip(inbox / "Walk.zip")
    assert sorted(world.ticks(3)) == ["walk-2", "walk-3"]
    assert world.registry.get("walk").source == "hf://datasets/me/walk"


def test_what_is_no_dataset_is_left_out_and_named(world: Boxes, inbox: Path) -> None:
    write(inbox, {"one.jpg": photos(1)["p00.jpg"], "list.docx": "x", "empty.zip": b""})
    write(inbox / "texts", {"a.docx": "x"})
    write(inbox / "hollow", {})
    (inbox / "hollow").mkdir(exist_ok=True)
    write(inbox, {".hidden.zip": b"x", "Thumbs.db": b"x", "half.zip.part": b"x", "~lock.zip": b"x"})
    assert world.ticks(4) == []
    assert "5 left out" in world.said
    reasons = {Path(k).name: e.reason for k, e in world.entries("inbox").items()}
    assert "single photo" in reasons["one.jpg"]
    assert "no photos, video or model" in reasons["texts"]
    assert "0 bytes" in reasons["empty.zip"]
    assert set(reasons) == {"one.jpg", "list.docx", "empty.zip", "texts", "hollow"}


def test_a_missing_box_is_named_and_others_go_on(world: Boxes, inbox: Path) -> None:
    world.watch_file.add(make_watch(DropBox, path=str(inbox.parent / "none")))
    pack_zip(inbox / "a.zip")
    assert world.ticks(3) == ["a"]
    assert world.tick_box() == []
    assert "none cannot be read (No such file or directory); make the folder" in world.said


def test_a_killed_daemon_loses_and_doubles_nothing(world: Boxes, inbox: Path) -> None:
    for number in range(30):
        pack_zip(inbox / f"s{number:02d}.zip", 1)
    world.ticks(2)
    for lost in (0, 3, 0, None, 2, None):
        world.tick_box(lost_after=lost)
    world.ticks(3)
    keys = [key for _, key in world.runs()]
    assert len(keys) == len(set(keys)) == 30


def test_a_lost_ledger_makes_no_new_runs(world: Boxes, inbox: Path) -> None:
    pack_zip(inbox / "a.zip")
    assert world.ticks(4) == ["a"]
    (world.root / "datasets" / ".watch.sqlite").unlink()
    assert world.ticks(6) == [] and "1 current" in world.said


def test_a_box_too_large_for_one_tick_is_looked_through_over_several(
    world: Boxes, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(10):
        pack_zip(inbox / f"s{number}.zip", 1)
    clock = iter(range(100_000))
    monkeypatch.setattr("splat_assets.watching.drop_box.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("splat_assets.defs.drop_box_tick.SCAN_SEC", 5.5)
    asked = world.ticks(12)
    assert sorted(asked) == [f"s{number}" for number in range(10)]


def test_a_bucket(world: Boxes, tmp_path: Path, fetch: Fetcher) -> None:
    import fsspec

    url = f"memory://box-{tmp_path.name}"
    fs = fsspec.filesystem("memory")
    world.watch_file.add(make_watch(DropBox, path=url, name="bucket"))
    packed = pack_zip(tmp_path / "garden.zip").read_bytes()
    fs.pipe(f"{url}/garden.zip", packed)
    fs.pipe(f"{url}/cut.zip", packed[:-30])
    for name, data in photos(3).items():
        fs.pipe(f"{url}/room/images/{name}", data)
    assert sorted(world.ticks(4)) == ["garden", "room"]
    sources = {name: world.registry.get(name).source for name in ("garden", "room")}
    assert sources["garden"] == f"{url}/garden.zip"
    garden = fetch(sources["garden"])
    assert names(garden) == [f"garden/p0{n}.jpg" for n in range(3)]
    room = fetch(sources["room"])
    assert names(room) == [f"images/p0{n}.jpg" for n in range(3)]
    again = fetch(sources["room"], room)
    assert again.summary["unchanged"] and again.summary["downloaded_files"] == 0
    fs.pipe(f"{url}/room/images/p01.jpg", photos(9)["p08.jpg"])
    world.finish()
    assert world.ticks(4) == ["room"]
    third = fetch(sources["room"], room)
    assert third.summary["downloaded_files"] == 1 and third.data_version != room.data_version


def test_an_s3_bucket_that_fails_every_other_request(
    world: Boxes, tmp_path: Path, fetch: Fetcher
) -> None:
    pytest.importorskip("s3fs", reason='s3fs is not installed: pip install "splat-assets[s3]"')
    with (
        s3_server() as endpoint,
        stumbling(endpoint, lambda number, *_: "503" if number % 2 else None) as proxy,
        s3_environment(proxy.url),
    ):
        place = Bucket(f"s3://{BUCKET}/inbox")
        put = place.place("x").fs.pipe_file
        place.patiently(
            lambda: put(f"{BUCKET}/inbox/garden.zip", pack_zip(tmp_path / "g.zip").read_bytes())
        )
        for name, data in photos(12).items():
            place.patiently(lambda n=name, d=data: put(f"{BUCKET}/inbox/room/images/{n}", d))
        world.watch_file.add(make_watch(DropBox, path=f"s3://{BUCKET}/inbox", name="s3"))
        assert sorted(world.ticks(4)) == ["garden", "room"]
        room = fetch(world.registry.get("room").source)
        assert len(names(room)) == 12
        assert (room.files / "images/p07.jpg").read_bytes() == photos(12)["p07.jpg"]
        assert fetch(world.registry.get("room").source, room).summary["unchanged"]
        assert len(names(fetch(world.registry.get("garden").source))) == 3
        with pytest.raises(SourceError, match="There is nothing at"):
            fetch(f"s3://{BUCKET}/inbox/none")


@pytest.fixture
def fetch(tmp_path: Path) -> Fetcher:
    return Fetcher(tmp_path / "fetched")
