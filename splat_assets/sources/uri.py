"""Source texts: what a user may type for a dataset, and what it refers to.

`org/name`, `hf://datasets/org/name[@revision][/folder]`, a folder, an archive, a video, a splat
file, an http(s) URL, or a file or folder of a bucket (`s3://…`). A local path that exists wins over
a repository of the same name.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from splat_assets.datasets.spec import slugify
from splat_assets.errors import SourceError
from splat_assets.sources import media

# "ply" stands for a splat file of any format
Kind = Literal["folder", "archive", "video", "url", "hub", "bucket", "colmap", "nerfstudio", "ply"]
RepoType = Literal["dataset", "model"]

HUB_URL = "https://huggingface.co"
# fsspec knows more; these need no credentials in the URL
BUCKETS = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "r2", "memory"))
_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}/{_PART}")
_SPECIAL_REVISION = re.compile(r"refs/(?:convert|pr)/[^/]+")
_FORMS = (
    "a source is org/name or hf://datasets/org/name on the Hugging Face Hub, a folder, "
    "a .zip or .tar archive, a video, a splat (.ply, .sog, .spz, .splat, .ksplat), an "
    "http(s) URL, or a file or folder of a bucket (s3://…)"
)


@dataclass(frozen=True)
class SourceRef:
    """A parsed source.

    `location` is an absolute local path, a URL, or a repository id (`org/name`); the other fields
    are for repositories: `revision` ("" for the default branch) and `folder` ("" for all of it).
    """

    kind: Kind
    location: str
    revision: str = ""
    folder: str = ""
    repo_type: RepoType = "dataset"

    @property
    def uri(self) -> str:
        """The canonical text: parsing it again gives an equal reference from any folder."""
        if self.kind != "hub":
            return self.location
        revision = "@" + self.revision.replace("/", "%2F") if self.revision else ""
        folder = "/" + self.folder if self.folder else ""
        return f"hf://{self.repo_type}s/{self.location}{revision}{folder}"

    @property
    def label(self) -> str:
        """The text to show: as `uri`, without a user name or password in a URL."""
        if self.kind != "url":
            return self.uri
        parts = urlsplit(self.location)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    @property
    def path(self) -> Path:
        """The local path; only of local kinds."""
        return Path(self.location)


def parse_source(text: str) -> SourceRef:
    """What a source text refers to. Local files are looked at; nothing is read from the network.

    Raises:
        SourceError: no such file, an unknown form, or a file that is no source; one sentence.
    """
    text = text.strip()
    if not text:
        raise SourceError(f"The source is empty; {_FORMS}.")
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme == "hf":
        return _parse_hub(text)
    if scheme in ("http", "https"):
        return _parse_url(text)
    if scheme in BUCKETS:
        return _parse_bucket(text)
    if scheme == "file":
        return _parse_local(Path(unquote(urlsplit(text).path)))
    if scheme:
        raise SourceError(f"{scheme}:// is not a place that sources are read from; {_FORMS}.")
    path = Path(text).expanduser()
    if _exists(path):
        return _parse_local(path)
    if _REPO.fullmatch(text.partition("@")[0]) and not _looks_like_file(text):
        return _parse_hub("hf://datasets/" + text)
    raise SourceError(f"There is no file or folder {text!r} here, and {_FORMS}.")


def default_name(source: str | SourceRef) -> str:
    """A slug for a source: `org/name` → `org--name`, `/photos/My Garden.zip` → `my-garden`.

    Raises `UserError` when nothing usable is left of the text.
    """
    ref = parse_source(source) if isinstance(source, str) else source
    if ref.kind == "hub":
        return slugify(ref.location + ("/" + ref.folder if ref.folder else ""))
    if ref.kind == "url":
        parts = urlsplit(ref.location)
        return slugify(_stem(unquote(parts.path)) or parts.hostname or ref.location)
    if ref.kind == "bucket":
        return slugify(_stem(ref.location))
    return slugify(ref.path.name if ref.path.is_dir() else _stem(ref.location))


def _parse_hub(text: str) -> SourceRef:
    body = text.removeprefix("hf://")
    if body.startswith("spaces/"):
        raise SourceError(f"{text} is a space; only datasets and models hold pictures.")
    repo_type: RepoType = "model" if body.startswith("models/") else "dataset"
    body = body.removeprefix("datasets/").removeprefix("models/").strip("/")
    at = re.match(r"[^/@]+/[^/@]+", body)
    repo = at[0] if at else body
    if not _REPO.fullmatch(repo) or "--" in repo or ".." in repo:
        raise SourceError(
            f"{repo!r} is not a repository name; it is org/name, of letters, digits, '-', '_', '.'."
        )
    rest = body[len(repo) :]
    revision = ""
    if rest.startswith("@"):
        special = _SPECIAL_REVISION.match(rest[1:])
        revision = special[0] if special else rest[1:].split("/")[0]
        rest = rest[1 + len(revision) :]
        if not revision:
            raise SourceError(f"{text} ends in '@' without a revision.")
    folder = unquote(rest).strip("/")
    if ".." in PurePosixPath(folder).parts:
        raise SourceError(f"{text} points outside of its repository.")
    return SourceRef("hub", repo, unquote(revision), folder, repo_type)


def _parse_url(text: str) -> SourceRef:
    """A plain URL, or the page of a repository on the Hub (its files keep being plain URLs)."""
    try:
        parts = urlsplit(text)
        host = parts.hostname
    except ValueError:
        host = None
    if not host or any(char.isspace() for char in text):
        raise SourceError(f"{text!r} is not a valid URL.")
    hub_host = urlsplit(os.environ.get("HF_ENDPOINT") or HUB_URL).netloc
    if parts.netloc in (hub_host, urlsplit(HUB_URL).netloc):
        page = re.fullmatch(
            r"/datasets/([^/]+/[^/]+)(?:/tree/([^/]+)(/.+)?)?/?", parts.path.rstrip("/")
        )
        if page:
            revision = "@" + page[2] if page[2] else ""
            return _parse_hub(f"hf://datasets/{page[1]}{revision}{page[3] or ''}")
    return SourceRef("url", text)


def _parse_bucket(text: str) -> SourceRef:
    parts = text.partition("://")[2].strip("/").split("/")
    if len(parts) < 2 or not all(parts):
        raise SourceError(f"{text} names no file or folder of a bucket; it is s3://bucket/name.")
    if ".." in parts:
        raise SourceError(f"{text} points outside of its bucket.")
    return SourceRef("bucket", text.rstrip("/"))


def _parse_local(path: Path) -> SourceRef:
    path = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow links)
    location = str(path)
    try:
        if path.is_dir():
            return SourceRef(_kind_of_folder(path), location)
        if not path.is_file():
            raise SourceError(f"{path} is neither a file nor a folder.")
        with path.open("rb") as stream:
            head = stream.read(media.SNIFF_BYTES)
    except PermissionError:
        raise SourceError(f"{path} may not be read by this user; change its permissions.") from None
    except FileNotFoundError:
        raise SourceError(f"There is no file or folder {location!r}.") from None
    if not head:
        raise SourceError(f"{path} is empty (0 bytes).")
    sniffed = media.sniff(head)
    if media.is_packed_splat(location):
        return SourceRef("ply", location)
    if sniffed in ("zip", "tar") or media.is_archive(location):
        return SourceRef("archive", location)
    if sniffed == "ply" or media.suffix(location) == ".ply":
        return SourceRef("ply", location)
    if sniffed == "image" or media.is_image(location):
        raise SourceError(f"{path} is one photo; give the folder with all photos of the scene.")
    if sniffed == "video" or media.is_video(location):
        return SourceRef("video", location)
    raise SourceError(f"{path} is no archive, video or splat; {_FORMS}.")


def _kind_of_folder(path: Path) -> Kind:
    """A first look by names; the fetch checks the content."""
    if (path / "transforms_train.json").is_file():
        return "nerfstudio"
    for model in ("sparse/0", "sparse", "colmap/sparse/0", "colmap/sparse", "colmap", "."):
        if any((path / model / f"images{suffix}").is_file() for suffix in (".bin", ".txt")):
            return "colmap"
    return "nerfstudio" if (path / "transforms.json").is_file() else "folder"


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, or with a NUL
        return False


def _looks_like_file(text: str) -> bool:
    return media.is_archive(text) or media.is_of_interest(text)


def _stem(path: str) -> str:
    """The last part of a path without the suffixes we know (`.tar.gz` is one)."""
    name = PurePosixPath(path).name
    for known in sorted(media.ARCHIVE_SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(known):
            return name[: -len(known)]
    return PurePosixPath(name).stem if media.is_of_interest(name) else name
