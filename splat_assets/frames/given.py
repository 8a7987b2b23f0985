"""Datasets that bring their poses: which pictures the poses are about, and the files that say so.

Two forms: a COLMAP model (`cameras|images|points3D` as `.bin` or `.txt`), and nerfstudio's
`transforms.json` or NeRF synthetic's `transforms_{train,test,val}.json`, whose `file_path` may lack
its suffix. A path that leads out of the dataset is looked up by its file name inside it.
"""

from __future__ import annotations

import json
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from splat_assets.artifacts.manifest import link_or_copy, write_text_atomic
from splat_assets.errors import UserError
from splat_assets.frames.names import flat_stems, natural_key
from splat_assets.sources.media import is_image, is_sparse, is_transforms

_KEPT_SUFFIXES = (".jpg", ".jpeg", ".png")
_IMAGE_ROOTS = ("images", "", "input", "rgb", "images_2", "images_4", "images_8")


@dataclass(frozen=True)
class GivenPicture:
    """A picture with a pose. `name` is what the model calls it, where that can be kept."""

    source_file: str
    name: str
    split: str = ""  # "train", "test" or ""
    mask_file: str = ""
    camera_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Given:
    """All pictures with poses in natural order, those that are missing, and the files to carry."""

    pictures: tuple[GivenPicture, ...]
    missing: tuple[str, ...]
    links: tuple[tuple[str, str], ...]  # (path below files/, path below given/)
    texts: tuple[tuple[str, str], ...] = ()  # (path below given/, content)

    def carry(self, files: Path, given: Path) -> None:
        """Write the `given/` folder."""
        for source, target in self.links:
            link_or_copy(files / source, given / target)
        for target, text in self.texts:
            (given / target).parent.mkdir(parents=True, exist_ok=True)
            write_text_atomic(given / target, text)


def read_nerfstudio(files: Path, paths: Sequence[str]) -> Given:
    """Read the transforms files nearest to the top of the dataset.

    They are carried as `given/transforms.json` (also when the dataset calls it
    `transforms_train.json`) and `given/transforms_test.json`, with their point cloud. NeRF
    synthetic's validation views are left out where there are test views, as is the custom.

    Raises:
        UserError: no transforms file, or one that is damaged or speaks of no picture.
    """
    found = [path for path in paths if is_transforms(path)]
    if not found:
        raise UserError("The dataset has no transforms.json; give a folder that nerfstudio reads.")
    folder = min((posixpath.dirname(path) for path in found), key=lambda d: (d.count("/"), d))
    by_name = {posixpath.basename(p): p for p in found if posixpath.dirname(p) == folder}
    splits = _choose(by_name)
    lookup = _Lookup(paths)
    entries: dict[str, tuple[str, str, tuple[int, int] | None]] = {}
    missing, links, texts = [], [], []
    for path, target, split in splits:
        content = _read_json(files / path, path)
        held_out = _listed(content, ("test_filenames", "val_filenames"))
        trained = _listed(content, ("train_filenames",))
        for frame in content["frames"]:
            wanted = str(frame["file_path"])
            source = lookup.picture(folder, wanted)
            if source is None:
                missing.append(wanted)
                continue
            of_frame = split
            if not split and (held_out or trained):
                test = _normal(wanted) in held_out and _normal(wanted) not in trained
                of_frame = "test" if test else "train"
            mask = lookup.picture(folder, str(frame["mask_path"])) if "mask_path" in frame else None
            size = _size(frame) or _size(content)
            entries.setdefault(source, (of_frame, mask or "", size))
        cloud = content.get("ply_file_path")
        cloud_file = lookup.file(folder, str(cloud)) if cloud else None
        if cloud_file and cloud_file.endswith(".ply"):
            name = posixpath.basename(cloud_file)
            links.append((cloud_file, name))
            texts.append((target, json.dumps({**content, "ply_file_path": name}, indent=1)))
        else:
            links.append((path, target))
    sources = sorted(entries, key=natural_key)
    names = _names(sources, folder)
    pictures = tuple(
        GivenPicture(source, name, *entries[source])
        for source, name in zip(sources, names, strict=True)
    )
    return Given(pictures, tuple(missing), tuple(dict.fromkeys(links)), tuple(texts))


def read_colmap(files: Path, paths: Sequence[str]) -> Given:
    """Read the largest COLMAP model of the dataset, carried as `given/sparse/`.

    Pictures keep the model's names. A `test.txt` beside the model or above it names held-out ones.

    Raises:
        UserError: no complete model, or one that cannot be read.
    """
    folder = _model_folder(files, paths)
    sizes = _model_pictures(files / folder, folder)
    lookup = _Lookup(paths)
    root = _image_root(folder, sizes, lookup)
    held_out = _test_list(files, folder, paths)
    pictures, missing = [], []
    for name, size in sizes.items():
        source = lookup.picture(root, name)
        if source is None:
            missing.append(name)
            continue
        split = ""
        if held_out:
            known = not {name, posixpath.basename(name), _stem(name)}.isdisjoint(held_out)
            split = "test" if known else "train"
        pictures.append(GivenPicture(source, name, split, camera_size=size))
    pictures.sort(key=lambda picture: natural_key(picture.source_file))
    names = _safe([picture.name for picture in pictures])
    pictures = [
        GivenPicture(p.source_file, name, p.split, camera_size=p.camera_size)
        for p, name in zip(pictures, names, strict=True)
    ]
    links = [
        (path, "sparse/" + posixpath.basename(path))
        for path in paths
        if posixpath.dirname(path) == folder and is_sparse(path)
    ]
    return Given(tuple(pictures), tuple(missing), tuple(links))


class _Lookup:
    """Finds files by the paths that other tools wrote down. Never leaves the dataset."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = set(paths)
        self._stems: dict[str, list[str]] = defaultdict(list)
        self._basenames: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            self._basenames[posixpath.basename(path)].append(path)
            if is_image(path):
                self._stems[_stem(path)].append(path)

    def file(self, folder: str, wanted: str) -> str | None:
        path = posixpath.normpath(posixpath.join(folder, _normal(wanted)))
        return path if path in self._paths else None

    def picture(self, folder: str, wanted: str) -> str | None:
        """The picture that `wanted`, written relative to `folder`, most likely means."""
        parts = PurePosixPath(_normal(wanted)).parts
        # As it stands, else without the leading folders of another machine.
        for start in range(len(parts)):
            path = posixpath.normpath(posixpath.join(folder, *parts[start:]))
            if path in self._paths and is_image(path):
                return path
            for stem in (path, _stem(path)):  # without a suffix, or with another one
                if self._stems[stem]:
                    return self._stems[stem][0]
        same_name = [p for p in self._basenames[parts[-1]] if is_image(p)] if parts else []
        return same_name[0] if len(same_name) == 1 else None


def _choose(by_name: dict[str, str]) -> list[tuple[str, str, str]]:
    """(path, name in given/, split) of the transforms files to use."""
    train, test = "transforms_train.json", "transforms_test.json"
    if train in by_name:
        held_out = test if test in by_name else "transforms_val.json"
        chosen = [(by_name[train], "transforms.json", "train")]
        if held_out in by_name:
            chosen.append((by_name[held_out], test, "test"))
        return chosen
    if "transforms.json" in by_name:
        return [(by_name["transforms.json"], "transforms.json", "")]
    return [(by_name[min(by_name)], "transforms.json", "")]


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        frames = content["frames"]
        if not isinstance(frames, list) or not all("file_path" in frame for frame in frames):
            raise KeyError("file_path")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name} is not a transforms file as nerfstudio writes it ({error}); export it again."
        ) from None
    return content


def _listed(content: dict[str, Any], keys: Sequence[str]) -> set[str]:
    return {_normal(str(path)) for key in keys for path in content.get(key) or ()}


def _size(content: dict[str, Any]) -> tuple[int, int] | None:
    try:
        return int(content["w"]), int(content["h"])
    except (KeyError, TypeError, ValueError):
        return None


def _names(sources: Sequence[str], folder: str) -> list[str]:
    """Paths below the transforms file's folder, less `images/` where all lie there."""
    names = [posixpath.relpath(source, folder) if folder else source for source in sources]
    if all(name.startswith("images/") for name in names):
        names = [name.removeprefix("images/") for name in names]
    return _safe(names)


def _safe(names: Sequence[str]) -> list[str]:
    """The names themselves where they are plain relative paths of JPEG or PNG files.

    WebP and the like are written as JPEG, under that suffix; names that lead out of the folder are
    replaced by flat ones, all of them together so that they stay unique.
    """
    hostile = any(
        PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name
        for name in names
    )
    stems = flat_stems(names) if hostile else [_stem(name) for name in names]
    suffixes = [PurePosixPath(name).suffix for name in names]
    return [
        stem + (suffix if suffix.lower() in _KEPT_SUFFIXES else ".jpg")
        for stem, suffix in zip(stems, suffixes, strict=True)
    ]


def _model_folder(files: Path, paths: Sequence[str]) -> str:
    """The folder of the complete model with the largest list of images."""
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for path in paths:
        if is_sparse(path):
            pure = PurePosixPath(path)
            folder = "" if str(pure.parent) == "." else str(pure.parent)
            parts[folder][pure.stem.lower()] = path
    complete = [f for f, found in parts.items() if {"cameras", "images"} <= found.keys()]
    if not complete:
        raise UserError(
            "The dataset has no COLMAP model; one is cameras, images and points3D (.bin or .txt)."
        )
    return max(complete, key=lambda f: ((files / parts[f]["images"]).stat().st_size, -len(f)))


def _model_pictures(path: Path, name: str) -> dict[str, tuple[int, int]]:
    """(width, height) of the camera of each image with a pose, by the model's image name."""
    from splat_assets.poses.colmap_files import read_model  # pycolmap, only where there is a model

    try:
        model = read_model(path)
        return {
            image.name: (
                model.cameras[image.camera_id].width,
                model.cameras[image.camera_id].height,
            )
            for image in model.images.values()
            if image.has_pose
        }
    except (ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"The COLMAP model {name or 'given'} cannot be read ({reason}); export it again."
        ) from None


def _image_root(folder: str, names: Iterable[str], lookup: _Lookup) -> str:
    """The folder from which most of the model's names lead to a picture; `images` if in doubt."""
    parents = [
        str(p) if str(p) != "." else ""
        for p in (PurePosixPath(folder), *PurePosixPath(folder).parents)
    ]
    roots = [posixpath.join(parent, root) for parent in parents for root in _IMAGE_ROOTS]
    wanted = list(names)
    return max(roots, key=lambda root: sum(lookup.file(root, name) is not None for name in wanted))


def _test_list(files: Path, folder: str, paths: Sequence[str]) -> set[str]:
    parents = {
        str(p) if str(p) != "." else ""
        for p in (PurePosixPath(folder), *PurePosixPath(folder).parents)
    }
    for path in paths:
        if posixpath.basename(path) == "test.txt" and posixpath.dirname(path) in parents:
            text = (files / path).read_text(encoding="utf-8", errors="replace")
            return {line.strip() for line in text.splitlines() if line.strip()}
    return set()


def _normal(path: str) -> str:
    """A path as other tools write it, with forward slashes and no `./` in front."""
    return posixpath.normpath(path.replace("\\", "/"))


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))
