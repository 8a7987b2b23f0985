"""`watch add|list|remove`: what the file holds afterwards, and users' mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from splat_assets.datasets.registry import Registry
from splat_assets.watching.ledger import Entry, open_ledger
from splat_assets_tests.cli.conftest import Cli


def test_add_list_remove(cli: Cli, home: Path) -> None:
    assert "Nothing is watched" in cli("watch", "list").stdout
    added = cli(
        *("watch", "add", "--author", "lerobot", "--tag", "LeRobot", "--exclude", "*_test"),
        *("--preset", "standard", "--set", "train.steps=9", "--max-gb", "2.5"),
        *("--runs-per-hour", "10", "--register-only"),
    )
    assert added.exit_code == 0, added.stderr
    assert "Watching author lerobot, tag LeRobot as 'lerobot-lerobot'" in added.stdout
    (home / "inbox").mkdir()
    assert cli("watch", "add", "--folder", "inbox", "--settle-sec", "5").exit_code == 0
    assert cli("watch", "add", "--repo", "me/a", "--repo", "me/b", "-n", "mine").exit_code == 0
    assert yaml.safe_load((home / "data" / "watch.yaml").read_text()) == {
        "hub": [
            {
                "name": "lerobot-lerobot",
                "author": "lerobot",
                "tags": ["LeRobot"],
                "exclude": ["*_test"],
                "preset": "standard",
                "options": {"train": {"steps": 9}},
                "max_gb": 2.5,
                "runs_per_hour": 10,
                "launch": False,
            },
            {"name": "mine", "repos": ["me/a", "me/b"]},
        ],
        "drop_boxes": [{"name": "inbox", "path": str(home / "inbox"), "settle_sec": 5.0}],
    }

    with open_ledger(Registry(home / "data" / "datasets")) as ledger:
        ledger.put(
            [
                Entry("1", "hub", "me/a", "mine", "current"),
                Entry("2", "hub", "me/b", "mine", "refused", reason="me/b is gated: ask."),
            ]
        )
    shown = cli("watch", "list").stdout
    assert "1 current, 1 refused" in shown and "mine: me/b is gated: ask." in shown
    listed = json.loads(cli("watch", "list", "--json").stdout)
    assert [row["name"] for row in listed["watches"]] == ["lerobot-lerobot", "mine", "inbox"]
    assert listed["watches"][1]["left_out"] == {"me/b": "me/b is gated: ask."}

    assert cli("watch", "remove", "mine").exit_code == 0
    again = cli("watch", "remove", "mine")
    assert again.exit_code == 2 and "lerobot-lerobot, inbox" in again.stderr


def test_mistakes_are_one_sentence(cli: Cli, home: Path) -> None:
    for arguments, says in [
        ((), "name an author, a search text, tags, or repos"),
        (("--author", "me", "--repo", "me/a"), "not both"),
        (("--repo", "justone"), "org/name"),
        (("--folder", "none"), "make it first"),
        (("--folder", ".", "--author", "me"), "add two entries"),
        (("--author", "me", "--settle-sec", "3"), "--settle-sec is for drop boxes"),
        (("--author", "me", "--set", "train.stepz=3"), "there is no option 'train.stepz'"),
        (("--author", "me", "--preset", "best"), "option 'preset'"),
        (("--author", "me", "--runs-per-tick", "26"), "less than or equal to 25"),
        (("--author", "me", "--name", "A B"), "lower-case"),
    ]:
        result = cli("watch", "add", *arguments)
        assert result.exit_code == 2, arguments
        assert says in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not (home / "data" / "watch.yaml").exists()
    assert cli("watch", "add", "--author", "me").exit_code == 0
    assert "already" in cli("watch", "add", "--author", "me").stderr
    (home / "data" / "watch.yaml").write_text("hub: [{author: me, autor: x}]")
    assert "there is no option 'autor'" in cli("watch", "add", "--author", "you").stderr
    assert "there is no option 'autor'" in cli("watch", "list").stderr
