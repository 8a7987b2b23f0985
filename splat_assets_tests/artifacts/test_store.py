"""The store: whole or not at all, two versions kept, remains swept; local and remote."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from splat_assets.artifacts.manifest import build_manifest
from splat_assets.artifacts.store import ArtifactStore
from splat_assets.errors import UserError
from splat_assets.housekeeping import used_bytes
from splat_assets.progress import silent


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ArtifactStore]:
    if request.param == "local":
        yield ArtifactStore(str(tmp_path / "data"), tmp_path / "data")
        return
    name = f"/{tmp_path.name}"
    yield ArtifactStore(f"memory:/{name}", tmp_path / "near")
    memory = fsspec.filesystem("memory")
    if memory.exists(name):
        memory.rm(name, recursive=True)


def publish(store: ArtifactStore, run_id: str, content: str = "x") -> Path:
    with (
        store.lock("garden", "frames", silent()),
        store.staging("garden", "frames", run_id) as out,
    ):
        (out / "images").mkdir()
        (out / "images" / "a.txt").write_text(content)
        manifest = replace(build_manifest(out, "frames"), run_id=run_id, dataset="garden")
        return store.publish(out, "garden", "frames", manifest)


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()} - {".lock", "current"}


def test_nothing_there(store: ArtifactStore) -> None:
    assert store.current("garden", "frames") is None
    assert store.open_local("garden", "frames") is None
    assert store.locate("garden", "frames") is None


def test_published_is_current_and_the_last_two_versions_stay(store: ArtifactStore) -> None:
    for run in ("run1", "run2", "run3"):
        publish(store, run, content=run)
        current = store.current("garden", "frames")
        assert current is not None and current.run_id == run
    assert store.versions("garden", "frames") == ["run3", "run2"]
    near = store.open_local("garden", "frames")
    assert near is not None and (near / "images" / "a.txt").read_text() == "run3"
    assert names(store.folder("garden", "frames")) == {"run3", "run2"}
    if store.is_remote:
        fs = fsspec.filesystem("memory")
        root = store.root.removeprefix("memory:/")
        found = {Path(p).name for p in fs.ls(f"{root}/garden/frames", detail=False)}
        assert found == {"run3", "run2", "current"}
        assert not fs.exists(f"{root}/garden/frames/run3/.uploading")


def test_the_same_run_may_publish_twice(store: ArtifactStore) -> None:
    publish(store, "run1", "a")
    publish(store, "run1", "b")
    near = store.open_local("garden", "frames")
    assert near is not None and (near / "images" / "a.txt").read_text() == "b"


def test_remote_is_brought_near_once(tmp_path: Path, store: ArtifactStore) -> None:
    if not store.is_remote:
        pytest.skip("local artifacts are near already")
    publish(store, "run1", "hello")
    elsewhere = ArtifactStore(store.root, tmp_path / "another-host")
    assert elsewhere.current("garden", "frames").run_id == "run1"
    assert not elsewhere.local.exists()
    near = elsewhere.open_local("garden", "frames")
    assert (near / "images" / "a.txt").read_text() == "hello"
    stamp = (near / "images" / "a.txt").stat().st_mtime_ns
    assert elsewhere.open_local("garden", "frames") == near
    assert (near / "images" / "a.txt").stat().st_mtime_ns == stamp


def test_failure_while_working_leaves_nothing(store: ArtifactStore) -> None:
    publish(store, "run1")
    with (
        pytest.raises(RuntimeError),
        store.lock("garden", "frames", silent()),
        store.staging("garden", "frames", "run2") as out,
    ):
        (out / "half.txt").write_text("half")
        raise RuntimeError("broken")
    assert store.versions("garden", "frames") == ["run1"]
    assert names(store.folder("garden", "frames")) == {"run1"}


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_disk_full_is_one_sentence(store: ArtifactStore, code: int) -> None:
    publish(store, "run1")
    with (
        pytest.raises(UserError, match="is full; free some space and run again"),
        store.lock("garden", "frames", silent()),
        store.staging("garden", "frames", "run2"),
    ):
        raise OSError(code, os.strerror(code))
    assert names(store.folder("garden", "frames")) == {"run1"}


def test_disk_full_while_publishing_keeps_the_previous(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(store, "run1", "before")
    if store.is_remote:
        pytest.skip("the pointer is not written locally")

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("splat_assets.artifacts.store.write_text_atomic", full)
    with pytest.raises(UserError, match="is full"):
        publish(store, "run2", "after")
    near = store.open_local("garden", "frames")
    assert near is not None and (near / "images" / "a.txt").read_text() == "before"
    assert names(store.folder("garden", "frames")) == {"run1"}


def test_remains_of_a_killed_run_are_swept_by_the_next(tmp_path: Path) -> None:
    """SIGKILL while writing: the lock is free at once, the staging goes with the next run."""
    root = tmp_path / "data"
    program = f"""
import time
from pathlib import Path
from splat_assets.artifacts.store import ArtifactStore
from splat_assets.progress import silent
store = ArtifactStore({str(root)!r}, Path({str(root)!r}))
with store.lock("garden", "frames", silent()), store.staging("garden", "frames", "dead") as out:
    (out / "half.txt").write_text("half")
    print("up", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    store = ArtifactStore(str(root), root)
    assert (store.folder("garden", "frames") / ".partial-dead" / "half.txt").exists()
    process.kill()
    process.wait()
    publish(store, "run1")
    assert names(store.folder("garden", "frames")) == {"run1"}


def test_a_live_run_is_waited_for_and_not_swept(tmp_path: Path) -> None:
    root = tmp_path / "data"
    program = f"""
import time
from pathlib import Path
from splat_assets.artifacts.store import ArtifactStore
from splat_assets.progress import silent
store = ArtifactStore({str(root)!r}, Path({str(root)!r}))
with store.lock("garden", "frames", silent()), store.staging("garden", "frames", "live") as out:
    print("up", flush=True)
    time.sleep(1)
    (out / "whole.txt").write_text("whole")
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    began = time.monotonic()
    publish(ArtifactStore(str(root), root), "run1")
    assert time.monotonic() - began > 0.5
    assert process.wait(5) == 0


def test_unfinished_upload_of_this_host_is_swept_and_of_another_kept(tmp_path: Path) -> None:
    store = ArtifactStore(f"memory://{tmp_path.name}", tmp_path / "near")
    fs = fsspec.filesystem("memory")
    base = f"/{tmp_path.name}/garden/frames"
    fs.pipe(f"{base}/mine/.uploading", b'{"host": "%s", "time": 0}' % os.uname().nodename.encode())
    mark = b'{"host": "another", "time": %d}' % time.time()
    fs.pipe(f"{base}/theirs/.uploading", mark)
    publish(store, "run1")
    assert not fs.exists(f"{base}/mine")
    assert fs.exists(f"{base}/theirs/.uploading")


def test_remove_deletes_everything_of_a_dataset(store: ArtifactStore) -> None:
    publish(store, "run1")
    assert used_bytes(store.local / "garden") > 0
    store.remove("garden")
    assert store.versions("garden", "frames") == []
    assert used_bytes(store.local / "garden") == 0
