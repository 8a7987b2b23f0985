"""What a photo's EXIF block says of its camera: focal length, position, time, identity.

Tags follow EXIF 2.32 (CIPA DC-008). The 35 mm equivalent focal length is defined over the image
diagonal (CIPA DCG-001). `PixelXDimension` tells the size the camera wrote: tools that resize a
photo leave it alone, so resolutions of the focal plane are scaled by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

_DIAGONAL_35MM = math.hypot(36.0, 24.0)
_MM_PER_UNIT = {2: 25.4, 3: 10.0, 4: 1.0, 5: 0.001}  # FocalPlaneResolutionUnit; inch by default
_SENSOR_WIDTH_MM = (1.5, 70.0)  # from the smallest phone camera to medium format
_AGREE = 0.12  # two ways to a focal length that differ by more do not support each other


@dataclass(frozen=True)
class PhotoExif:
    """Facts of one photo; None where the photo does not tell."""

    orientation: int  # 1..8, EXIF
    focal_ratio: float | None  # focal length / long side of the image
    focal_mm: float | None
    lat: float | None  # degrees, WGS84
    lon: float | None
    alt: float | None  # metres, negative below sea level
    taken_sec: float | None  # seconds since 1970 of the camera's clock, read as UTC
    camera: str  # maker, model and serial number; "" when unknown


def read_exif(image: Image.Image) -> PhotoExif:
    """Read the EXIF block of an opened image; a damaged or missing block reads as no facts."""
    try:
        exif = image.getexif()
        main: dict[int, Any] = dict(exif)
        detail: dict[int, Any] = dict(exif.get_ifd(IFD.Exif))
        gps: dict[int, Any] = dict(exif.get_ifd(IFD.GPSInfo))
    except Exception:  # Pillow raises a zoo of errors on damaged blocks; the pixels may be fine
        main, detail, gps = {}, {}, {}
    orientation = main.get(Base.Orientation, 1)
    lat, lon, alt = _position(gps)
    return PhotoExif(
        orientation=orientation if orientation in range(1, 9) else 1,
        focal_ratio=_focal_ratio(detail, *image.size),
        focal_mm=_number(detail.get(Base.FocalLength)),
        lat=lat,
        lon=lon,
        alt=alt,
        taken_sec=_taken(main, detail),
        camera=_identity(main, detail),
    )


def _focal_ratio(detail: dict[int, Any], width: int, height: int) -> float | None:
    """Focal length over the long side.

    The focal plane's resolution is the finer measure but is wrong in some cameras, so it counts
    only when it is plausible and, where there is a 35 mm equivalent too, the two agree.
    """
    equivalent = _from_35mm(detail, width, height)
    measured = _from_focal_plane(detail, width, height)
    if measured is None:
        return equivalent
    if equivalent is not None and abs(measured / equivalent - 1) > _AGREE:
        return equivalent
    return measured


def _from_35mm(detail: dict[int, Any], width: int, height: int) -> float | None:
    focal = _number(detail.get(Base.FocalLengthIn35mmFilm))
    if not focal:
        return None
    return focal / _DIAGONAL_35MM * math.hypot(width, height) / max(width, height)


def _from_focal_plane(detail: dict[int, Any], width: int, height: int) -> float | None:
    focal = _number(detail.get(Base.FocalLength))
    resolution = _number(detail.get(Base.FocalPlaneXResolution))
    unit = _MM_PER_UNIT.get(detail.get(Base.FocalPlaneResolutionUnit, 2))
    if not focal or not resolution or unit is None:
        return None
    original = [_number(detail.get(tag)) for tag in (Base.ExifImageWidth, Base.ExifImageHeight)]
    # The resolution counts pixels of the picture the camera wrote, in its landscape position.
    long_side = max(side or 0 for side in original) or max(width, height)
    sensor_mm = long_side / resolution * unit
    if not _SENSOR_WIDTH_MM[0] <= sensor_mm <= _SENSOR_WIDTH_MM[1]:
        return None
    return focal / sensor_mm


def _position(gps: dict[int, Any]) -> tuple[float | None, float | None, float | None]:
    lat = _degrees(gps.get(GPS.GPSLatitude), gps.get(GPS.GPSLatitudeRef), "S", 90.0)
    lon = _degrees(gps.get(GPS.GPSLongitude), gps.get(GPS.GPSLongitudeRef), "W", 180.0)
    void = str(gps.get(GPS.GPSStatus, "A")).strip("\0 ").upper() == "V"
    # Receivers without a fix write zeros: nobody takes photos at 0° N 0° E.
    if lat is None or lon is None or void or (lat == 0.0 and lon == 0.0):
        return None, None, None
    alt = _number(gps.get(GPS.GPSAltitude))
    below = gps.get(GPS.GPSAltitudeRef) in (1, b"\x01", "1")
    return lat, lon, (-alt if below else alt) if alt is not None else None


def _degrees(value: Any, ref: Any, negative: str, limit: float) -> float | None:
    try:
        parts = [_number(part) for part in value]
    except TypeError:
        return None
    if not parts or len(parts) > 3 or any(part is None for part in parts):
        return None
    degrees = sum(part / 60**power for power, part in enumerate(parts) if part is not None)
    if degrees > limit:
        return None
    text = ref.decode("ascii", "ignore") if isinstance(ref, bytes) else str(ref)
    return -degrees if text.strip("\0 ").upper().startswith(negative) else degrees


def _taken(main: dict[int, Any], detail: dict[int, Any]) -> float | None:
    text = detail.get(Base.DateTimeOriginal) or main.get(Base.DateTime)
    try:
        moment = datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
    except ValueError:
        return None
    digits = str(detail.get(Base.SubsecTimeOriginal, "")).strip("\0 ")
    fraction = float(f"0.{digits}") if digits.isascii() and digits.isdigit() else 0.0
    return moment.replace(tzinfo=UTC).timestamp() + fraction


def _identity(main: dict[int, Any], detail: dict[int, Any]) -> str:
    tags = (main.get(Base.Make), main.get(Base.Model), detail.get(Base.BodySerialNumber))
    words = [" ".join(str(tag).replace("\0", " ").split()) for tag in tags if tag]
    if len(words) > 1 and words[1].lower().startswith(words[0].lower()):
        words = words[1:]  # "NIKON" "NIKON D3200"
    return " ".join(word for word in words if word)


def _number(value: Any) -> float | None:
    """A finite, non-negative number, or None (rationals such as 0/0 are common)."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and number >= 0 else None
