"""The frames stage as the graph calls it: photos, videos, bad input, interruption, determinism."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageCms
from PIL.ExifTags import Base

from splat_assets.errors import Cancelled, UserError
from splat_assets.frames.frame_set import COLUMNS
from splat_assets.progress import Progress
from splat_assets_tests.frames.making import (
    extract,
    make_audio,
    make_video,
    raw_dataset,
    save_photo,
    textured,
)
from splat_assets_tests.paths import shared_data


def photos_in(folder: Path, count: int, **kwargs: int) -> None:
    for i in range(count):
        save_photo(folder / "files" / f"p{i}.jpg", textured(i, **kwargs))


def test_photos_without_change_are_the_original_bytes(tmp_path: Path) -> None:
    photos_in(tmp_path / "raw", 5)
    raw = raw_dataset(tmp_path / "raw", "photos")
    frames, warnings = extract(raw, tmp_path / "out")
    assert not warnings
    for i in range(5):
        assert (frames.images / f"p{i}.jpg").samefile(raw.files / f"p{i}.jpg")
    table = frames.table()
    assert list(table.columns) == list(COLUMNS)
    assert {c: str(t) for c, t in table.dtypes.items()} == COLUMNS
    assert table["camera"].nunique() == 1
    assert frames.summary["num_frames"] == frames.summary["num_seen"] == 5
    assert not frames.ordered
    assert (frames.path / "contact_sheet.jpg").stat().st_size < 200_000


def test_orientation_is_applied_and_focal_length_follows_the_size(tmp_path: Path) -> None:
    picture = textured(0, 400, 300, blur=2.0)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[Base.Orientation] = orientation
        exif.get_ifd(0x8769)[Base.FocalLengthIn35mmFilm] = 43
        save_photo(tmp_path / "raw/files" / f"o{orientation}.jpg", picture, exif)
    frames, _ = extract(
        raw_dataset(tmp_path / "raw", "photos"), tmp_path / "out", max_long_side=200
    )
    for row in frames.table().itertuples():
        orientation = int(row.name[1])
        with Image.open(frames.images / row.name) as image:
            expected = (150, 200) if orientation >= 5 else (200, 150)
            assert image.size == (row.width, row.height) == expected
            assert image.getexif().get(Base.Orientation, 1) == 1
        assert (row.source_width, row.source_height) == tuple(2 * side for side in expected)
        assert row.focal_px == pytest.approx(43 / 43.2666 * 250, rel=1e-3)
    with Image.open(tmp_path / "raw/files/o1.jpg") as stored:
        picture = stored.convert("RGB")
    with Image.open(frames.images / "o6.jpg") as turned:
        reference = picture.resize((200, 150), Image.Resampling.LANCZOS).rotate(-90, expand=True)
        difference = np.abs(np.asarray(turned, int) - np.asarray(reference, int)).mean()
    assert difference < 2.5  # JPEG
    assert frames.table()["camera"].nunique() == 2  # landscape and portrait


def test_folders_are_cameras_and_names_are_flat(tmp_path: Path) -> None:
    for i, name in enumerate(("left/1.jpg", "left/2.jpg", "right/1.jpg", "right/2.JPG")):
        save_photo(tmp_path / "raw/files" / name, textured(i))
    frames, _ = extract(raw_dataset(tmp_path / "raw", "photos"), tmp_path / "out")
    table = frames.table()
    assert list(table["name"]) == ["left__1.jpg", "left__2.jpg", "right__1.jpg", "right__2.jpg"]
    assert list(table["source_file"])[-1] == "right/2.JPG"
    assert table["camera"].nunique() == 2


def test_alpha_stays_and_becomes_a_mask(tmp_path: Path) -> None:
    for i in range(4):
        image = textured(i).convert("RGBA")
        image.paste((0, 0, 0, 0), (0, 0, 80, 120))
        save_photo(tmp_path / "raw/files" / f"p{i}.png", image)
    raw = raw_dataset(tmp_path / "raw", "photos")
    whole, _ = extract(raw, tmp_path / "whole")
    small, _ = extract(raw, tmp_path / "small", max_long_side=80)
    assert (whole.images / "p0.png").read_bytes() == (raw.files / "p0.png").read_bytes()
    for frames, size in ((whole, (160, 120)), (small, (80, 60))):
        with Image.open(frames.images / "p0.png") as image:
            assert (image.mode, image.size) == ("RGBA", size)
        with Image.open(frames.masks / "p0.png.png") as mask:
            assert (mask.mode, mask.size) == ("L", size)
            pixels = np.asarray(mask)
        assert not pixels[:, : size[0] // 2 - 1].any()
        assert (pixels[:, size[0] // 2 + 1 :] == 255).all()
        assert frames.table()["has_mask"].all()


def test_unusual_modes_and_colour_profiles(tmp_path: Path) -> None:
    files = tmp_path / "raw/files"
    base = textured(1)
    save_photo(files / "cmyk.jpg", base.convert("CMYK"))
    save_photo(files / "grey.png", base.convert("L"))
    wide = np.asarray(base.convert("L")).astype(np.uint16) * 257
    save_photo(files / "sixteen.png", Image.fromarray(wide))
    save_photo(files / "palette.png", base.quantize(64))
    save_photo(files / "web.webp", base)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    base.save(files / "profile.jpg", icc_profile=lab)
    frames, warnings = extract(
        raw_dataset(tmp_path / "raw", "photos"), tmp_path / "out", drop_duplicates=False
    )
    assert not warnings
    for path in sorted(frames.images.iterdir()):
        with Image.open(path) as image:
            assert image.mode == "RGB", path.name
            assert abs(np.asarray(image, int).mean() - np.asarray(base, int).mean()) < 8, path.name


def test_corrupt_files_among_good_ones_are_named_and_skipped(tmp_path: Path) -> None:
    photos_in(tmp_path / "raw", 5)
    files = tmp_path / "raw/files"
    whole = (files / "p0.jpg").read_bytes()
    (files / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (files / "text.jpg").write_text("this is no picture")
    (files / "empty.png").touch()
    frames, warnings = extract(raw_dataset(tmp_path / "raw", "photos"), tmp_path / "out")
    assert frames.summary["num_frames"] == 5
    assert frames.summary["num_unreadable"] == 3
    assert set(frames.summary["unreadable"]) == {"cut.jpg", "text.jpg", "empty.png"}
    assert "cut.jpg cannot be read (truncated) and is left out." in warnings
    assert not any("cut" in p.name for p in frames.images.iterdir())


def test_a_decompression_bomb_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos_in(tmp_path / "raw", 4)
    save_photo(tmp_path / "raw/files/bomb.png", Image.new("RGB", (900, 900)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    frames, warnings = extract(raw_dataset(tmp_path / "raw", "photos"), tmp_path / "out")
    assert frames.summary["unreadable"] == ["bomb.png"]
    assert "more pixels than is safe" in warnings[0]


@pytest.mark.parametrize("good", [0, 3])
def test_too_few_photos_is_one_sentence(tmp_path: Path, good: int) -> None:
    photos_in(tmp_path / "raw", good)
    raw = raw_dataset(tmp_path / "raw", "photos")
    with pytest.raises(UserError) as caught:
        extract(raw, tmp_path / "out")
    sentence = str(caught.value)
    assert "my-source" in sentence
    assert "add" in sentence
    assert sentence.count(".") == 1
    assert ("only 3 usable" in sentence) == (good == 3)
    assert list((tmp_path / "out").iterdir()) == []


def test_copies_do_not_count_as_photos(tmp_path: Path) -> None:
    photos_in(tmp_path / "raw", 3)
    shutil.copy(tmp_path / "raw/files/p0.jpg", tmp_path / "raw/files/p0 (1).jpg")
    with pytest.raises(UserError, match=r"only 3 usable photos in my-source \(1 more are copies\)"):
        extract(raw_dataset(tmp_path / "raw", "photos"), tmp_path / "out")


def test_far_too_many_photos_are_thinned_before_they_are_decoded(tmp_path: Path) -> None:
    photos_in(tmp_path / "raw", 30, width=64, height=48)
    frames, _ = extract(raw_dataset(tmp_path / "raw", "photos"), tmp_path / "out", max_frames=6)
    table = frames.table()
    assert len(table) == 30
    assert list(table["index"]) == sorted(table["index"])
    assert len(frames.kept()) == len(list(frames.images.iterdir())) == 6
    assert table["sharpness"].notna().sum() == 12
    assert frames.summary["num_dropped"] == {"over max_frames": 24}


def test_video(tmp_path: Path) -> None:
    pictures = [np.asarray(textured(i)) for i in range(50)]
    make_video(tmp_path / "raw/files/clip.mp4", pictures)
    raw = raw_dataset(tmp_path / "raw", "video")
    frames, warnings = extract(raw, tmp_path / "out", fps=5.0, start_sec=1.0, end_sec=3.0)
    table = frames.kept()
    assert not warnings
    assert frames.ordered
    assert list(table["name"])[:2] == ["frame_00000.jpg", "frame_00001.jpg"]
    assert table["timestamp_sec"].to_numpy() == pytest.approx(np.arange(11) * 0.2 + 1.0, abs=0.1001)
    with Image.open(frames.images / "frame_00002.jpg") as image:
        assert image.layer[0][1:3] == image.layer[1][1:3]  # chroma at full resolution
        original = pictures[round(table["timestamp_sec"][2] * 10)].astype(int)
        assert np.abs(np.asarray(image, int) - original).mean() < 25  # 4:2:0 noise in between


def test_several_videos_are_several_cameras(tmp_path: Path) -> None:
    for name, size in (("a/front.mp4", 160), ("b/front.mp4", 200)):
        pictures = [np.asarray(textured(i, size)) for i in range(20)]
        make_video(tmp_path / "raw/files" / name, pictures)
    make_audio(tmp_path / "raw/files/talk.mp4")
    frames, warnings = extract(raw_dataset(tmp_path / "raw", "video"), tmp_path / "out", fps=5.0)
    table = frames.kept()
    assert table.groupby("source_file").size().to_dict() == {"a/front.mp4": 10, "b/front.mp4": 10}
    assert table["camera"].nunique() == 2
    assert list(table["name"]) == sorted(table["name"])
    assert warnings == ["talk.mp4 is left out: no video stream."]


def test_long_videos_are_sampled_more_sparsely(tmp_path: Path) -> None:
    pictures = (np.asarray(textured(i, 64, 48)) for i in range(240))
    make_video(tmp_path / "raw/files/long.mp4", pictures)
    frames, _ = extract(
        raw_dataset(tmp_path / "raw", "video"), tmp_path / "out", fps=10.0, max_frames=10
    )
    assert frames.summary["fps"] in (pytest.approx(10 / 11), pytest.approx(10 / 12))
    kept = frames.kept()["timestamp_sec"]
    assert len(kept) == 10
    assert kept.iloc[-1] > 20
    assert kept.diff().max() < 5


def test_bad_videos_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "raw/files").mkdir(parents=True)
    make_audio(tmp_path / "raw/files/talk.mp4")
    raw = raw_dataset(tmp_path / "raw", "video")
    with pytest.raises(
        UserError, match=r"no usable picture in my-source; talk.mp4 \(no video stre"
    ):
        extract(raw, tmp_path / "a")
    make_video(tmp_path / "raw2/files/clip.mp4", [np.asarray(textured(i)) for i in range(20)])
    raw = raw_dataset(tmp_path / "raw2", "video")
    with pytest.raises(UserError, match="before start_sec"):
        extract(raw, tmp_path / "c", start_sec=30)
    with pytest.raises(UserError, match=r"only 2 usable frames .* higher fps"):
        extract(raw, tmp_path / "d", fps=1.0)


def test_a_video_cut_off_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    files = tmp_path / "raw/files"
    pictures = [np.asarray(textured(i)) for i in range(80)]
    whole = make_video(files / "a.mp4", pictures, container_options={"movflags": "faststart"})
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    frames, warnings = extract(raw_dataset(tmp_path / "raw", "video"), tmp_path / "out", fps=4.0)
    assert 4 <= frames.summary["num_frames"] < 20
    assert "cut off or damaged" in warnings[0]


def test_same_input_same_version(tmp_path: Path) -> None:
    make_video(
        tmp_path / "v/files/clip.mp4", [np.asarray(textured(i)) for i in range(30)], rotation=90
    )
    photos_in(tmp_path / "p", 6, width=400, height=300)
    for name, content in (("v", "video"), ("p", "photos")):
        raw = raw_dataset(tmp_path / name, content)
        runs = [
            extract(raw, tmp_path / f"{name}{i}", fps=10.0, max_long_side=side)[0]
            for i, side in enumerate((100, 100, 90))
        ]
        versions = [run.data_version for run in runs]
        assert versions[0] == versions[1] != versions[2]
        assert [e.sha256 for e in runs[0].manifest.files] == [
            e.sha256 for e in runs[1].manifest.files
        ]


@pytest.mark.parametrize("content", ["photos", "video"])
def test_cancel_leaves_nothing(tmp_path: Path, content: str) -> None:
    if content == "video":
        pictures = [np.asarray(textured(i)) for i in range(60)]
        make_video(tmp_path / "raw/files/clip.mp4", pictures)
    else:
        photos_in(tmp_path / "raw", 30)
    polls = iter(range(1000))
    progress = Progress(should_cancel=lambda: next(polls) > 15)
    with pytest.raises(Cancelled):
        extract(raw_dataset(tmp_path / "raw", content), tmp_path / "out", progress, fps=10.0)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_splat_is_passed_on(tmp_path: Path) -> None:
    (tmp_path / "raw/files/sub").mkdir(parents=True)
    (tmp_path / "raw/files/sub/point_cloud.ply").write_bytes(b"ply\n")
    frames, _ = extract(raw_dataset(tmp_path / "raw", "ply"), tmp_path / "out")
    assert frames.skipped is not None
    assert (frames.given / "splat.ply").samefile(tmp_path / "raw/files/sub/point_cloud.ply")
    assert len(frames.table()) == 0
    assert frames.summary["num_frames"] == 0


def test_real_photos_keep_focal_length_and_position(tmp_path: Path) -> None:
    for name, focal, gps in (("photos_banana", 1664, 0), ("drone_caliterra", 726, 28)):
        photos = sorted(shared_data(name).glob("*.jpg"))
        raw = raw_dataset(tmp_path / name, "photos", photos)
        frames, _ = extract(raw, tmp_path / f"{name}-out", max_long_side=1000)
        kept = frames.kept()
        assert len(kept) == len(photos)
        assert kept["camera"].nunique() == 1
        assert kept["focal_px"].to_numpy() == pytest.approx(focal, rel=0.01)
        assert kept["gps_lat"].notna().sum() == gps
        assert kept["timestamp_sec"].is_monotonic_increasing


def test_real_videos(tmp_path: Path) -> None:
    walk = shared_data("video_walkaround", "walkaround_2fps_540p.mp4")
    frames, _ = extract(raw_dataset(tmp_path / "walk", "video", [walk]), tmp_path / "walk-out")
    assert frames.summary["num_seen"] == 103
    assert frames.summary["num_frames"] >= 95
    assert frames.table()["timestamp_sec"].to_numpy() == pytest.approx(np.arange(103) / 2)
    still = shared_data("video_static", "one-by-one-person-detection.mp4")
    raw = raw_dataset(tmp_path / "still", "video", [still])
    frames, _ = extract(raw, tmp_path / "still-out", max_frames=60, end_sec=60)
    assert frames.summary["num_dropped"]["duplicate"] > 30


def test_json_of_the_manifest_is_plain(tmp_path: Path) -> None:
    photos_in(tmp_path / "raw", 4)
    frames, _ = extract(raw_dataset(tmp_path / "raw", "photos"), tmp_path / "out")
    assert json.loads((frames.path / "manifest.json").read_text())["kind"] == "frames"
    assert isinstance(frames.table(), pd.DataFrame)
