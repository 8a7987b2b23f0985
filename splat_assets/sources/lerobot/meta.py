"""`meta/` of a LeRobot dataset: its cameras, its episodes, and where each episode's frames lie.

Formats: LeRobot v2.0 and v2.1 (a parquet file an episode, a video an episode and camera) and v3.0
(shards that many episodes share, each having a span of the shard); huggingface.co/docs/lerobot.
Paths come from the templates in `info.json`. Statistics are not read.
"""

from __future__ import annotations

import io
import json
import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from splat_assets.errors import SourceError
from splat_assets.sources.posed import Reader

if TYPE_CHECKING:
    import pandas as pd

VERSIONS = ("v2.0", "v2.1", "v3.0")
INFO = "meta/info.json"
_SIGNS = re.compile(
    r"(?P<root>(?:.*/)?)meta/(?:info\.json|(?:episodes|tasks)\.jsonl|tasks\.parquet|"
    r"episodes/.*\.parquet)"
)
_EPISODE_FILES = re.compile(r"meta/episodes/.*\.parquet")
_DEFAULT_PATHS = {
    "v2": (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ),
    "v3": (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ),
}
_OF_SPAN = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
_NO_PHOTO = (  # what a feature of pictures holds that is no photograph, by its name
    ("depth", re.compile(r"depth|disparity")),
    ("masks", re.compile(r"mask|segmentation|semantic")),
    ("normals", re.compile(r"normals?(?![a-z])")),
)
# a template is a stranger's format string: only plain fields, of widths that make sense
_TEMPLATE = re.compile(r"(?:[^{}]|\{[a-z_]+(?::0?\d{1,2}d)?\})*")
_TASKS = 20  # kept for the summary


@dataclass(frozen=True)
class Camera:
    """A feature of pictures."""

    key: str  # the feature's name: observation.images.wrist
    kind: Literal["video", "image"]  # frames of mp4 files, or encoded pictures in the data parquet
    width: int  # pixels as `info.json` says them; 0 where it does not
    height: int
    holds: str = ""  # "depth", "masks", "normals"; "" for photographs

    @property
    def name(self) -> str:
        """The key without what all cameras' keys begin with: `wrist`."""
        return re.sub(r"^observation\.(?:images?\.)?", "", self.key) or self.key


@dataclass(frozen=True)
class Span:
    """Where an episode's frames lie; frame i is shown at `start_sec` + timestamp of row i."""

    file: str  # POSIX path below the source's top
    start_sec: float
    end_sec: float | None  # None: the file is this episode's alone


@dataclass(frozen=True)
class Episode:
    """One episode: `length` rows of `data_file`, and a span per video camera's key."""

    index: int
    length: int
    data_file: str
    videos: dict[str, Span]


@dataclass(frozen=True)
class LeRobotMeta:
    """What `meta/` says. `table` has a row per episode, with its number as the index."""

    name: str  # of the source, for messages
    root: str  # folder below the source's top, "" for the top
    version: str
    fps: float
    robot: str
    cameras: tuple[Camera, ...]
    tasks: tuple[str, ...]
    files: tuple[str, ...]  # of `meta/` that were read
    table: pd.DataFrame
    data_path: str
    video_path: str
    chunk_size: int

    @property
    def episodes(self) -> list[int]:
        return [int(index) for index in self.table.index]

    def camera(self, key: str) -> Camera:
        return next(camera for camera in self.cameras if camera.key == key)

    def episode(self, index: int) -> Episode:
        """One episode's files. Raises `SourceError` when its entry in `meta/` makes no sense."""
        row = self.table.iloc[int(self.table.index.searchsorted(index))]
        length = self._number(row, "length", index)
        if length < 1:
            raise SourceError(f"{self.name}: episode {index} has a length of {length} frames.")
        keys = [camera.key for camera in self.cameras if camera.kind == "video"]
        if self.version != "v3.0":
            known: dict[str, Any] = {
                "episode_index": index,
                "episode_chunk": index // self.chunk_size,
            }
            return Episode(
                index,
                length,
                self._path(self.data_path, **known),
                {k: Span(self._path(self.video_path, video_key=k, **known), 0, None) for k in keys},
            )
        shard = {
            name: self._number(row, f"data/{name}", index) for name in ("chunk_index", "file_index")
        }
        spans = {key: self._span(row, key, index) for key in keys}
        return Episode(index, length, self._path(self.data_path, **shard), spans)

    def _span(self, row: pd.Series, key: str, index: int) -> Span:
        column = f"videos/{key}/"
        chunk, file = (self._number(row, column + name, index) for name in _OF_SPAN[:2])
        start, end = (self._seconds(row, column + name, index) for name in _OF_SPAN[2:])
        if end <= start:
            raise SourceError(
                f"{self.name}: episode {index} of camera {key} ends at {end:g} s, before it "
                f"begins at {start:g} s; its meta/episodes is wrong."
            )
        path = self._path(self.video_path, video_key=key, chunk_index=chunk, file_index=file)
        return Span(path, start, end)

    def _path(self, template: str, **known: Any) -> str:
        try:
            if not _TEMPLATE.fullmatch(template):
                raise ValueError(template)
            return posixpath.join(self.root, template.format(**known))
        except (KeyError, ValueError):
            raise SourceError(
                f"{self.name}: {INFO} has the path template {template!r}, which does not fit "
                f"{self.version}; its fields there are {', '.join(known)}."
            ) from None

    def _number(self, row: pd.Series, column: str, index: int) -> int:
        value = self._seconds(row, column, index)
        if value != int(value):
            raise self._wrong(column, index, value)
        return int(value)

    def _seconds(self, row: pd.Series, column: str, index: int) -> float:
        try:
            value = float(row[column])
        except (KeyError, TypeError, ValueError):
            raise self._wrong(column, index, row.get(column, "missing")) from None
        if not math.isfinite(value) or value < 0:
            raise self._wrong(column, index, value)
        return value

    def _wrong(self, column: str, index: int, value: object) -> SourceError:
        return SourceError(
            f"{self.name}: `{column}` of episode {index} in meta/ is {value!r}, which is no "
            "place of frames; the dataset's meta is damaged."
        )


def find_root(sizes: Mapping[str, int], read: Reader, name: str) -> str | None:
    """The folder of the LeRobot dataset among these files; None when there is none.

    Raises `SourceError` when there are several, or one without its `info.json`.
    """
    roots: dict[str, list[str]] = {}
    for path in sizes:
        match = _SIGNS.fullmatch(path)
        if match:
            roots.setdefault(match["root"].rstrip("/"), []).append(path)
    found = []
    for root, signs in sorted(roots.items()):
        info = posixpath.join(root, INFO)
        if info not in sizes:
            raise SourceError(
                f"{name} looks like a LeRobot dataset ({signs[0]}) but has no {info}; "
                "restore that file."
            )
        if len(signs) > 1 or b'"codebase_version"' in read(info, None):
            found.append(root)
    if len(found) > 1:
        listed = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
        raise SourceError(
            f"{name} holds {len(found)} LeRobot datasets ({listed}); name one of these folders."
        )
    return found[0] if found else None


def read_meta(sizes: Mapping[str, int], read: Reader, root: str, name: str) -> LeRobotMeta:
    """Read `meta/` below `root`.

    Raises `SourceError` in one sentence: damaged, of an unknown version, without cameras.
    """
    info = _read_info(read, posixpath.join(root, INFO), name)
    version = str(info.get("codebase_version"))
    if version not in VERSIONS:
        raise SourceError(
            f"{name}: {INFO} says codebase_version {version!r}, and {', '.join(VERSIONS)} are "
            "read; convert the dataset with LeRobot's own scripts first."
        )
    v3 = version == "v3.0"
    data_path, video_path = _DEFAULT_PATHS["v3" if v3 else "v2"]
    fps = _positive(info, "fps", name)
    cameras = _cameras(info, name)
    if v3:
        files, table = _episodes_v3(sizes, read, root, name, cameras)
        tasks_file = posixpath.join(root, "meta/tasks.parquet")
    else:
        files, table = _episodes_v2(sizes, read, root, name)
        tasks_file = posixpath.join(root, "meta/tasks.jsonl")
    tasks: tuple[str, ...] = ()
    if tasks_file in sizes:
        tasks = _tasks(read(tasks_file, None), v3)
        files.append(tasks_file)
    return LeRobotMeta(
        name=name,
        root=root,
        version=version,
        fps=fps,
        robot=str(info.get("robot_type") or ""),
        cameras=cameras,
        tasks=tasks,
        files=(posixpath.join(root, INFO), *files),
        table=table,
        data_path=str(info.get("data_path") or data_path),
        video_path=str(info.get("video_path") or video_path),
        chunk_size=1000 if v3 else int(_positive(info, "chunks_size", name, 1000)),
    )


def _read_info(read: Reader, path: str, name: str) -> dict[str, Any]:
    try:
        info = json.loads(read(path, None))
    except ValueError as error:
        raise SourceError(f"{name}: {path} is not valid JSON ({error}).") from None
    if not isinstance(info, dict):
        raise SourceError(f"{name}: {path} must hold a JSON object.")
    return info


def _positive(info: Mapping[str, Any], key: str, name: str, default: float | None = None) -> float:
    value = info.get(key, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise SourceError(f"{name}: {INFO} says {key} is {value!r}; it must be a positive number.")
    return number


def _cameras(info: Mapping[str, Any], name: str) -> tuple[Camera, ...]:
    """Features of dtype video or image; some writers call the axes `channel`, some `channels`."""
    features = info.get("features")
    if not isinstance(features, dict):
        raise SourceError(f"{name}: {INFO} has no `features`, so its cameras are not known.")
    cameras = []
    for key, feature in features.items():
        if not isinstance(feature, dict) or feature.get("dtype") not in ("video", "image"):
            continue
        names, shape = feature.get("names"), feature.get("shape")
        size = {}
        if isinstance(names, list) and isinstance(shape, list) and len(names) == len(shape):
            size = {
                str(axis): n for axis, n in zip(names, shape, strict=True) if isinstance(n, int)
            }
        cameras.append(
            Camera(
                key,
                feature["dtype"],
                size.get("width", 0),
                size.get("height", 0),
                _holds(key, feature),
            )
        )
    if not cameras:
        raise SourceError(
            f"{name} is a LeRobot dataset without cameras: none of its features is of dtype "
            "video or image."
        )
    return tuple(cameras)


def _holds(key: str, feature: Mapping[str, Any]) -> str:
    """What a feature shows when it is no photograph."""
    for facts in (feature, feature.get("info"), feature.get("video_info")):
        if isinstance(facts, dict) and facts.get("video.is_depth_map", facts.get("is_depth_map")):
            return "depth"
    return next((what for what, sign in _NO_PHOTO if sign.search(key.lower())), "")


def _episodes_v2(
    sizes: Mapping[str, int], read: Reader, root: str, name: str
) -> tuple[list[str], pd.DataFrame]:
    import pandas as pd

    path = posixpath.join(root, "meta/episodes.jsonl")
    if path not in sizes:
        raise SourceError(f"{name} has no {path}, which lists its episodes; restore that file.")
    try:
        table = pd.read_json(io.BytesIO(read(path, None)), lines=True)
    except ValueError as error:
        raise SourceError(f"{name}: {path} is not JSON lines ({error}).") from None
    return [path], _by_index(table, path, name, ["length"])


def _episodes_v3(
    sizes: Mapping[str, int], read: Reader, root: str, name: str, cameras: tuple[Camera, ...]
) -> tuple[list[str], pd.DataFrame]:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    prefix = root + "/" if root else ""
    files = sorted(p for p in sizes if _EPISODE_FILES.fullmatch(p.removeprefix(prefix)))
    if not files:
        raise SourceError(
            f"{name} has no {prefix}meta/episodes/…parquet, which lists its episodes; restore it."
        )
    wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
    for camera in cameras:
        if camera.kind == "video":
            wanted += [f"videos/{camera.key}/{part}" for part in _OF_SPAN]
    tables = []
    for path in files:
        try:
            stream = io.BytesIO(read(path, None))
            present = set(pq.read_schema(stream).names)
            stream.seek(0)
            tables.append(pd.read_parquet(stream, columns=[c for c in wanted if c in present]))
        except (pa.ArrowException, OSError, ValueError) as error:
            detail = str(error).splitlines()[0].rstrip(".")
            raise SourceError(f"{name}: {path} is not a whole parquet file ({detail}).") from None
    table = pd.concat(tables, ignore_index=True)
    return files, _by_index(table, files[0], name, ["length", "data/chunk_index"])


def _by_index(table: pd.DataFrame, path: str, name: str, needed: list[str]) -> pd.DataFrame:
    missing = [column for column in ("episode_index", *needed) if column not in table]
    if missing or not len(table):
        what = f"has no column {missing[0]}" if missing else "lists no episode"
        raise SourceError(f"{name}: {path} {what}; the dataset's meta is damaged.")
    try:
        table = table.set_index(table["episode_index"].astype(int)).sort_index()
    except (ValueError, TypeError):
        raise SourceError(
            f"{name}: an `episode_index` in {path} is no number; the dataset's meta is damaged."
        ) from None
    if table.index.duplicated().any():
        twice = table.index[table.index.duplicated()][0]
        raise SourceError(f"{name}: {path} lists episode {twice} twice.")
    return table


def _tasks(data: bytes, v3: bool) -> tuple[str, ...]:
    """The first few task texts; they only describe, so a damaged list is no obstacle."""
    import pandas as pd
    import pyarrow as pa

    try:
        if v3:
            table = pd.read_parquet(io.BytesIO(data))
            texts = table.get("task", table.index)
        else:
            texts = pd.read_json(io.BytesIO(data), lines=True)["task"]
    except (ValueError, KeyError, OSError, pa.ArrowException):
        return ()
    return tuple(str(text) for text in texts[:_TASKS])
