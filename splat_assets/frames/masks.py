"""Masks: found by the naming of COLMAP (`masks/a.jpg.png`) or nerfstudio (`masks/a.png`), or made
from an alpha channel, and written at the size of their image. 255 keeps a pixel, 0 ignores it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image, ImageChops

from splat_assets.frames.images import UnreadableError, open_image, upright
from splat_assets.sources.media import MASK_FOLDERS, is_mask

_IMAGE_FOLDERS = frozenset(("images", "image", "imgs", "img", "rgb", "color", "input", "photos"))


def match_masks(paths: Sequence[str], photos: Sequence[str]) -> dict[str, str]:
    """Mask path by photo path, both below `files/`.

    A mask belongs to the photo at the same place once `masks` and `images` folders are left out of
    both paths, with or without the photo's suffix; failing that, to the only photo of its name.
    """
    masks: dict[str, str] = {}
    for path in paths:
        if is_mask(path):
            masks.setdefault(_key(path, MASK_FOLDERS, drop_suffix=True), path)
    if not masks:
        return {}
    mask_names = Counter(PurePosixPath(key).name for key in masks)
    by_name = {PurePosixPath(key).name: path for key, path in masks.items()}
    photo_names = Counter(PurePosixPath(photo).name for photo in photos)
    found = {}
    for photo in photos:
        for key in _photo_keys(photo):
            if key in masks:
                found[photo] = masks[key]
                break
        else:
            pure = PurePosixPath(photo)
            for name in (pure.name, pure.stem):
                if mask_names[name] == 1 and photo_names[pure.name] == 1:
                    found[photo] = by_name[name]
                    break
    return found


def make_mask(
    image: Image.Image, source_size: tuple[int, int], orientation: int, mask_file: Path | None
) -> Image.Image | None:
    """The mask of a written `image` from its alpha channel and `mask_file`; None without either.

    Args:
        source_size: (width, height) of the photo as stored, before `orientation` was applied; a
            mask of that very size is turned like the photo.

    Raises:
        UnreadableError: `mask_file` is damaged.
    """
    mask = None
    if image.mode == "RGBA" and image.getchannel("A").getextrema()[0] != 255:
        mask = _binary(image.getchannel("A"))
    if mask_file is None:
        return mask
    drawn = open_image(mask_file)
    try:
        drawn.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableError(str(error)) from None
    if drawn.size == source_size and source_size != source_size[::-1]:
        drawn = upright(drawn, orientation)
    given = _binary(drawn if drawn.mode == "1" else drawn.convert("RGB").convert("L"))
    if given.size != image.size:
        given = given.resize(image.size, Image.Resampling.NEAREST)
    return given if mask is None else ImageChops.darker(mask, given)


def _binary(mask: Image.Image) -> Image.Image:
    """0 or 255; masks that use 0 and 1 are understood."""
    grey = mask.convert("L")
    limit = 0 if grey.getextrema()[1] <= 1 else 127  # type: ignore[operator]
    return grey.point([255 if value > limit else 0 for value in range(256)])


def _photo_keys(photo: str) -> list[str]:
    keys = []
    for folders in (frozenset[str](), _IMAGE_FOLDERS):
        keys += [_key(photo, folders, drop_suffix=drop) for drop in (False, True)]
    return keys


def _key(path: str, left_out: frozenset[str], *, drop_suffix: bool) -> str:
    pure = PurePosixPath(path)
    parts = [part for part in pure.parts[:-1] if part.lower() not in left_out]
    return str(PurePosixPath(*parts, pure.stem if drop_suffix else pure.name))
