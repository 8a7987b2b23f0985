"""What a local folder holds as a source, without fetching anything: for `splat-assets info`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from splat_assets.datasets.options import SourceOptions
from splat_assets.errors import SourceError
from splat_assets.sources import media
from splat_assets.sources.layout import Packed, choose_layout, folder_reader, folder_sizes
from splat_assets.sources.lerobot.choice import choose, motion_rank
from splat_assets.sources.lerobot.meta import LeRobotMeta, find_root, read_meta

_MOUNTS = ("on the gripper", "on the robot", "", "fixed")  # by `motion_rank`


def describe_folder(folder: Path) -> dict[str, Any]:
    """Figures of a folder of photos, videos, a reconstruction or a LeRobot dataset.

    Raises `SourceError` when it holds nothing that can be used.
    """
    sizes = {path: size for path, size in folder_sizes(folder).items() if not media.is_junk(path)}
    read, name = folder_reader(folder), f"The folder {folder}"
    described = {"path": str(folder), "bytes": sum(sizes.values())}
    root = find_root(sizes, read, name)
    if root is None:
        layout = choose_layout(sizes, read, name)
        kind = layout.kind if isinstance(layout, Packed) else layout.content
        return {**described, "format": kind, "num_files": len(layout.files)}
    meta = read_meta(sizes, read, root, name)
    try:
        taken = {camera.key for camera in choose(meta, sizes, SourceOptions()).cameras}
    except SourceError as problem:  # a copy without its videos still tells what there is
        return {**described, **_describe_robot(meta, set()), "problem": str(problem)}
    return {**described, **_describe_robot(meta, taken)}


def _describe_robot(meta: LeRobotMeta, taken: set[str]) -> dict[str, Any]:
    """Cameras by the names that `source.cameras` takes; `taken` are those of a run without it."""
    return {
        "format": f"LeRobot {meta.version}",
        "robot": meta.robot,
        "fps": meta.fps,
        "num_episodes": len(meta.table),
        "tasks": list(meta.tasks),
        "cameras": [
            {
                "camera": camera.name,
                "kind": camera.kind,
                "width": camera.width,
                "height": camera.height,
                "holds": camera.holds or "photographs",
                "mount": "" if camera.holds else _MOUNTS[motion_rank(camera.name)],
                "taken": camera.key in taken,
            }
            for camera in meta.cameras
        ],
    }
