"""Where the registry's files stand: a local folder, or a bucket that several hosts share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from splat_assets.artifacts.bucket import READERS, Bucket
from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.errors import UserError
from splat_assets.isolation import exclusive
from splat_assets.progress import silent

T = TypeVar("T")


class Shelf(Protocol):
    """Small text files by name. `str()` says where, for people."""

    def names(self) -> list[str]:
        """Names of all files, sorted, but hidden ones."""
        ...

    def read(self, name: str) -> str | None:
        """The text of a file; None when there is none. `UserError` when it cannot be read."""
        ...

    def write(self, name: str, text: str) -> None:
        """Replace a file, or make it; readers see the old text or the new."""
        ...

    def create(self, name: str, text: str) -> bool:
        """Make a file; False when there is one already, also when just made by another host."""
        ...

    def delete(self, name: str) -> None:
        """Delete a file; missing is fine."""
        ...

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """Be the only writer, as far as this shelf can tell."""
        ...

    def each(self, work: Callable[[str], T], names: Sequence[str]) -> Iterable[T]:
        """`work`, which reads a file or two, for every name; several at a time where that pays."""
        ...


def open_shelf(place: Path | str) -> Shelf:
    """The shelf at a local path or fsspec URL; nothing is created before it is needed."""
    if "://" in str(place):
        return BucketShelf(Bucket(str(place).rstrip("/")))
    return FolderShelf(Path(place))


@dataclass(frozen=True)
class FolderShelf:
    """Files of a local folder; writers take turns by a file lock."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def names(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        return sorted(p.name for p in self.folder.iterdir() if not p.name.startswith("."))

    def read(self, name: str) -> str | None:
        try:
            return (self.folder / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"{self.folder / name} cannot be read ({error}); mend or remove it."
            ) from None

    def write(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text_atomic(self.folder / name, text)

    def create(self, name: str, text: str) -> bool:
        if (self.folder / name).exists():  # the caller is alone
            return False
        self.write(name, text)
        return True

    def delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".lock", silent()):
            yield

    def each(self, work: Callable[[str], T], names: Sequence[str]) -> Iterable[T]:
        return map(work, names)


@dataclass(frozen=True)
class BucketShelf:
    """Objects of a bucket. There is no lock: `create` is exclusive where the storage can say so."""

    bucket: Bucket

    def __str__(self) -> str:
        return self.bucket.url

    def names(self) -> list[str]:
        found = self.bucket.names()
        return [name for name, is_folder in found if not is_folder and not name.startswith(".")]

    def read(self, name: str) -> str | None:
        try:
            return self.bucket.read_text(name)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{self.bucket.url}/{name} cannot be read ({error}); mend or remove it."
            ) from None

    def write(self, name: str, text: str) -> None:
        self.bucket.write_text(text, name)

    def create(self, name: str, text: str) -> bool:
        return self.bucket.create_text(text, name)

    def delete(self, name: str) -> None:
        self.bucket.delete(name)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        yield

    def each(self, work: Callable[[str], T], names: Sequence[str]) -> Iterable[T]:
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(work, names))
