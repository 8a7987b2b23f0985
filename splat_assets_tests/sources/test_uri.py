from __future__ import annotations

from pathlib import Path

import pytest

from splat_assets.errors import SourceError, UserError
from splat_assets.sources.uri import SourceRef, default_name, parse_source
from splat_assets_tests.sources.samples import MP4, colmap_model, photos, splat_ply, write


@pytest.mark.parametrize(
    ("text", "repo", "revision", "folder", "kind"),
    [
        ("org/name", "org/name", "", "", "dataset"),
        ("org/na.me@v1", "org/na.me", "v1", "", "dataset"),
        ("hf://datasets/org/name", "org/name", "", "", "dataset"),
        ("hf://datasets/org/name@abc/sub/dir/", "org/name", "abc", "sub/dir", "dataset"),
        ("hf://datasets/o/n@refs/pr/3/x", "o/n", "refs/pr/3", "x", "dataset"),
        ("hf://datasets/o/n@refs%2Fpr%2F3/x", "o/n", "refs/pr/3", "x", "dataset"),
        ("hf://models/org/splats", "org/splats", "", "", "model"),
        ("https://huggingface.co/datasets/o/n", "o/n", "", "", "dataset"),
        (
            "https://huggingface.co/datasets/o/n/tree/v2/scenes/a",
            "o/n",
            "v2",
            "scenes/a",
            "dataset",
        ),
    ],
)
def test_repositories(text: str, repo: str, revision: str, folder: str, kind: str) -> None:
    ref = parse_source(text)
    assert ref == SourceRef("hub", repo, revision, folder, kind)  # type: ignore[arg-type]
    assert parse_source(ref.uri) == ref


def test_urls() -> None:
    ref = parse_source("https://me:secret@example.org/a%20b/My%20Walk.mp4?x=1")
    assert ref.kind == "url"
    assert "secret" in ref.uri and "secret" not in ref.label
    assert default_name(ref) == "my-walk"
    hub_file = "https://huggingface.co/datasets/o/n/resolve/main/a.zip"
    assert parse_source(hub_file).kind == "url"
    assert default_name("https://example.org/") == "example.org"


def test_buckets() -> None:
    ref = parse_source("s3://photos/inbox/My Garden.zip")
    assert (ref.kind, ref.uri) == ("bucket", "s3://photos/inbox/My Garden.zip")
    assert default_name(ref) == "my-garden"
    assert default_name("gs://photos/inbox/room/") == "room"


def test_local_kinds(tmp_path: Path) -> None:
    write(tmp_path / "My Photos", photos())
    write(tmp_path / "model", {**colmap_model(["p00.jpg"])})
    write(tmp_path / "nerf", {"transforms_train.json": "{}"})
    write(tmp_path, {"a.ply": splat_ply(), "noname": MP4, "b.tar.gz": b"\x1f\x8b0000"})
    for name, kind in [
        ("My Photos", "folder"),
        ("model", "colmap"),
        ("nerf", "nerfstudio"),
        ("a.ply", "ply"),
        ("noname", "video"),
        ("b.tar.gz", "archive"),
    ]:
        ref = parse_source(str(tmp_path / name))
        assert (ref.kind, ref.path) == (kind, tmp_path / name)
    assert default_name(str(tmp_path / "My Photos")) == "my-photos"
    assert default_name(str(tmp_path / "b.tar.gz")) == "b"


def test_a_local_path_wins_over_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "org" / "name", photos())
    monkeypatch.chdir(tmp_path)
    assert parse_source("org/name").kind == "folder"
    assert parse_source("org/other").kind == "hub"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("no such folder", "no file or folder"),
        ("/nowhere/photos", "no file or folder"),
        ("a/b/c", "no file or folder"),
        ("my photos/of garden", "no file or folder"),
        ("photos/garden.zip", "no file or folder"),
        ("ftp://host/x", "ftp://"),
        ("s3://bucket", "no file or folder of a bucket"),
        ("s3://bucket//x", "no file or folder of a bucket"),
        ("s3://bucket/../x", "outside"),
        ("hf://datasets/justone", "org/name"),
        ("hf://datasets/o/n/../../x", "outside"),
        ("hf://datasets/o/n@", "revision"),
        ("hf://spaces/o/n", "space"),
        ("http://", "valid URL"),
        ("https://exa mple.org/x.zip", "valid URL"),
        ("x\0y", "no file or folder"),
    ],
)
def test_bad_texts_give_one_sentence(text: str, says: str) -> None:
    with pytest.raises(SourceError, match=says) as caught:
        parse_source(text)
    assert "\n" not in str(caught.value)


def test_bad_files(tmp_path: Path) -> None:
    write(tmp_path, {"empty.mp4": b"", "one.jpg": photos(1)["p00.jpg"], "x.docx": b"hello"})
    for name, says in [
        ("empty.mp4", "0 bytes"),
        ("one.jpg", "one photo"),
        ("x.docx", "no archive, video or splat"),
    ]:
        with pytest.raises(SourceError, match=says):
            parse_source(str(tmp_path / name))


def test_a_name_without_letters() -> None:
    with pytest.raises(UserError, match="--name"):
        default_name(SourceRef("folder", "/写真/庭"))
