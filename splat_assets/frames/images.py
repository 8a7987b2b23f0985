"""Reading and writing single pictures: orientation, colour, size, and the files of `images/`.

A picture that needs no change is hard-linked, so its bytes are the photographer's. Everything else
becomes JPEG of quality 95 without chroma subsampling: the splat learns colours from these pixels,
and halving the chroma a second time costs more than the bytes it saves. Pictures with real
transparency stay RGBA PNG.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image, ImageCms

from splat_assets.artifacts.manifest import link_or_copy
from splat_assets.frames.scoring import fit

JPEG_QUALITY = 95
# EXIF orientation → how the stored pixels are turned to stand upright
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableError(Exception):
    """A file holds no usable picture; the message is the reason, without the file's name."""


def open_image(path: Path | io.BytesIO) -> Image.Image:
    """Open a picture lazily (header only). Raises `UnreadableError`.

    Pillow's limit against decompression bombs (twice `Image.MAX_IMAGE_PIXELS`, 179 megapixels)
    stays in force.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path)
    except Image.DecompressionBombError:
        raise UnreadableError("more pixels than is safe to decode") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise UnreadableError(_reason(path if isinstance(path, Path) else None, error)) from None


def load(image: Image.Image, max_long_side: int, orientation: int) -> Image.Image:
    """Decode, reduce to `max_long_side`, turn upright, and convert to sRGB, mode RGB or RGBA.

    JPEG is decoded at a fraction of its size where at least twice the wanted size remains.
    Raises `UnreadableError` on damaged data.
    """
    size = fit(*image.size, max_long_side)
    profile = image.info.get("icc_profile")
    try:
        if size != image.size and image.format in ("JPEG", "MPO"):
            image.draft(None, (2 * size[0], 2 * size[1]))
        image.load()
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise UnreadableError(_reason(None, error)) from None
    pixels = _to_srgb(_to_rgb(image), profile)
    if size != pixels.size:
        # Pillow resizes RGBA with premultiplied alpha, so edges keep their colour.
        pixels = pixels.resize(size, Image.Resampling.LANCZOS)
    return upright(pixels, orientation)


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Turn by an EXIF orientation (1..8)."""
    return image.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else image


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) after `upright`."""
    return (size[1], size[0]) if orientation >= 5 else size


def can_link(image: Image.Image, max_long_side: int, orientation: int) -> bool:
    """Whether the file itself can serve: upright, small enough, 8-bit RGB(A), sRGB, JPEG or PNG."""
    return (
        (image.format, image.mode) in (("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "RGBA"))
        and max(image.size) <= max_long_side
        and orientation == 1
        and "transparency" not in image.info
        and _is_srgb(image.info.get("icc_profile"))
    )


def write_image(image: Image.Image, target: Path, link: Path | None) -> None:
    """Write `image` to `target` (JPEG, or PNG by its suffix), or link the unchanged file `link`."""
    if link is not None:
        link_or_copy(link, target)
    elif target.suffix.lower() == ".png":
        image.save(target, "PNG", compress_level=4)
    else:
        image.convert("RGB").save(target, "JPEG", quality=JPEG_QUALITY, subsampling=0)


def has_transparency(image: Image.Image) -> bool:
    """Whether an RGBA picture has a pixel that is not fully opaque."""
    return image.mode == "RGBA" and image.getchannel("A").getextrema()[0] < 255  # type: ignore[operator]


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB, or RGBA where the picture has transparency; 16-bit grey is scaled, not clipped."""
    if image.mode in ("RGB", "RGBA"):
        return image.convert("RGBA") if "transparency" in image.info else image
    if image.mode.startswith(("I", "F")):
        top = 65535.0 if image.mode.startswith("I") else max(float(image.getextrema()[1]), 1e-6)  # type: ignore[arg-type]
        image = image.convert("F").point(lambda value: value * (255.0 / top)).convert("L")
    with_alpha = image.mode in ("LA", "PA", "La", "RGBa") or "transparency" in image.info
    return image.convert("RGBA" if with_alpha else "RGB")


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert from an embedded RGB profile (Display P3, Adobe RGB) to sRGB."""
    if _is_srgb(profile):
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a profile for other channels (CMYK, grey), or a damaged one
    return converted or image


def _is_srgb(profile: bytes | None) -> bool:
    if not profile:
        return True
    try:
        name = ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return True  # unusable anyway
    return "srgb" in name.lower()


def _reason(path: Path | None, error: Exception) -> str:
    text = str(error)
    if "cannot identify" in text:
        empty = path is not None and path.is_file() and path.stat().st_size == 0
        return "empty file" if empty else "not a picture, or damaged"
    if "truncated" in text or "Truncated" in text:
        return "truncated"
    return f"damaged ({text.splitlines()[0][:80]})" if text else "damaged"
