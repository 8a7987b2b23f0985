"""Which cameras and episodes of a LeRobot dataset are taken, and which files that needs.

A splat wants a camera that moves through a scene that stands still. So, unless told otherwise: one
camera, by its name one that the robot carries, and one episode, since things are moved between
episodes.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from splat_assets.datasets.options import SourceOptions
from splat_assets.errors import SourceError
from splat_assets.sources.lerobot.meta import Camera, Episode, LeRobotMeta, Span

# Names of cameras, from those that surely move to those that surely do not.
_WRIST = re.compile(r"wrist|gripper|in_?hand|hand_?(?:cam|eye|held)|(?<![a-z])hand(?![a-z])|eef")
_HEAD = re.compile(r"(?<!over)(?<!over_)head|(?<![a-z])ego|first_?person|chest|mobile")
_FIXED = re.compile(
    r"(?<![a-z])(?:top|up|side|front|back|high|low|base|scene|static|fixed|world|"
    r"global|laptop|phone|webcam|agentview|exterior|external|overhead|over_head|third_?person|"
    r"birds?_?eye|tripod)(?![a-z])"
)
_LISTED = 12


@dataclass(frozen=True)
class RobotChoice:
    """What is taken of a LeRobot dataset; `episodes` have their files as they are named here."""

    meta: LeRobotMeta
    cameras: tuple[Camera, ...]
    episodes: tuple[Episode, ...]
    note: str  # one sentence on what was decided for the user; "" when nothing was

    @property
    def files(self) -> tuple[str, ...]:
        """The files needed, sorted: of `meta/`, data shards, video shards of the cameras."""
        found = set(self.meta.files)
        for episode in self.episodes:
            found.add(episode.data_file)
            found.update(
                episode.videos[camera.key].file for camera in self.cameras if camera.kind == "video"
            )
        return tuple(sorted(found))

    @property
    def headline(self) -> str:
        """`LeRobot v3.0: wrist, 1 of 50 episodes`."""
        cameras = ", ".join(camera.name for camera in self.cameras)
        count = f"{len(self.episodes)} of {len(self.meta.table)} episodes"
        return f"LeRobot {self.meta.version}: {cameras}, {count}"

    def to_summary(self) -> dict[str, Any]:
        """What the manifest's summary says of the dataset."""
        return {
            "version": self.meta.version,
            "robot": self.meta.robot,
            "fps": self.meta.fps,
            "num_episodes": len(self.meta.table),
            "episodes": [episode.index for episode in self.episodes],
            "cameras": [camera.key for camera in self.cameras],
            "all_cameras": [
                {
                    "camera": camera.key,
                    "kind": camera.kind,
                    "width": camera.width,
                    "height": camera.height,
                    "holds": camera.holds or "photographs",
                    "taken": camera in self.cameras,
                }
                for camera in self.meta.cameras
            ],
            "tasks": list(self.meta.tasks),
        }


def choose(meta: LeRobotMeta, sizes: Mapping[str, int], options: SourceOptions) -> RobotChoice:
    """Apply `source.cameras` and `source.episodes`, or decide where they say nothing.

    Raises:
        SourceError: no such camera or episode, one that shows depth or masks, a missing file.
    """
    named = _named_cameras(meta, options.cameras)
    candidates = [named] if named else [[camera] for camera in _by_motion(meta)]
    numbers = _named_episodes(meta, options.episodes)
    if numbers:
        cameras = candidates[0]
        episodes = [_locate(meta, number, cameras, sizes) for number in numbers]
    else:
        cameras, first = _first_present(meta, candidates, sizes)
        episodes = [first]
    note = _note(meta, cameras, episodes, options)
    return RobotChoice(meta, tuple(cameras), tuple(episodes), note)


def reopen(meta: LeRobotMeta, sizes: Mapping[str, int], chosen: Mapping[str, Any]) -> RobotChoice:
    """The choice that a manifest's summary tells of."""
    cameras = tuple(meta.camera(key) for key in chosen["cameras"])
    episodes = tuple(_locate(meta, index, cameras, sizes) for index in chosen["episodes"])
    return RobotChoice(meta, cameras, episodes, "")


def motion_rank(name: str) -> int:
    """How a camera is mounted, by its name: 0 wrist, 1 head, 2 unknown, 3 fixed."""
    plain = name.lower()
    for rank, sign in enumerate((_WRIST, _HEAD)):
        if sign.search(plain):
            return rank
    return 3 if _FIXED.search(plain) else 2


def _by_motion(meta: LeRobotMeta) -> list[Camera]:
    photographs = [camera for camera in meta.cameras if not camera.holds]
    if not photographs:
        raise SourceError(
            f"{meta.name} has no camera of photographs: {_list(meta)}; a splat needs colours."
        )
    return sorted(photographs, key=lambda camera: motion_rank(camera.name))


def _named_cameras(meta: LeRobotMeta, wishes: Sequence[str]) -> list[Camera]:
    """Cameras by key, name or glob, in the order asked for."""
    found: dict[str, Camera] = {}
    for wish in wishes:
        exact = [c for c in meta.cameras if wish in (c.key, c.name)]
        matching = exact or [
            c
            for c in meta.cameras
            if not c.holds and (fnmatchcase(c.key, wish) or fnmatchcase(c.name, wish))
        ]
        if not matching:
            raise SourceError(
                f"{meta.name} has no camera {wish!r}; source.cameras may name {_list(meta)}."
            )
        for camera in matching:
            if camera.holds:
                raise SourceError(
                    f"{meta.name}: the camera {camera.name!r} shows {camera.holds}, which are not "
                    f"used; source.cameras may name {_list(meta)}."
                )
            found[camera.key] = camera
    return list(found.values())


def _named_episodes(meta: LeRobotMeta, wishes: Sequence[int]) -> list[int]:
    known = meta.table.index
    for index in wishes:
        if index not in known:
            raise SourceError(
                f"{meta.name} has no episode {index}; its {len(known)} episodes are numbered "
                f"{known[0]} to {known[-1]}."
            )
    return list(dict.fromkeys(wishes))


def _locate(
    meta: LeRobotMeta, index: int, cameras: Sequence[Camera], sizes: Mapping[str, int]
) -> Episode:
    """The episode with its files as they are really named."""
    episode = meta.episode(index)

    def find(path: str, what: str) -> str:
        for candidate in (path, _other_folder(path, meta.root)):
            if candidate in sizes:
                return candidate
        raise SourceError(
            f"{meta.name} has no file {path}, which holds {what} of episode {index}; "
            "choose other episodes with source.episodes."
        )

    videos = {}
    for camera in cameras:
        if camera.kind == "video":
            span = episode.videos[camera.key]
            file = find(span.file, f"the camera {camera.name}")
            videos[camera.key] = Span(file, span.start_sec, span.end_sec)
    return Episode(index, episode.length, find(episode.data_file, "the timestamps"), videos)


def _other_folder(path: str, root: str) -> str:
    """Datasets exist whose folder is `video/` while their `info.json` says `videos/`."""
    below = posixpath.relpath(path, root) if root else path
    first, _, rest = below.partition("/")
    other = {"videos": "video", "video": "videos"}.get(first, first)
    return posixpath.join(root, other, rest)


def _first_present(
    meta: LeRobotMeta, candidates: Sequence[list[Camera]], sizes: Mapping[str, int]
) -> tuple[list[Camera], Episode]:
    """The first episode whose files are there (parts of datasets are common), and its cameras."""
    problem: SourceError | None = None
    for cameras in candidates:
        for number in meta.episodes:
            try:
                return cameras, _locate(meta, number, cameras, sizes)
            except SourceError as error:
                problem = problem or error
    assert problem is not None
    raise problem


def _note(
    meta: LeRobotMeta,
    cameras: Sequence[Camera],
    episodes: Sequence[Episode],
    options: SourceOptions,
) -> str:
    """What was decided, where there was something to decide."""
    parts = []
    names = ", ".join(camera.name for camera in cameras)
    if not options.cameras and len(meta.cameras) > 1:
        parts.append(f"of the cameras {_list(meta)} only {names} is taken (source.cameras)")
    if not options.episodes and len(meta.table) > 1:
        parts.append(
            f"of {len(meta.table)} episodes only number {episodes[0].index} is taken "
            "(source.episodes)"
        )
    return f"{meta.name}: " + ", and ".join(parts) + "." if parts else ""


def _list(meta: LeRobotMeta) -> str:
    """`wrist, top, depth_top (shows depth, not used)`."""
    texts = [
        camera.name + (f" (shows {camera.holds}, not used)" if camera.holds else "")
        for camera in meta.cameras
    ]
    rest = len(texts) - _LISTED
    return ", ".join(texts[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
