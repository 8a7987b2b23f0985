"""What a file is, by its name and by its first bytes, and which files of a folder matter at all."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

# What Pillow and PyAV open without plugins.
IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"))
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"))
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
MASK_FOLDERS = frozenset(("masks", "mask"))
# Pictures that are not photographs of the scene, and so no frames.
AUXILIARY_FOLDERS = frozenset(("depth", "depths", "depth_maps", "normal", "normals", "semantics"))
SPARSE_SUFFIXES = frozenset((".bin", ".txt"))
SPARSE_STEMS = frozenset(("cameras", "images", "points3d", "rigs", "frames"))
DOCUMENT_STEMS = frozenset(("readme", "license", "licence", "attribution", "citation", "copying"))
# `imagefolder` keeps one of these beside the pictures it describes.
TABLES = frozenset(("metadata.csv", "metadata.jsonl"))
JUNK = frozenset(("thumbs.db", "desktop.ini", "__macosx"))

# Splats in other forms than a PLY, and the document of a SOG that is a folder of pictures.
PACKED_SPLAT_SUFFIXES = frozenset((".sog", ".spz", ".splat", ".ksplat"))
SOG_DOCUMENTS = frozenset(("meta.json", "lod-meta.json"))

Sniffed = Literal["zip", "tar", "image", "video", "ply", "html", "parquet", ""]
SNIFF_BYTES = 1024


def suffix(path: str) -> str:
    """The last suffix in lower case: `.JPG` → `.jpg`."""
    return PurePosixPath(path).suffix.lower()


def is_image(path: str) -> bool:
    return suffix(path) in IMAGE_SUFFIXES


def is_video(path: str) -> bool:
    return suffix(path) in VIDEO_SUFFIXES


def is_archive(path: str) -> bool:
    return path.lower().endswith(ARCHIVE_SUFFIXES)


def is_mask(path: str) -> bool:
    """True for an image below a `masks/` folder."""
    return is_image(path) and not MASK_FOLDERS.isdisjoint(_folders(path))


def is_auxiliary(path: str) -> bool:
    """True for depth maps, normals and the like, by their folder."""
    return not AUXILIARY_FOLDERS.isdisjoint(_folders(path))


def is_sparse(path: str) -> bool:
    """True for a file of a COLMAP model (`cameras.bin`, `images.txt`, …)."""
    pure = PurePosixPath(path)
    return pure.suffix.lower() in SPARSE_SUFFIXES and pure.stem.lower() in SPARSE_STEMS


def is_transforms(path: str) -> bool:
    """True for nerfstudio's `transforms.json` and NeRF synthetic's `transforms_<split>.json`."""
    name = PurePosixPath(path).name
    return name.startswith("transforms") and name.endswith(".json")


def is_document(path: str) -> bool:
    """True for a README, licence or attribution at the top or beside the pictures."""
    name = PurePosixPath(path).name.lower()
    return name.split(".")[0].split("-")[0].split("_")[0] in DOCUMENT_STEMS and suffix(path) in (
        "",
        ".md",
        ".txt",
        ".rst",
    )


def is_table(path: str) -> bool:
    return PurePosixPath(path).name.lower() in TABLES


def is_robot_meta(path: str) -> bool:
    """True for the JSON files of a LeRobot dataset's `meta/`; its parquet files count anyway."""
    return PurePosixPath(path).parent.name == "meta" and suffix(path) in (".json", ".jsonl")


def is_packed_splat(path: str) -> bool:
    """True for a file that holds a splat in another form than a PLY."""
    return suffix(path) in PACKED_SPLAT_SUFFIXES


def is_sog_document(path: str) -> bool:
    """True for the document of an unbundled or streamed SOG, by its name."""
    return PurePosixPath(path).name in SOG_DOCUMENTS


def is_parquet(path: str) -> bool:
    return suffix(path) == ".parquet"


def is_of_interest(path: str) -> bool:
    """True when a file by this name could be part of a dataset of ours."""
    return (
        is_image(path)
        or is_video(path)
        or is_sparse(path)
        or is_transforms(path)
        or is_document(path)
        or is_table(path)
        or is_robot_meta(path)
        or is_packed_splat(path)
        or is_sog_document(path)
        or PurePosixPath(path).name == "test.txt"
        or suffix(path) in (".ply", ".parquet")
    )


def is_junk(path: str) -> bool:
    """True for hidden files and what operating systems leave behind (`__MACOSX`, `Thumbs.db`)."""
    parts = PurePosixPath(path).parts
    return any(part.startswith(".") or part.lower() in JUNK for part in parts)


def is_wanted(path: str, include: Iterable[str], exclude: Iterable[str]) -> bool:
    """Apply `include` and `exclude` globs; `*` also crosses `/`, and `dir/` means all below it."""
    wanted = tuple(include)
    if wanted and not any(_matches(path, pattern) for pattern in wanted):
        return False
    return not any(_matches(path, pattern) for pattern in exclude)


def sniff(head: bytes) -> Sniffed:
    """What a file is by its first `SNIFF_BYTES` bytes; "" when nothing we know."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")) or head[257:262] == b"ustar":
        return "tar"
    if image_suffix(head):
        return "image"
    if video_suffix(head):
        return "video"
    if head.startswith((b"ply\n", b"ply\r")):
        return "ply"
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<!--")):
        return "html"
    return ""


def image_suffix(head: bytes) -> str:
    """The suffix that fits an image's first bytes, or ""."""
    if head.startswith(b"\xff\xd8\xff"):
        return ".jpg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return ".png"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return ".webp"
    if head.startswith((b"II*\x00", b"MM\x00*")):
        return ".tif"
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0":
        return ".bmp"
    return ""


def video_suffix(head: bytes) -> str:
    """The suffix that fits a video's first bytes, or ""."""
    if head[4:8] == b"ftyp" and head[8:12] not in (b"heic", b"heix", b"mif1", b"avif", b"M4A "):
        return ".mov" if head[8:12] == b"qt  " else ".mp4"
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip") and len(head) > 8:
        return ".mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return ".webm" if b"webm" in head[:64] else ".mkv"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return ".avi"
    return ""


def human_bytes(count: float) -> str:
    """`1234567` → `1.2 MB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def _folders(path: str) -> set[str]:
    return {part.lower() for part in PurePosixPath(path).parts[:-1]}


def _matches(path: str, pattern: str) -> bool:
    if pattern.endswith("/"):
        pattern += "*"
    return fnmatchcase(path, pattern) or fnmatchcase(PurePosixPath(path).name, pattern)
