"""One photo of the raw dataset becomes one image of the frame set, with what its EXIF knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from splat_assets.frames.exif import PhotoExif, read_exif
from splat_assets.frames.images import (
    UnreadableError,
    can_link,
    has_transparency,
    load,
    open_image,
    upright_size,
    write_image,
)
from splat_assets.frames.masks import make_mask
from splat_assets.frames.scoring import score_image
from splat_assets.frames.table import NAN, Frame


@dataclass(frozen=True)
class Photo:
    """A photo to be read, and how it is to be called.

    A photo with given poses keeps `name`, so that it stays the one its poses speak of; and the
    pixels stay as they lie in the file, whatever its EXIF orientation says, unless `camera_size`
    (of the given camera) tells that the poses are about the upright picture.
    """

    source_file: str
    index: int
    stem: str
    name: str = ""  # keep exactly this name
    split: str = ""
    mask_file: str = ""  # below files/, or ""
    camera_size: tuple[int, int] | None = None
    sha256: str | None = None  # of the original, when known


@dataclass(frozen=True)
class PhotoResult:
    """`problem` is something the user should know although the photo can be used."""

    frame: Frame
    taken_sec: float
    problem: str = ""


def import_photo(photo: Photo, files: Path, out: Path, max_long_side: int) -> PhotoResult:
    """Decode, score, and write `out/images/<name>` and, if any, `out/masks/<name>.png`.

    Raises:
        UnreadableError: the photo is damaged or not a picture.
    """
    path = files / photo.source_file
    with open_image(path) as opened:
        exif = read_exif(opened)
        orientation = _orientation(photo, opened.size, exif)
        stored_size, kind = opened.size, opened.format
        linked = can_link(opened, max_long_side, exif.orientation)
        image = load(opened, max_long_side, orientation)
    if min(image.size) < 16:
        raise UnreadableError(f"only {image.width} x {image.height} pixels")
    if image.mode == "RGBA" and not linked and not has_transparency(image):
        image = image.convert("RGB")
    name = photo.name or photo.stem + _suffix(kind, image, linked)
    target = out / "images" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    write_image(image, target, path if linked else None)
    mask, problem = _mask(photo, files, image, stored_size, orientation)
    if mask is not None:
        mask_target = out / "masks" / f"{name}.png"
        mask_target.parent.mkdir(parents=True, exist_ok=True)
        mask.save(mask_target, "PNG")
    width, height = upright_size(stored_size, orientation)
    frame = Frame(
        name=name,
        source_file=photo.source_file,
        index=photo.index,
        camera=_camera(photo, exif, image.size),
        width=image.width,
        height=image.height,
        source_width=width,
        source_height=height,
        stats=score_image(image),
        focal_px=exif.focal_ratio * max(image.size) if exif.focal_ratio else NAN,
        gps_lat=_or_nan(exif.lat),
        gps_lon=_or_nan(exif.lon),
        gps_alt=_or_nan(exif.alt),
        has_mask=mask is not None,
        split=photo.split,
        sha256=photo.sha256 if linked else None,
        sequence=str(PurePosixPath(photo.source_file).parent),
    )
    return PhotoResult(frame, _or_nan(exif.taken_sec), problem)


def _orientation(photo: Photo, size: tuple[int, int], exif: PhotoExif) -> int:
    if photo.camera_size is None and not photo.name:
        return exif.orientation
    if exif.orientation < 5 or photo.camera_size is None:
        return 1
    wide_camera = photo.camera_size[0] > photo.camera_size[1]
    return 1 if wide_camera == (size[0] > size[1]) else exif.orientation


def _suffix(kind: str | None, image: Image.Image, linked: bool) -> str:
    as_png = kind == "PNG" if linked else image.mode == "RGBA"
    return ".png" if as_png else ".jpg"


def _mask(
    photo: Photo, files: Path, image: Image.Image, stored_size: tuple[int, int], orientation: int
) -> tuple[Image.Image | None, str]:
    mask_file = files / photo.mask_file if photo.mask_file else None
    try:
        return make_mask(image, stored_size, orientation, mask_file), ""
    except UnreadableError as error:
        problem = f"The mask {photo.mask_file} is left out: {error}."
        return make_mask(image, stored_size, orientation, None), problem


def _camera(photo: Photo, exif: PhotoExif, size: tuple[int, int]) -> str:
    """Photos share intrinsics when folder, camera, focal length and size agree.

    The folder counts because rigs hold several cameras of one model, a folder each.
    """
    folder = str(PurePosixPath(photo.source_file).parent)
    focal = f"{exif.focal_mm:g} mm" if exif.focal_mm else ""
    parts = (folder if folder != "." else "", exif.camera, focal, f"{size[0]}x{size[1]}")
    return " | ".join(part for part in parts if part)


def _or_nan(value: float | None) -> float:
    return NAN if value is None else value
