"""`watch.yaml`: what may stand in it, and what is said about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import make_spec
from splat_assets.errors import UserError
from splat_assets.watching.watch_list import (
    DropBox,
    HubWatch,
    WatchFile,
    make_watch,
    parse_watch_list,
)


def test_a_full_file(tmp_path: Path) -> None:
    watches = parse_watch_list(
        """
hub:
  - author: lerobot
    tags: [LeRobot]
    options: {frames: {max_frames: 80}}
  - repos: [me/a]
    name: mine
  - author: lerobot
    tags: [LeRobot, robotics]
    launch: false
drop_boxes:
  - path: /photos/inbox/
  - path: s3://bucket/inbox
limits: {max_queued_runs: 7}
""",
        "watch.yaml",
    )
    assert not watches.problems
    names = [entry.name for entry in watches]
    assert names == ["lerobot-lerobot", "mine", "lerobot-lerobot-robotics", "inbox", "inbox-2"]
    assert watches.hub[0].label == "author lerobot, tag LeRobot"
    assert watches.drop_boxes[1].path == "s3://bucket/inbox"
    assert watches.limits.max_queued_runs == 7
    again = parse_watch_list(watches.to_yaml(), "watch.yaml")
    assert (again.hub, again.drop_boxes, again.limits) == (
        watches.hub,
        watches.drop_boxes,
        watches.limits,
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hub: [{author: me, autor: x}]", "hub, entry 1: there is no option 'autor'"),
        ("hub: [{}]", "name an author, a search text, tags, or repos"),
        ("hub: [{repos: [me/a], author: me}]", "not both"),
        ("hub: [{repos: [me/a/b]}]", "org/name"),
        ("hub: [{author: me, max_gb: 0}]", "max_gb"),
        ("hub: [{author: me, runs_per_tick: 30}]", "runs_per_tick"),
        ("hub: [{author: me, options: {train: {stepz: 1}}}]", "train.stepz"),
        ("hub: [{author: me, preset: best}]", "preset"),
        ("hub: [{author: me, name: x}, {author: you, name: x}]", "entry 2: the name 'x' is used"),
        ("hub: {author: me}", "must be a list"),
        ("hub: [lerobot]", "entry 1 must be a mapping"),
        ("drop_boxes: [{path: inbox}]", "named from the root"),
        ("limits: {max_queued: 3}", "limits: there is no option 'max_queued'"),
        ("limits: 3", "limits: it must be a mapping"),
    ],
)
def test_a_faulty_entry_is_named(text: str, says: str) -> None:
    watches = parse_watch_list(text, "watch.yaml")
    assert len(watches.problems) == 1
    assert says in watches.problems[0] and "\n" not in watches.problems[0]
    assert watches.problems[0].startswith("watch.yaml: ")


@pytest.mark.parametrize("text", ["hub: [", "- a", "sources: []", "3"])
def test_a_file_that_is_none(text: str) -> None:
    with pytest.raises(UserError, match=r"^watch\.yaml"):
        parse_watch_list(text, "watch.yaml")


def test_add_and_remove(tmp_path: Path) -> None:
    file = WatchFile.of(Registry(tmp_path / "data" / "datasets"))
    assert list(file.load()) == []
    assert file.add(make_watch(HubWatch, author="me")).name == "me"
    assert file.add(make_watch(DropBox, path=str(tmp_path))).name
    assert (tmp_path / "data" / "watch.yaml").is_file()
    with pytest.raises(UserError, match="already"):
        file.add(make_watch(HubWatch, author="me", preset="high"))
    with pytest.raises(UserError, match="already"):
        file.add(make_watch(HubWatch, author="you", name="me"))
    assert file.remove("me").label == "author me"
    with pytest.raises(UserError, match="no entry 'me'"):
        file.remove("me")
    assert len(list(file.load())) == 1


def test_the_file_stands_in_the_data_root_of_a_bucket_too(tmp_path: Path) -> None:
    file = WatchFile.of(Registry(f"memory://{tmp_path.name}/team/datasets"))
    file.add(make_watch(HubWatch, author="me"))
    assert str(file) == f"memory://{tmp_path.name}/team/watch.yaml"
    assert [entry.name for entry in file.load()] == ["me"]


def test_no_dataset_may_be_called_like_the_file() -> None:
    with pytest.raises(UserError, match="taken by splat_assets itself"):
        make_spec(name="watch.yaml", source="/photos")
