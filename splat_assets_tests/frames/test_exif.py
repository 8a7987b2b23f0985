"""Focal length, position and orientation from EXIF, against numbers worked out by hand."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base
from PIL.TiffImagePlugin import IFDRational

from splat_assets.frames.exif import PhotoExif, read_exif
from splat_assets_tests.paths import shared_data


def read(
    size: tuple[int, int] = (400, 300),
    main: dict[int, Any] | None = None,
    detail: dict[int, Any] | None = None,
    gps: dict[int, Any] | None = None,
) -> PhotoExif:
    exif = Image.Exif()
    exif.update(main or {})
    exif.get_ifd(IFD.Exif).update(detail or {})
    exif.get_ifd(IFD.GPSInfo).update(gps or {})
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "JPEG", exif=exif)
    return read_exif(Image.open(buffer))


def test_35mm_equivalent_is_over_the_diagonal() -> None:
    exif = read(detail={Base.FocalLengthIn35mmFilm: 26})
    assert exif.focal_ratio == pytest.approx(26 / 43.2666 * 500 / 400, rel=1e-4)


def test_focal_plane_resolution_counts_pixels_of_the_original_size() -> None:
    detail = {
        Base.FocalLength: 4.5,
        Base.FocalPlaneXResolution: 4000 / 6.2,
        Base.FocalPlaneResolutionUnit: 4,  # millimetres
        Base.ExifImageWidth: 4000,  # the photo here is 400 wide: it was resized
        Base.ExifImageHeight: 3000,
    }
    assert read(detail=detail).focal_ratio == pytest.approx(4.5 / 6.2, rel=1e-4)
    # a portrait photo has the same ratio to its long side
    assert read(size=(300, 400), detail=detail).focal_ratio == pytest.approx(4.5 / 6.2, rel=1e-4)


def test_implausible_or_contradicting_focal_plane_is_ignored() -> None:
    plane = {Base.FocalLength: 4.5, Base.FocalPlaneXResolution: 10.0, Base.ExifImageWidth: 4000}
    assert read(detail=plane).focal_ratio is None
    both = {
        Base.FocalLength: 50.0,
        Base.FocalLengthIn35mmFilm: 50,
        Base.FocalPlaneXResolution: 4000 / 10.0,
        Base.FocalPlaneResolutionUnit: 4,
        Base.ExifImageWidth: 4000,
    }
    assert read(detail=both).focal_ratio == pytest.approx(50 / 43.2666 * 1.25, rel=1e-4)


def test_position_with_hemispheres_and_depth() -> None:
    gps = {
        GPS.GPSLatitudeRef: "S",
        GPS.GPSLatitude: (33.0, 51.0, 24.0),
        GPS.GPSLongitudeRef: "W",
        GPS.GPSLongitude: (70.0, 30.0, 0.0),
        GPS.GPSAltitudeRef: b"\x01",
        GPS.GPSAltitude: 12.5,
    }
    exif = read(gps=gps)
    assert exif.lat == pytest.approx(-33.856667, abs=1e-6)
    assert (exif.lon, exif.alt) == (pytest.approx(-70.5), pytest.approx(-12.5))


@pytest.mark.parametrize(
    "change",
    [
        {GPS.GPSLatitude: (IFDRational(0, 0), IFDRational(0, 0), IFDRational(0, 0))},
        {GPS.GPSLatitude: (0.0, 0.0, 0.0), GPS.GPSLongitude: (0.0, 0.0, 0.0)},
        {GPS.GPSLatitude: (95.0, 0.0, 0.0)},
        {GPS.GPSStatus: "V"},
    ],
)
def test_a_receiver_without_a_fix_gives_no_position(change: dict[int, Any]) -> None:
    good = {
        GPS.GPSLatitudeRef: "N",
        GPS.GPSLatitude: (10.0, 0.0, 0.0),
        GPS.GPSLongitudeRef: "E",
        GPS.GPSLongitude: (20.0, 0.0, 0.0),
    }
    assert read(gps=good).lat == pytest.approx(10.0)
    assert read(gps={**good, **change}).lat is None


def test_time_identity_and_nonsense() -> None:
    exif = read(
        main={Base.Make: "NIKON", Base.Model: "NIKON D3200", Base.Orientation: 6},
        detail={Base.DateTimeOriginal: "1970:01:01 00:01:00", Base.SubsecTimeOriginal: "25"},
    )
    assert (exif.taken_sec, exif.camera, exif.orientation) == (60.25, "NIKON D3200", 6)
    assert read(main={Base.Orientation: 77, Base.DateTime: "yesterday"}) == PhotoExif(
        1, None, None, None, None, None, None, ""
    )


def test_real_cameras() -> None:
    with Image.open(shared_data("photos_banana", "dsc_0423.jpg")) as nikon:
        ratio = read_exif(nikon).focal_ratio
        assert ratio is not None
        assert ratio == pytest.approx(40 / 23.2, rel=0.05)  # 40 mm on a 23.2 mm wide sensor
    with Image.open(shared_data("drone_caliterra", "IMG_9385.jpg")) as canon:
        exif = read_exif(canon)
        assert exif.focal_ratio == pytest.approx(4.5 / 6.17, rel=0.02)  # 1/2.3" sensor
        assert (exif.lat, exif.lon, exif.alt) == (
            pytest.approx(30.170807, abs=1e-6),
            pytest.approx(-98.08953, abs=1e-6),
            380.5,
        )
