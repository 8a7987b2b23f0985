"""Artifacts and registry on object storage: a real S3 server, whole or as it stumbles."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from splat_assets.artifacts import bucket as bucket_module
from splat_assets.artifacts.bucket import Bucket
from splat_assets.artifacts.manifest import build_manifest
from splat_assets.artifacts.near_copies import let_go
from splat_assets.artifacts.store import ArtifactStore
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.errors import Cancelled, TransientError, UserError
from splat_assets.progress import Progress, Report, silent
from splat_assets.stages import status, statuses
from splat_assets_tests.paths import ROOT
from splat_assets_tests.s3_standin import (
    BUCKET,
    Proxy,
    every_second,
    request,
    s3_environment,
    s3_server,
    stumbling,
)

pytest.importorskip("s3fs", reason='s3fs is not installed: pip install "splat-assets[s3]"')

PART = 5 * 2**20  # the smallest that S3 takes


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def proxy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A proxy that forwards everything until a test gives it another rule; the bucket is empty."""
    request(endpoint, "POST", "/moto-api/reset")
    request(endpoint, "PUT", "/" + BUCKET)
    monkeypatch.setattr(bucket_module, "FIRST_PAUSE_SEC", 0.02)
    monkeypatch.setattr(bucket_module, "PART_BYTES", PART)
    let_go()
    with stumbling(endpoint, lambda *_: None) as found, s3_environment(found.url):
        yield found
    let_go()


def store_at(folder: Path, *, limit: int = 10**12) -> ArtifactStore:
    return ArtifactStore(f"s3://{BUCKET}/team", folder, limit)


def publish(
    store: ArtifactStore,
    run_id: str,
    *,
    asset: str = "frames",
    size: int = 1000,
    progress: Progress | None = None,
) -> None:
    with (
        store.lock("garden", asset, silent()),
        store.staging("garden", asset, run_id) as out,
    ):
        (out / "images").mkdir()
        for number in range(8):
            (out / "images" / f"{number}.txt").write_text(f"{run_id} {number}")
        (out / "big.bin").write_bytes(random.Random(run_id).randbytes(size))
        manifest = replace(build_manifest(out, asset), run_id=run_id, dataset="garden")
        store.publish(out, "garden", asset, manifest, progress)


def check_whole(near: Path | None, run_id: str, size: int = 1000) -> None:
    assert near is not None and near.name == run_id
    assert (near / "big.bin").read_bytes() == random.Random(run_id).randbytes(size)
    for number in range(8):
        assert (near / "images" / f"{number}.txt").read_text() == f"{run_id} {number}"


def random_half(number: int, method: str, path: str) -> str | None:
    kinds = ("500", "503", "closed", "cut", "lost")
    draw = random.Random(number).random()
    return kinds[int(draw * 10) % 5] if draw < 0.5 else None


@pytest.mark.parametrize("rule", [every_second, random_half])
def test_a_bucket_that_fails_every_second_request_loses_nothing(
    proxy: Proxy, tmp_path: Path, rule: object
) -> None:
    proxy.rule = rule
    store = store_at(tmp_path / "a")
    size = 2 * PART + 12345  # in three parts, the answers of which are lost as well
    for run in ("run1", "run2", "run3"):
        publish(store, run, size=size if run == "run3" else 1000)
    elsewhere = store_at(tmp_path / "b")
    assert elsewhere.versions("garden", "frames") == ["run3", "run2"]
    check_whole(elsewhere.open_local("garden", "frames"), "run3", size)
    failed = sum(failure is not None for _, _, failure in proxy.seen)
    assert failed >= len(proxy.seen) * 0.4
    proxy.rule = lambda *_: None
    assert [name for name, _ in Bucket(store.root).names("garden", "frames")] == [
        "current",
        "run2",
        "run3",
    ]
    assert Bucket(store.root).read_text("garden", "frames", "run3", ".uploading") is None


def test_a_publish_that_fails_for_good_keeps_the_previous(proxy: Proxy, tmp_path: Path) -> None:
    store = store_at(tmp_path / "a")
    publish(store, "run1")
    proxy.rule = lambda number, method, path: "503" if "current" in path else None
    with pytest.raises(TransientError, match=r"s3://splats/team does not answer .*try again later"):
        publish(store, "run2")
    proxy.rule = lambda *_: None
    assert store.versions("garden", "frames") == ["run1"]
    check_whole(store_at(tmp_path / "b").open_local("garden", "frames"), "run1")
    publish(store, "run3")  # sweeps what run2 left in the bucket
    names = [name for name, _ in Bucket(store.root).names("garden", "frames")]
    assert names == ["current", "run1", "run3"]


def test_the_pointer_is_one_request_and_the_last_but_for_cleaning(
    proxy: Proxy, tmp_path: Path
) -> None:
    publish(store_at(tmp_path / "a"), "run1", size=3 * PART)
    puts = [path.partition("?")[0] for method, path, _ in proxy.seen if method == "PUT"]
    assert puts.count("/splats/team/garden/frames/current") == 1
    assert puts[-1].endswith("/current") and puts[-2].endswith("/run1/manifest.json")
    assert proxy.count("PUT", "partNumber=") == 3


def test_a_slow_storage_is_not_waited_for_without_end(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.3)
    monkeypatch.setattr(bucket_module, "PATIENCE_SEC", 1.0)
    proxy.rule = lambda *_: "slow"
    began = time.monotonic()
    with pytest.raises(TransientError):
        store_at(tmp_path).versions("garden", "frames")
    assert time.monotonic() - began < 15


def test_an_interrupted_download_goes_on_where_it_stopped(proxy: Proxy, tmp_path: Path) -> None:
    size = 3 * PART
    publish(store_at(tmp_path / "a"), "run1", size=size)
    elsewhere = store_at(tmp_path / "b")

    def break_off(report: Report) -> None:
        if proxy.count("GET", "big.bin"):
            raise KeyboardInterrupt

    proxy.rule = lambda *_: time.sleep(0.3)
    with pytest.raises(KeyboardInterrupt):
        elsewhere.open_local("garden", "frames", Progress(break_off))
    part = elsewhere.folder("garden", "frames") / ".arriving-run1" / "big.bin.part"
    arrived = part.stat().st_size
    assert PART <= arrived < size
    proxy.rule = lambda *_: None
    proxy.seen.clear()
    check_whole(elsewhere.open_local("garden", "frames"), "run1", size)
    assert proxy.count("GET", "big.bin") == (size - arrived) / PART
    assert proxy.count("GET", "0.txt") == 0


def test_a_download_left_damaged_is_made_good_and_a_changed_object_told(
    proxy: Proxy, tmp_path: Path
) -> None:
    publish(store_at(tmp_path / "a"), "run1")
    elsewhere = store_at(tmp_path / "b")
    arriving = elsewhere.folder("garden", "frames") / ".arriving-run1"
    arriving.mkdir(parents=True)
    (arriving / "big.bin.part").write_bytes(b"not what it should be")
    check_whole(elsewhere.open_local("garden", "frames"), "run1")

    Bucket(f"s3://{BUCKET}/team").write_text("run1 9", "garden", "frames", "run1", "images/1.txt")
    with pytest.raises(UserError, match=r"images/1\.txt is not what was uploaded"):
        store_at(tmp_path / "c").open_local("garden", "frames")


def test_a_version_replaced_while_it_is_fetched(proxy: Proxy, tmp_path: Path) -> None:
    store = store_at(tmp_path / "a")
    publish(store, "run1")

    def replace_it(number: int, method: str, path: str) -> None:
        if "run1/images" in path and method == "GET":
            proxy.rule = lambda *_: None
            publish(store, "run2")
            publish(store, "run3")

    proxy.rule = replace_it
    elsewhere = store_at(tmp_path / "b")
    check_whole(elsewhere.open_local("garden", "frames"), "run3")


def test_cancel_stops_an_upload_and_leaves_nothing_current(proxy: Proxy, tmp_path: Path) -> None:
    store = store_at(tmp_path / "a")
    stop = threading.Event()

    def watch(report: Report) -> None:
        if proxy.count("PUT", "partNumber="):
            stop.set()

    began = time.monotonic()
    with pytest.raises(Cancelled):
        publish(store, "run1", size=12 * PART, progress=Progress(watch, stop.is_set))
    assert time.monotonic() - began < 20
    assert store.versions("garden", "frames") == []
    publish(store, "run2")
    assert [name for name, _ in Bucket(store.root).names("garden", "frames")] == ["current", "run2"]


def test_copies_stay_below_the_limit_and_those_in_use_stay(proxy: Proxy, tmp_path: Path) -> None:
    store = store_at(tmp_path / "a")
    for asset in ("raw_dataset", "frames", "camera_poses"):
        publish(store, f"run-{asset}", asset=asset, size=1_000_000)
    near = store_at(tmp_path / "b", limit=2_100_000)
    first = near.open_local("garden", "raw_dataset")  # in use until the next lock
    second = near.open_local("garden", "frames")
    assert first and second
    other_process = f"""
from pathlib import Path
from splat_assets.artifacts.store import ArtifactStore
store = ArtifactStore({near.root!r}, Path({str(near.local)!r}), {near.limit})
print(store.open_local("garden", "camera_poses"))
"""
    answer = subprocess.run(
        [sys.executable, "-c", other_process], cwd=ROOT, capture_output=True, text=True, check=True
    )
    third = Path(answer.stdout.strip())
    assert first.exists() and second.exists() and third.exists()
    with near.lock("garden", "compressed_splat", silent()):  # other work: the two may go
        near.open_local("garden", "frames")
        locks = near.local / ".locks" / "copies" / "garden" / "raw_dataset"
        os.utime(locks / f"{first.name}.used", (1, 1))
        publish(near, "run-trained", asset="trained_splat", size=1_000_000)
    assert not first.exists()
    with pytest.raises(UserError, match=r"SPLAT_ASSETS_SCRATCH_GB allows 0\.0 GB; raise it"):
        store_at(tmp_path / "c", limit=500_000).open_local("garden", "frames")


def test_two_processes_fetch_a_version_once(proxy: Proxy, tmp_path: Path) -> None:
    publish(store_at(tmp_path / "a"), "run1", size=2 * PART)
    proxy.seen.clear()
    found: list[Path | None] = []

    def open_it() -> None:
        found.append(store_at(tmp_path / "b").open_local("garden", "frames"))

    threads = [threading.Thread(target=open_it) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 3
    for near in found:
        check_whole(near, "run1", 2 * PART)
    assert proxy.count("GET", "big.bin") == 2


def test_another_hosts_upload_is_not_swept(proxy: Proxy, tmp_path: Path) -> None:
    """Between its last file and its pointer, too."""
    bucket = Bucket(f"s3://{BUCKET}/team")
    mark = json.dumps({"host": "another", "pid": 1, "time": time.time()})
    bucket.write_text(mark, "garden", "frames", "theirs", ".uploading")
    bucket.write_text("whole", "garden", "frames", "theirs", "manifest.json")
    publish(store_at(tmp_path), "run1")
    assert bucket.read_text("garden", "frames", "theirs", "manifest.json") == "whole"


def test_what_only_a_person_can_mend_is_said_at_once(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = ArtifactStore("s3://no-such-bucket/team", tmp_path / "a")
    assert nowhere.versions("garden", "frames") == []
    with pytest.raises(UserError, match=r"Nothing can be written to .*; create the bucket"):
        publish(nowhere, "run1")
    with pytest.raises(UserError, match="cannot be read"):
        Bucket("gs://bucket/x").place("y")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(UserError, match=r"cannot be opened .*AWS_ACCESS_KEY_ID"):
        store_at(tmp_path).versions("garden", "frames")


def test_many_datasets_are_looked_at_side_by_side(proxy: Proxy, tmp_path: Path) -> None:
    """Two requests an asset that is there, one for one that is not; several datasets at a time."""
    registry, store = Registry(f"s3://{BUCKET}/team/datasets"), store_at(tmp_path / "near")
    specs = [make_spec(name=f"scene-{n:02d}", source=f"/photos/{n}") for n in range(12)]
    for spec in specs:
        registry.add(spec)
    specs.append(make_spec(name="garden", source="/photos/garden"))
    registry.add(specs[-1])
    for asset in ("raw_dataset", "frames"):
        publish(store_at(tmp_path / "elsewhere"), "run1", asset=asset)
    together, most, lock = 0, 0, threading.Lock()

    def far_away(number: int, method: str, path: str) -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        time.sleep(0.05)
        with lock:
            together -= 1

    before, proxy.rule = len(proxy.seen), far_away
    listed, problems = registry.list()
    assert problems == {} and {spec.name for spec in listed} == {spec.name for spec in specs}
    assert len(proxy.seen) - before <= len(specs) + 2 and most > 4
    before, most = len(proxy.seen), 0
    found = dict(zip([spec.name for spec in listed], statuses(listed, store), strict=True))
    assert len(proxy.seen) - before == 12 * 5 + 5 + 2 and most > 4
    assert found["garden"]["frames"].location == f"s3://{BUCKET}/team/garden/frames/run1"
    assert found["garden"]["frames"].manifest is not None
    assert {entry.state for entry in found["scene-03"].values()} == {"missing"}
    assert found["garden"] == status(specs[-1], store)


def test_a_registry_that_hosts_share(proxy: Proxy, tmp_path: Path) -> None:
    proxy.rule = every_second
    one, other = Registry(f"s3://{BUCKET}/team/datasets"), Registry(f"s3://{BUCKET}/team/datasets")
    assert one.names() == [] and one.list() == ([], {})
    garden = make_spec(name="garden", source="/photos/garden", preset="preview")
    assert one.add(garden) is True
    assert other.get("garden") == garden and other.names() == ["garden"]
    assert other.add(garden) is False
    with pytest.raises(UserError, match="already stands for /photos/garden"):
        other.add(make_spec(name="garden", source="/photos/forest", preset="preview"))
    changed = make_spec(name="garden", source="/photos/garden", preset="standard")
    with pytest.raises(UserError, match=r"edit s3://splats/team/datasets/garden\.yaml or pass"):
        other.add(changed)
    assert other.add(changed, replace=True) is True
    assert one.get("garden").preset == "standard"
    Bucket(f"s3://{BUCKET}/team/datasets").write_text("name: [", "broken.yaml")
    assert list(one.list()[1]) == ["broken"]
    one.remove("garden")
    assert other.names() == ["broken"]
    with pytest.raises(UserError, match="There is no dataset 'garden' in s3://"):
        other.get("garden")


def test_two_hosts_that_add_one_name_at_once_do_not_both_win(proxy: Proxy) -> None:
    bucket = Bucket(f"s3://{BUCKET}/team/datasets")
    barrier = threading.Barrier(2)

    def together(number: int, method: str, path: str) -> None:
        if method == "PUT":  # both have seen that there is none
            barrier.wait(10)

    proxy.rule = together
    won: list[bool] = []

    def create(text: str) -> None:
        won.append(bucket.create_text(text, "garden.yaml"))

    threads = [threading.Thread(target=create, args=(text,)) for text in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(won) == [False, True]
