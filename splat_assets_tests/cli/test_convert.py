"""`splat-assets convert` in the terminal."""

from __future__ import annotations

import json
from pathlib import Path

from splat_assets.formats.registry import write_splat
from splat_assets_tests.cli.conftest import Cli
from splat_assets_tests.compression.splat_models import two_tone_ball


def test_convert_and_info(cli: Cli, home: Path) -> None:
    write_splat(home / "a.splat", two_tone_ball(100))
    write_splat(home / "b.ply", two_tone_ball(60))
    made = cli("convert", "a.splat", "b.ply", "c.spz", "--decimate", "50%", "--json")
    assert made.exit_code == 0, made.stderr
    done = json.loads(made.stdout)
    assert (done["num_read"], done["num_gaussians"]) == (160, 80)
    found = json.loads(cli("info", "c.spz", "--json").stdout)
    assert found["format"] == "spz" and found["num_gaussians"] == 80
    again = cli("convert", "a.splat", "c.spz")
    assert again.exit_code == 2 and "--force" in again.stderr
    shown = cli("convert", "b.ply", "d.splat", "--sphere", "0.3,0.1,-0.2,0.9")
    assert "outside the sphere" in shown.stdout
    assert "no view-dependent colour" in shown.stderr


def test_a_streamed_scene(cli: Cli, home: Path) -> None:
    """Straight from the file when nothing else is asked for, through memory otherwise."""
    write_splat(home / "b.ply", two_tone_ball(120))
    for arguments, count in (((), 120), (("--decimate", "60"), 60)):
        target = home / f"scene{count}" / "lod-meta.json"
        made = cli("convert", "b.ply", target, *arguments, "--json")
        assert made.exit_code == 0, made.stderr
        done = json.loads(made.stdout)
        assert (done["format"], done["num_gaussians"]) == ("streamed-sog", count)
        assert done["sh_degree"] == 1
        on_disk = sum(p.stat().st_size for p in target.parent.rglob("*") if p.is_file())
        assert done["bytes"] == on_disk
        found = json.loads(cli("info", target.parent, "--json").stdout)
        assert found["format"] == "streamed-sog" and found["num_gaussians"] == count


def test_mistakes_are_one_sentence(cli: Cli, home: Path) -> None:
    write_splat(home / "a.splat", two_tone_ball(10))
    for arguments, sentence in (
        (("a.splat",), "last, the file to write"),
        (("a.splat", "b.obj"), "names no format"),
        (("no.ply", "b.spz"), "does not exist"),
        (("a.splat", "b.spz", "--box", "1,2"), "--box needs 6 numbers"),
        (("a.splat", "b.spz", "--decimate", "many"), "--decimate needs"),
        (("a.splat", "b.spz", "--up", "north"), "Up cannot be"),
    ):
        result = cli("convert", *arguments)
        assert result.exit_code == 2, arguments
        assert sentence in result.stderr and "Traceback" not in result.stderr
        assert not (home / "b.spz").exists()
