"""Datasets with poses: every picture is kept under its name, splits and files are carried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.ExifTags import Base

from splat_assets.errors import UserError
from splat_assets_tests.frames.making import extract, raw_dataset, save_photo, textured
from splat_assets_tests.paths import shared_data

POSE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def write_transforms(path: Path, file_paths: list[str], **more: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [{"file_path": p, "transform_matrix": POSE} for p in file_paths]
    path.write_text(json.dumps({"fl_x": 100.0, "frames": frames, **more}))


def write_colmap(folder: Path, names: list[str], size: tuple[int, int] = (160, 120)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.txt").write_text(f"1 PINHOLE {size[0]} {size[1]} 100 100 80 60\n")
    lines = [f"{i + 1} 1 0 0 0 0 0 {i} 1 {name}\n\n" for i, name in enumerate(names)]
    (folder / "images.txt").write_text("".join(lines))
    (folder / "points3D.txt").write_text("")


def test_nerf_synthetic(tmp_path: Path) -> None:
    files = tmp_path / "raw/files/chair"  # one folder deeper than expected
    for split in ("train", "val", "test"):
        paths = [f"./{split}/r_{i}" for i in range(3)]
        write_transforms(files / f"transforms_{split}.json", paths)
        for i in range(3):
            image = textured(7).convert("RGBA")  # all equal: still no frame may go
            save_photo(files / split / f"r_{i}.png", image)
    frames, _ = extract(raw_dataset(tmp_path / "raw", "nerfstudio"), tmp_path / "out", max_frames=4)
    table = frames.table()
    assert list(table["name"]) == [f"{s}/r_{i}.png" for s in ("test", "train") for i in range(3)]
    assert table["source_file"][0] == "chair/test/r_0.png"
    assert list(table["split"]) == ["test"] * 3 + ["train"] * 3
    assert table["kept"].all()
    assert sorted(p.name for p in frames.given.iterdir()) == [
        "transforms.json",
        "transforms_test.json",
    ]


def test_nerfstudio_with_masks_lists_cloud_and_lost_pictures(tmp_path: Path) -> None:
    files = tmp_path / "raw/files"
    names = [f"images/frame_{i:05d}.jpg" for i in range(1, 6)]
    for i, name in enumerate(names):
        save_photo(files / name, textured(i, 320, 240))
        save_photo(files / name.replace("images/", "images_2/"), textured(i, 160, 120))
    save_photo(files / "masks/frame_00001.png", Image.new("L", (320, 240), 255))
    (files / "sparse_pc.ply").write_bytes(b"ply\n")
    write_transforms(
        files / "transforms.json",
        [*names[:3], "/home/someone/data/images/frame_00004.jpg", "images/frame_00005.png", "lost"],
        test_filenames=[names[1]],
        train_filenames=[names[0], *names[2:]],
        ply_file_path="sparse_pc.ply",
    )
    frames, warnings = extract(
        raw_dataset(tmp_path / "raw", "nerfstudio"), tmp_path / "out", max_long_side=160
    )
    table = frames.table()
    assert list(table["name"]) == [name.removeprefix("images/") for name in names]
    assert set(table["width"]) == {160}
    assert set(table["source_width"]) == {320}
    assert list(table["split"])[:3] == ["train", "test", "train"]
    assert list(table["has_mask"]) == [True] + [False] * 4
    assert frames.summary["num_missing"] == 1
    assert "lost" in warnings[0]
    carried = json.loads((frames.given / "transforms.json").read_text())
    assert (frames.given / carried["ply_file_path"]).is_file()
    assert carried["frames"][0]["file_path"] == names[0]


def test_paths_never_lead_out_of_the_dataset(tmp_path: Path) -> None:
    save_photo(tmp_path / "secret.jpg", textured(0))
    for i in range(4):
        save_photo(tmp_path / "raw/files/images" / f"{i}.jpg", textured(i))
    paths = [f"images/{i}.jpg" for i in range(4)] + ["../../secret.jpg"]
    write_transforms(tmp_path / "raw/files/transforms.json", paths)
    frames, _ = extract(raw_dataset(tmp_path / "raw", "nerfstudio"), tmp_path / "out")
    assert len(frames.table()) == 4


def test_colmap_keeps_names_and_takes_the_larger_model(tmp_path: Path) -> None:
    files = tmp_path / "raw/files"
    names = ["b/2.jpg", "b/10.jpg", "a/1.PNG", "c.jpeg"]
    for i, name in enumerate([*names, "unposed.jpg"]):
        save_photo(files / "images" / name, textured(i))
    write_colmap(files / "sparse/0", names)
    write_colmap(files / "sparse/1", names[:2])
    (files / "sparse/0/test.txt").write_text("c.jpeg\n")
    raw = raw_dataset(tmp_path / "raw", "colmap")
    frames, _ = extract(raw, tmp_path / "out", max_long_side=80)
    table = frames.table()
    assert list(table["name"]) == ["a/1.PNG", "b/2.jpg", "b/10.jpg", "c.jpeg"]
    assert list(table["split"]) == ["train", "train", "train", "test"]
    for name in table["name"]:
        with Image.open(frames.images / name) as image:
            assert image.size == (80, 60)
            assert image.format == ("PNG" if name.endswith("PNG") else "JPEG")
    assert (frames.given / "sparse/images.txt").samefile(files / "sparse/0/images.txt")


@pytest.mark.parametrize(("camera", "turned"), [((160, 120), False), ((120, 160), True)])
def test_orientation_follows_the_given_camera(
    tmp_path: Path, camera: tuple[int, int], turned: bool
) -> None:
    exif = Image.Exif()
    exif[Base.Orientation] = 6
    names = [f"{i}.jpg" for i in range(4)]
    for i, name in enumerate(names):
        save_photo(tmp_path / "raw/files/images" / name, textured(i), exif)
    write_colmap(tmp_path / "raw/files/sparse/0", names, camera)
    frames, _ = extract(raw_dataset(tmp_path / "raw", "colmap"), tmp_path / "out")
    with Image.open(frames.images / "0.jpg") as image:
        assert image.size == camera
        assert Base.Orientation not in image.getexif()
    assert turned == (frames.table()["source_width"][0] == 120)


def test_damaged_poses_are_one_sentence(tmp_path: Path) -> None:
    save_photo(tmp_path / "raw/files/images/0.jpg", textured(0))
    raw = raw_dataset(tmp_path / "raw", "nerfstudio")
    with pytest.raises(UserError, match=r"no transforms\.json"):
        extract(raw, tmp_path / "a")
    (raw.files / "transforms.json").write_text('{"frames": [{}]}')
    with pytest.raises(UserError, match="not a transforms file"):
        extract(raw, tmp_path / "b")
    write_transforms(raw.files / "transforms.json", ["images/1.jpg", "images/0.jpg"])
    with pytest.raises(UserError, match=r"only 1 usable .* images/1\.jpg \(missing\)"):
        extract(raw, tmp_path / "c")
    write_colmap(tmp_path / "col/files/sparse/0", ["0.jpg"])
    (tmp_path / "col/files/sparse/0/cameras.txt").write_text("1 NONSENSE\n")
    with pytest.raises(UserError, match=r"COLMAP model sparse/0 cannot be read"):
        extract(raw_dataset(tmp_path / "col", "colmap"), tmp_path / "d")


def test_real_nerf_synthetic(tmp_path: Path) -> None:
    raw_files = tmp_path / "raw/files"
    raw_files.parent.mkdir()
    raw_files.symlink_to(shared_data("gtpose_chair"), target_is_directory=True)
    frames, _ = extract(raw_dataset(tmp_path / "raw", "nerfstudio"), tmp_path / "out")
    table = frames.table()
    assert table.groupby("split").size().to_dict() == {"test": 8, "train": 50}
    assert table["has_mask"].all()
    assert set(table["width"]) == {400}
