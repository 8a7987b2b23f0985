"""What the stand-in for the Hub serves: repositories of commits, whose files lie on disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

LFS_FROM_BYTES = 100_000  # larger files are "LFS": identified by sha256, ETag is the sha256


@dataclass(frozen=True)
class Blob:
    """One file of one commit."""

    path: Path
    size: int
    git_oid: str
    sha256: str

    @property
    def is_lfs(self) -> bool:
        return self.size >= LFS_FROM_BYTES

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid


@dataclass(frozen=True)
class Commit:
    sha: str
    files: dict[str, Blob]
    modified: str


@dataclass
class Repo:
    """A repository; `commits` grows with `HubStandIn.commit`, the last one is `main`.

    `hub_id` is the Hub's own `_id`, which outlives a rename.
    """

    repo_id: str
    hub_id: str
    commits: list[Commit] = field(default_factory=list)
    token: str | None = None  # private: only with this bearer token
    gated: bool = False  # listed for all, files only with `token`
    disabled: bool = False
    tags: tuple[str, ...] = ()
    refs: dict[str, str] = field(default_factory=dict)  # tag or branch → sha
    used_storage: int | None = None  # bytes of all commits; default: of the newest

    def find(self, revision: str) -> Commit | None:
        wanted = self.refs.get(revision, revision)
        if wanted == "main" and self.commits:
            return self.commits[-1]
        return next((c for c in self.commits if c.sha == wanted), None)


def read_blobs(folder: Path) -> dict[str, Blob]:
    """The files below a folder by their path in the repository."""
    return {
        path.relative_to(folder).as_posix(): _blob(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _blob(path: Path) -> Blob:
    data = path.read_bytes()
    git_oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    return Blob(path, len(data), git_oid, hashlib.sha256(data).hexdigest())


def card(commit: Commit) -> dict[str, Any] | None:
    """The metadata at the top of the commit's README.md."""
    readme = commit.files.get("README.md")
    if readme is None:
        return None
    text = readme.path.read_text(encoding="utf-8")
    if not text.startswith("---\n"):
        return None
    card = yaml.safe_load(text.split("---\n")[1])
    return card if isinstance(card, dict) else None
