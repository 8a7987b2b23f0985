"""The watch list, `watch.yaml` in the data root: which repositories and folders become datasets.

    hub:
      - name: robots
        author: lerobot
        tags: [LeRobot]
        preset: preview
        max_gb: 5
    drop_boxes:
      - name: inbox
        path: /photos/inbox

A person edits the file, or `splat-assets watch` does; it is read anew on every tick.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from splat_assets.datasets.presets import PresetName
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.shelf import Shelf, open_shelf
from splat_assets.datasets.spec import check_slug, explain, make_spec, slugify
from splat_assets.errors import UserError

WATCH_FILE = "watch.yaml"
MAX_RUNS_PER_TICK = 25  # Dagster creates about one run a second
MAX_WATCHES = 200


class Watch(BaseModel):
    """What every entry has: a name, and how the datasets found are to be made."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field("", description="to tell entries apart; default: made from what is watched")
    preset: PresetName = "preview"
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="options of the datasets: stage → option → value"
    )
    launch: bool = Field(
        True, description="reconstruct what is found; false: only register it, for a backfill"
    )
    runs_per_tick: int = Field(
        MAX_RUNS_PER_TICK, ge=1, le=MAX_RUNS_PER_TICK, description="new runs at once at most"
    )
    runs_per_hour: int | None = Field(None, ge=1, description="new runs in any hour at most")

    @property
    def label(self) -> str:
        """What is watched, in a few words."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _options_exist(self) -> Self:
        try:
            make_spec(name="x", source="x", preset=self.preset, options=self.options)
        except UserError as error:
            raise ValueError(str(error).removeprefix("Dataset 'x': ").rstrip(".")) from None
        return self

    @field_validator("name")
    @classmethod
    def _name_is_slug(cls, value: str) -> str:
        return check_slug(value) if value else value


class HubWatch(Watch):
    """Dataset repositories of the Hugging Face Hub: by exact names, or all that match."""

    author: str | None = Field(None, min_length=1, description="user or organisation")
    search: str | None = Field(None, min_length=1, description="text in the repository's name")
    tags: tuple[str, ...] = Field((), description="tags the Hub knows (LeRobot, modality:3d)")
    repos: tuple[str, ...] = Field((), description="exact names, org/name, instead of the above")
    exclude: tuple[str, ...] = Field((), description="globs of names to leave out")
    max_gb: float = Field(20.0, gt=0, description="larger repositories are left out (1e9 bytes)")

    @property
    def label(self) -> str:
        if self.repos:
            return ", ".join(self.repos[:3]) + (", …" if len(self.repos) > 3 else "")
        parts = [f"author {self.author}"] if self.author else []
        parts += [f"search {self.search!r}"] if self.search else []
        parts += [f"tag {tag}" for tag in self.tags]
        return ", ".join(parts)

    @property
    def query_key(self) -> str:
        """Changes when the entry asks for other repositories, so that listing starts anew."""
        asked = [self.author, self.search, sorted(self.tags), sorted(self.repos)]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]

    def wants(self, repo: str) -> bool:
        return not any(fnmatchcase(repo, pattern) for pattern in self.exclude)

    @field_validator("repos")
    @classmethod
    def _names_of_repositories(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from splat_assets.sources.uri import parse_source

        for repo in value:
            try:
                found = parse_source("hf://datasets/" + repo)
            except UserError as error:
                raise ValueError(str(error).rstrip(".")) from None
            if found.location != repo:
                raise ValueError(f"{repo!r} is not org/name; put revision or folder in a dataset")
        return value

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        query = self.author or self.search or self.tags
        if not self.repos and not query:
            raise ValueError("name an author, a search text, tags, or repos")
        if self.repos and query:
            raise ValueError("give either repos or a query (author, search, tags), not both")
        return self


class DropBox(Watch):
    """A folder, or a prefix of a bucket, into which people put archives, videos and folders."""

    path: str = Field(min_length=1, description="a folder or an fsspec URL (s3://bucket/inbox)")
    settle_sec: float = Field(
        30.0, ge=0, description="seconds in which nothing may change, over two ticks at least"
    )

    @property
    def label(self) -> str:
        return self.path

    @field_validator("path")
    @classmethod
    def _path_is_absolute(cls, value: str) -> str:
        if "://" in value:
            return value.rstrip("/")
        path = Path(value).expanduser()
        if not path.is_absolute():
            raise ValueError(f"the folder {value!r} must be named from the root: /photos/inbox")
        return str(path)


class Limits(BaseModel):
    """What holds for all entries together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_queued_runs: int = Field(
        100, ge=1, description="no new runs while so many of ours wait for their turn"
    )
    sweep_hours: float = Field(
        24.0, gt=0, description="how often everything is listed again, for repos gone or retagged"
    )


AnyWatch = TypeVar("AnyWatch", HubWatch, DropBox)


@dataclass(frozen=True)
class WatchList:
    """The entries that can be used, and what is wrong with the others."""

    hub: tuple[HubWatch, ...] = ()
    drop_boxes: tuple[DropBox, ...] = ()
    limits: Limits = field(default_factory=Limits)
    problems: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[HubWatch | DropBox]:
        yield from self.hub
        yield from self.drop_boxes

    def to_yaml(self) -> str:
        parts: dict[str, Any] = {
            "hub": [_plain(watch) for watch in self.hub],
            "drop_boxes": [_plain(box) for box in self.drop_boxes],
            "limits": _plain(self.limits),
        }
        kept = {key: value for key, value in parts.items() if value}
        return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True) if kept else ""


@dataclass(frozen=True)
class WatchFile:
    """`watch.yaml` beside a registry: in the data root, which may be in a bucket."""

    shelf: Shelf

    @classmethod
    def of(cls, registry: Registry) -> Self:
        return cls(open_shelf(str(registry.folder).rstrip("/").rpartition("/")[0]))

    def __str__(self) -> str:
        return f"{self.shelf}/{WATCH_FILE}"

    def load(self) -> WatchList:
        """Read the file; no file is an empty list. A faulty entry is named in `problems`.

        Raises `UserError` when the file as a whole cannot be used.
        """
        text = self.shelf.read(WATCH_FILE)
        return WatchList() if text is None else parse_watch_list(text, str(self))

    def add(self, watch: HubWatch | DropBox) -> HubWatch | DropBox:
        """Append an entry to the file and return it with its name. Comments are lost.

        Raises `UserError` when its name is taken, or the file has faults that writing would lose.
        """
        with self.shelf.alone():
            known = self._load_whole()
            names = {entry.name for entry in known}
            if watch.name in names:
                raise UserError(f"{self} has an entry {watch.name!r} already; choose another name.")
            if any(_same_place(entry, watch) for entry in known):
                raise UserError(f"{self} watches {watch.label} already; edit that entry.")
            if not watch.name:
                watch = watch.model_copy(update={"name": _name_for(watch, names)})
            hub, boxes = known.hub, known.drop_boxes
            if isinstance(watch, HubWatch):
                hub = (*hub, watch)
            else:
                boxes = (*boxes, watch)
            self.shelf.write(WATCH_FILE, WatchList(hub, boxes, known.limits).to_yaml())
        return watch

    def remove(self, name: str) -> HubWatch | DropBox:
        """Take an entry out of the file and return it; its datasets stay. Raises `UserError`."""
        with self.shelf.alone():
            known = self._load_whole()
            gone = next((entry for entry in known if entry.name == name), None)
            if gone is None:
                listed = ", ".join(entry.name for entry in known) or "none"
                raise UserError(f"{self} has no entry {name!r}; the entries are: {listed}.")
            hub = tuple(entry for entry in known.hub if entry.name != name)
            boxes = tuple(entry for entry in known.drop_boxes if entry.name != name)
            self.shelf.write(WATCH_FILE, WatchList(hub, boxes, known.limits).to_yaml())
        return gone

    def _load_whole(self) -> WatchList:
        known = self.load()
        if known.problems:
            raise UserError(known.problems[0] + " Mend this first.")
        return known


def parse_watch_list(text: str, where: str) -> WatchList:
    """As `WatchFile.load`, from the text; `where` names the file in errors."""
    try:
        raw = yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    known = ("hub", "drop_boxes", "limits")
    if not isinstance(raw, dict) or not set(raw) <= set(known):
        raise UserError(f"{where} must be a mapping with {', '.join(known)} and nothing else.")
    problems: list[str] = []
    try:
        limits = Limits(**(raw.get("limits") or {}))
    except (ValidationError, TypeError) as error:
        limits = Limits()
        problems.append(f"{where}: limits: {_explain(error)}")
    names: set[str] = set()
    hub = _entries(HubWatch, raw.get("hub"), f"{where}: hub", names, problems)
    boxes = _entries(DropBox, raw.get("drop_boxes"), f"{where}: drop_boxes", names, problems)
    return WatchList(hub, boxes, limits, tuple(problems))


def make_watch(kind: type[AnyWatch], **values: Any) -> AnyWatch:
    """An entry from plain values. Raises `UserError` in one sentence."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise UserError(f"Watch: {_explain(error)}") from None


def _entries(
    kind: type[AnyWatch], raw: object, where: str, names: set[str], problems: list[str]
) -> tuple[AnyWatch, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        problems.append(f"{where} must be a list of entries.")
        return ()
    found: list[AnyWatch] = []
    for number, values in enumerate(raw, 1):
        place = f"{where}, entry {number}"
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            problems.append(f"{place} must be a mapping.")
            continue
        if len(names) >= MAX_WATCHES:
            problems.append(f"{place}: at most {MAX_WATCHES} entries are watched.")
            break
        try:
            entry = kind(**values)
        except ValidationError as error:
            problems.append(f"{place}: {_explain(error)}")
            continue
        if not entry.name:
            entry = entry.model_copy(update={"name": _name_for(entry, names)})
        if entry.name in names:
            problems.append(f"{place}: the name {entry.name!r} is used twice.")
            continue
        names.add(entry.name)
        found.append(entry)
    return tuple(found)


def _name_for(watch: HubWatch | DropBox, taken: set[str]) -> str:
    """A free name made from what is watched."""
    if isinstance(watch, DropBox):
        text = watch.path.rsplit("/", 1)[-1] or "drop-box"
    elif watch.repos:
        text = watch.repos[0]
    else:
        text = "-".join(filter(None, (watch.author, watch.search, *watch.tags)))
    try:
        slug = slugify(text)
    except UserError:
        slug = "watch"
    name, number = slug, 2
    while name in taken:
        name, number = f"{slug[:90]}-{number}", number + 1
    return name


def _same_place(one: HubWatch | DropBox, other: HubWatch | DropBox) -> bool:
    if isinstance(one, HubWatch) and isinstance(other, HubWatch):
        return one.query_key == other.query_key
    if isinstance(one, DropBox) and isinstance(other, DropBox):
        return one.path == other.path
    return False


def _plain(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_defaults=True)


def _explain(error: ValidationError | TypeError) -> str:
    return explain(error) if isinstance(error, ValidationError) else "it must be a mapping."
