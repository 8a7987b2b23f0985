"""File lists, names, and which mask belongs to which photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from splat_assets.frames.masks import make_mask, match_masks
from splat_assets.frames.names import flat_stems, list_files, natural_key, scene_photos


def test_natural_order() -> None:
    names = ["img_10.jpg", "img_2.jpg", "IMG_1.jpg", "b/1.jpg", "a/20.jpg", "a/3.jpg"]
    assert sorted(names, key=natural_key) == [
        "a/3.jpg", "a/20.jpg", "b/1.jpg", "IMG_1.jpg", "img_2.jpg", "img_10.jpg",
    ]  # fmt: skip


def test_flat_names_are_plain_unique_and_sort_like_the_paths() -> None:
    assert flat_stems(["images/a.jpg", "images/b.jpg"]) == ["a", "b"]
    assert flat_stems(["cam 1/a.jpg", "cam 2/a.jpg"]) == ["cam_1__a", "cam_2__a"]
    assert flat_stems(["a.jpg", "A.png", "a_2.jpg"]) == ["a", "A_2", "a_2_2"] or len(
        {s.lower() for s in flat_stems(["a.jpg", "A.png", "a_2.jpg"])}
    ) == 3  # fmt: skip
    paths = sorted([f"img_{i}.jpg" for i in range(12)], key=natural_key)
    stems = flat_stems(paths)
    assert stems == sorted(stems)
    assert stems[2] == "02_img_2"
    hostile = flat_stems(["../../etc/passwd.jpg", "写真.jpg", "x" * 300 + ".jpg", ".hidden.jpg"])
    assert all(s.isascii() and "/" not in s and not s.startswith(".") for s in hostile)
    assert max(map(len, hostile)) <= 130


def test_only_photographs_of_the_scene(tmp_path: Path) -> None:
    names = [
        "images/a.jpg", "images_4/a.jpg", "images_2/only_here.jpg", "masks/a.png",
        "depth/a.png", ".hidden/a.jpg", "__MACOSX/images/a.jpg", "notes.txt",
    ]  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert scene_photos(list_files(tmp_path)) == ["images/a.jpg", "images_2/only_here.jpg"]


def test_masks_by_both_namings() -> None:
    photos = ["images/x/a.jpg", "images/x/b.jpg", "images/c.jpg", "images/d.jpg"]
    paths = [*photos, "masks/x/a.jpg.png", "masks/x/b.png", "x/masks/c.png", "images/masks/d.png"]
    assert match_masks(paths, photos) == {
        "images/x/a.jpg": "masks/x/a.jpg.png",
        "images/x/b.jpg": "masks/x/b.png",
        "images/c.jpg": "x/masks/c.png",  # the only photo and the only mask of that name
        "images/d.jpg": "images/masks/d.png",
    }
    assert match_masks(["masks/a.png"], ["one/a.jpg", "two/a.jpg"]) == {}


def test_mask_is_turned_and_scaled_like_its_photo_and_joined_with_alpha(tmp_path: Path) -> None:
    drawn = np.zeros((40, 80), np.uint8)
    drawn[:20] = 1  # a mask of 0 and 1: the upper half of the stored picture
    Image.fromarray(drawn).save(tmp_path / "m.png")
    upright = Image.new("RGBA", (20, 40), (0, 0, 0, 255))  # turned clockwise, half the size
    upright.paste((0, 0, 0, 0), (0, 0, 20, 10))
    mask = make_mask(upright, (80, 40), 6, tmp_path / "m.png")
    assert mask is not None
    pixels = np.asarray(mask)
    assert pixels.shape == (40, 20)
    assert set(np.unique(pixels)) == {0, 255}
    assert (pixels[10:, 10:] == 255).all()  # up is right after the turn
    assert not pixels[:, :10].any()
    assert not pixels[:10].any()  # transparent
    assert make_mask(Image.new("RGB", (4, 4)), (4, 4), 1, None) is None
    assert make_mask(Image.new("RGBA", (4, 4), (0, 0, 0, 255)), (4, 4), 1, None) is None
