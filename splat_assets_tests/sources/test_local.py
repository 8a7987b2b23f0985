"""Folders and single files: what is chosen, copied, reused, refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from splat_assets.artifacts.manifest import hash_file
from splat_assets.errors import Cancelled, SourceError, UserError
from splat_assets.sources import job
from splat_assets_tests.paths import shared_data
from splat_assets_tests.sources.samples import (
    MESH_PLY,
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


def test_photos_are_copied_untouched_and_junk_is_not(tmp_path: Path, fetch: Fetcher) -> None:
    source = write(
        tmp_path / "My Garden",
        {
            **photos(2, "a/"),
            **photos(2, "b/"),  # the same base names
            "B C/Ä 1.JPG": jpeg(9),
            "masks/p00.png": jpeg(5),
            "depth/p00.png": jpeg(6),
            "a/.p00.jpg": jpeg(7),
            "__MACOSX/a/p00.jpg": b"junk",
            "Thumbs.db": b"junk",
            "notes.docx": b"x",
            "LICENSE": "MIT License\n\nCopyright",
        },
    )
    raw = fetch(source)
    expected = ["B C/Ä 1.JPG", "a/p00.jpg", "a/p01.jpg", "b/p00.jpg", "b/p01.jpg", "masks/p00.png"]
    assert sorted(names(raw)) == expected
    for name in expected:
        assert (raw.files / name).read_bytes() == (source / name).read_bytes()
        assert (raw.files / name).stat().st_ino != (source / name).stat().st_ino
        assert (raw.files / name).stat().st_mtime_ns == (source / name).stat().st_mtime_ns
    assert raw.content == "photos"
    assert (raw.path / "docs" / "LICENSE").is_file()
    summary = raw.summary
    assert summary["license"] == "MIT License"
    assert (summary["num_files"], summary["downloaded_files"]) == (6, 6)
    assert summary["total_bytes"] == sum((source / n).stat().st_size for n in expected)
    assert not summary["unchanged"]
    for entry in raw.manifest.files:
        assert hash_file(raw.path / entry.path) == entry.sha256


def test_a_second_run_links_what_has_not_changed(tmp_path: Path, fetch: Fetcher) -> None:
    source = write(tmp_path / "s", photos(3))
    first = fetch(source)
    second = fetch(source, first)
    assert second.summary["unchanged"] and second.summary["downloaded_bytes"] == 0
    assert second.data_version == first.data_version
    assert (first.files / "p00.jpg").samefile(second.files / "p00.jpg")

    (source / "p01.jpg").write_bytes(jpeg(77))
    third = fetch(source, second)
    assert third.summary["downloaded_files"] == 1 and not third.summary["unchanged"]
    assert third.data_version != first.data_version
    assert (third.files / "p01.jpg").read_bytes() == jpeg(77)
    assert (second.files / "p01.jpg").read_bytes() == jpeg(1)  # the earlier artifact is untouched

    (source / "p02.jpg").unlink()
    fourth = fetch(source, third)
    assert fourth.summary["downloaded_files"] == 0 and not fourth.summary["unchanged"]
    assert names(fourth) == ["p00.jpg", "p01.jpg"]


def test_a_damaged_previous_artifact_is_not_reused(tmp_path: Path, fetch: Fetcher) -> None:
    source = write(tmp_path / "s", photos(3))
    first = fetch(source)
    (first.files / "p00.jpg").write_bytes(b"")
    second = fetch(source, first)
    assert second.summary["downloaded_files"] == 3
    assert (second.files / "p00.jpg").read_bytes() == jpeg(0)


def test_the_data_version_knows_only_the_files(tmp_path: Path, fetch: Fetcher) -> None:
    one = fetch(write(tmp_path / "one", {**photos(3), "README.md": "a"}))
    two = fetch(write(tmp_path / "two", {**photos(3), "README.md": "b"}), max_files=50)
    assert one.data_version == two.data_version


def test_include_and_exclude(tmp_path: Path, fetch: Fetcher) -> None:
    source = write(tmp_path / "s", {**photos(2, "a/"), **photos(2, "b/c/"), "a/x.png": jpeg(3)})
    assert names(fetch(source, include=("a/",))) == ["a/p00.jpg", "a/p01.jpg", "a/x.png"]
    assert names(fetch(source, include=("*.jpg",), exclude=("b/*",))) == ["a/p00.jpg", "a/p01.jpg"]
    with pytest.raises(SourceError, match="left out"):
        fetch(source, include=("nothing/",))


@pytest.mark.parametrize(
    ("files", "content", "taken"),
    [
        ({**photos(2), "walk.MP4": MP4}, "video", ["walk.MP4"]),
        ({**photos(9), "walk.mp4": MP4}, "photos", [f"p{i:02d}.jpg" for i in range(9)]),
        ({"a.mp4": MP4, "b/a.mp4": MP4}, "video", ["a.mp4", "b/a.mp4"]),
        ({"s.ply": splat_ply(), "preview.mp4": MP4}, "ply", ["s.ply"]),
        ({"s.ply": splat_ply(), "input.ply": MESH_PLY}, "ply", ["s.ply"]),
        (
            {f"point_cloud/iteration_{n}/point_cloud.ply": splat_ply() for n in (7000, 30000)},
            "ply",
            ["point_cloud/iteration_30000/point_cloud.ply"],
        ),
        (
            {**photos(1, "images/"), **photos(1, "images_4/"), "images_8/q.jpg": jpeg(3)},
            "photos",
            ["images/p00.jpg"],
        ),
    ],
)
def test_content_is_found_by_looking(
    files: dict[str, bytes], content: str, taken: list[str], tmp_path: Path, fetch: Fetcher
) -> None:
    raw = fetch(write(tmp_path / "s", files))  # type: ignore[arg-type]
    assert (raw.content, names(raw)) == (content, taken)


def test_what_is_left_aside_is_told(tmp_path: Path, fetch: Fetcher) -> None:
    fetch(write(tmp_path / "s", {**photos(2), "walk.mp4": MP4}))
    assert any("2 photos beside the videos" in warning for warning in fetch.warnings)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, "empty"),
        ({"a.txt": b"x", "b.heic": b"y"}, "convert HEIC"),
        ({"x/meta.json": b"{}"}, "nothing usable"),
        ({"a.ply": MESH_PLY}, "mesh"),
        ({"a.ply": splat_ply(), "b.ply": splat_ply()}, "2 splats"),
        ({"d/means_l.webp": b"", "d/means_u.webp": b"", "d/quats.webp": b""}, "without its meta"),
        ({"a/transforms.json": b"{}", "b/transforms.json": b"{}"}, "2 datasets"),
    ],
)
def test_unusable_folders(
    files: dict[str, bytes], says: str, tmp_path: Path, fetch: Fetcher
) -> None:
    (tmp_path / "s").mkdir()
    with pytest.raises(SourceError, match=says) as caught:
        fetch(write(tmp_path / "s", files))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert list(fetch.out.iterdir()) == []


def test_limits(tmp_path: Path, fetch: Fetcher) -> None:
    source = write(tmp_path / "s", photos(3))
    with pytest.raises(SourceError, match=r"more than the limit of 2; raise source\.max_files"):
        fetch(source, max_files=2)
    with pytest.raises(SourceError, match=r"limit of 100 bytes; raise source\.max_bytes"):
        fetch(source, max_bytes=100)


def test_single_video_and_splat(tmp_path: Path, fetch: Fetcher) -> None:
    write(tmp_path, {"my walk.mp4": MP4, "s.ply": splat_ply()})
    video = fetch(tmp_path / "my walk.mp4")
    assert (video.content, names(video)) == ("video", ["my walk.mp4"])
    assert fetch(tmp_path / "my walk.mp4", video).summary["unchanged"]
    assert fetch(tmp_path / "s.ply").content == "ply"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (MESH_PLY, "a mesh, not a 3D Gaussian splat"),
        (
            MESH_PLY.replace(b"element face 1\nproperty list uchar int vertex_indices\n", b""),
            "cloud",
        ),
        (splat_ply(100)[:-50], "cut short"),
        (splat_ply(0), "no Gaussians"),
        (splat_ply()[:40], "header is damaged"),
        (splat_ply().replace(b"vertex 4", b"vertex q"), "damaged PLY header"),
        (splat_ply().replace(b"vertex 4", b"vertex -4"), "damaged PLY header"),
        (b"solid", "not a PLY file"),
    ],
)
def test_bad_splats(data: bytes, says: str, tmp_path: Path, fetch: Fetcher) -> None:
    write(tmp_path, {"s.ply": data})
    with pytest.raises(SourceError, match=says):
        fetch(tmp_path / "s.ply")


def test_colmap(tmp_path: Path, fetch: Fetcher) -> None:
    source = write(
        tmp_path / "s",
        {
            **photos(3, "images/"),
            **photos(3, "images_2/"),
            **colmap_model(["p00.jpg", "p01.jpg"]),
            **colmap_model(["p00.jpg"], "sparse/1/"),
            "sparse/0/test.txt": "p01.jpg\n",
        },
    )
    raw = fetch(source)
    assert raw.content == "colmap"
    assert raw.summary["layout"]["model"] == "sparse/0"
    assert raw.summary["layout"]["images"] == "images"
    model = [f"sparse/0/{f}" for f in ("cameras.bin", "images.bin", "points3D.bin", "test.txt")]
    assert names(raw) == ["images/p00.jpg", "images/p01.jpg", *model]


def test_colmap_text_model_below_a_folder(tmp_path: Path, fetch: Fetcher) -> None:
    line = "1 1 0 0 0 0 0 0 1 my photo.jpg\n\n2 1 0 0 0 0 0 0 1 sub/b.jpg\n1 2 -1\n"
    source = write(
        tmp_path / "s",
        {
            "scan/colmap/sparse/0/images.txt": "# Image list\n" + line,
            "scan/colmap/sparse/0/cameras.txt": "1 PINHOLE 32 24 30 30 16 12\n",
            "scan/colmap/sparse/0/points3D.txt": "",
            "scan/pictures/my photo.jpg": jpeg(0),
            "scan/pictures/sub/b.jpg": jpeg(1),
        },
    )
    layout = fetch(source).summary["layout"]
    assert (layout["root"], layout["images"]) == ("scan", "scan/pictures")


def test_colmap_problems(tmp_path: Path, fetch: Fetcher) -> None:
    model = colmap_model(["p00.jpg", "gone.jpg"])
    with pytest.raises(SourceError, match=r"1 of them are not in the source .*gone\.jpg"):
        fetch(write(tmp_path / "a", {**photos(2, "images/"), **model}))
    cut = {**model, "sparse/0/images.bin": model["sparse/0/images.bin"][:-30]}
    with pytest.raises(SourceError, match="not a whole COLMAP file"):
        fetch(write(tmp_path / "b", {**photos(2, "images/"), **cut}))
    model.pop("sparse/0/points3D.bin")
    with pytest.raises(SourceError, match="no points3d file"):
        fetch(write(tmp_path / "c", {**photos(2, "images/"), **model}))


def test_nerfstudio_paths(tmp_path: Path, fetch: Fetcher) -> None:
    wanted = ["./images/p00", "images\\p01.jpg", "/home/someone/data/p02.jpg"]
    source = write(
        tmp_path / "s", {**photos(4, "x/images/"), "x/transforms.json": transforms(wanted)}
    )
    raw = fetch(source)
    assert raw.content == "nerfstudio"
    assert names(raw) == [*(f"x/images/p0{i}.jpg" for i in range(3)), "x/transforms.json"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (transforms(["images/p00", "images/nope"]), "'images/nope', which is not in the source"),
        (transforms(["../../../etc/passwd"]), "not in the source"),
        ("{", "not valid JSON"),
        ('{"frames": []}', "no frames"),
        ('{"frames": [{"file_path": "a"}]}', "frame 0 has no 4 x 4"),
        (transforms(["images/p00"]).replace("camera_angle_x", "nothing"), "no focal length"),
    ],
)
def test_nerfstudio_problems(text: str, says: str, tmp_path: Path, fetch: Fetcher) -> None:
    source = write(tmp_path / "s", {**photos(2, "images/"), "transforms.json": text})
    with pytest.raises(SourceError, match=says):
        fetch(source)


def test_cancel_leaves_nothing(tmp_path: Path, fetch: Fetcher) -> None:
    source = write(tmp_path / "s", photos(5))
    calls = iter(range(100))
    with pytest.raises(Cancelled):
        fetch(source, should_cancel=lambda: next(calls) > 6)
    assert list(fetch.out.iterdir()) == []


def test_a_full_disk(tmp_path: Path, fetch: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "s", photos(5))

    class NoSpace:
        free = 100

    with monkeypatch.context() as patch:
        patch.setattr(job.shutil, "disk_usage", lambda path: NoSpace)
        with pytest.raises(UserError, match=r"100 bytes free and .* are needed"):
            fetch(source)
    monkeypatch.setattr(Path, "open", _failing_open(Path.open))
    with pytest.raises(UserError, match="is full; free some space"):
        fetch(source)
    assert list(fetch.out.iterdir()) == []


def _failing_open(opened):  # type: ignore[no-untyped-def]
    """`Path.open`, but one written file goes to a device that is always full."""

    def open_(self, mode="r", *args, **kwargs):  # type: ignore[no-untyped-def]
        if mode == "xb" and self.name == "p03.jpg":
            return opened(Path("/dev/full"), "wb", 0)
        return opened(self, mode, *args, **kwargs)

    return open_


def test_real_folders(fetch: Fetcher) -> None:
    banana = fetch(shared_data("photos_banana"))
    assert (banana.content, banana.summary["num_files"]) == ("photos", 16)
    chair = fetch(shared_data("gtpose_chair"))
    assert (chair.content, chair.summary["num_files"]) == ("nerfstudio", 60)
    assert chair.summary["layout"]["transforms"] == [
        "transforms_train.json",
        "transforms_test.json",
    ]
    playbot = fetch(shared_data("splats", "playbot_sh2_31k.ply"))
    assert playbot.content == "ply"
    parquet = fetch(shared_data("hf_parquet"))
    folder = fetch(shared_data("hf_imagefolder"))
    hashes = [
        {e.sha256 for e in raw.manifest.files if e.path.endswith(".jpg")}
        for raw in (parquet, folder)
    ]
    assert len(hashes[0]) == 8 and hashes[0] == hashes[1]  # the bytes in the shard are the photos'
    assert folder.summary["license"] == "mit"
