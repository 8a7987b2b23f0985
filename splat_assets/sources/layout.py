"""What a set of files is (photos, video, LeRobot, COLMAP, splat, …) and which of them are needed.

One decision for every kind of source: it works on a listing (path → size) and a way to read single
files, so the same rules choose from a folder, an unpacked archive and a remote repository before
anything is downloaded.
"""

from __future__ import annotations

import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splat_assets.datasets.options import SourceOptions
from splat_assets.errors import SourceError
from splat_assets.sources import media, posed, splat
from splat_assets.sources.lerobot.choice import RobotChoice, choose
from splat_assets.sources.lerobot.meta import find_root, read_meta
from splat_assets.sources.posed import Reader
from splat_assets.sources.raw_dataset import Content

# With fewer, beside videos or a splat, pictures are previews of those and not the data.
ENOUGH_PHOTOS = 8
_REDUCED = re.compile(r"images_\d+")  # images_2, images_4, …: reduced copies of images/
_ITERATION = re.compile(r"(?:^|/)point_cloud/iteration_(\d+)/point_cloud\.ply$")
_MODEL_FOLDER = re.compile(r"\d+|sparse|colmap|distorted")
_CONVERTIBLE = {
    ".heic": "convert HEIC photos to JPEG first",
    ".heif": "convert HEIF photos to JPEG first",
    ".avif": "convert AVIF photos to JPEG first",
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"),
        "develop raw photos to JPEG or TIFF first",
    ),
}
_SOG_PICTURES = {"means_l.webp", "means_u.webp", "quats.webp"}


@dataclass(frozen=True)
class Layout:
    """What the files are. All paths are POSIX paths relative to the source's top.

    `root` is the folder the dataset lives in ("" for the top). For COLMAP `model` is the folder of
    `cameras.bin` and `images` the one its image names are relative to; for nerfstudio `transforms`
    are the JSON files in the order train, test.
    """

    content: Content
    files: tuple[str, ...]  # sorted; what the pipeline needs, `documents` not included
    documents: tuple[str, ...] = ()  # README, licence: kept, but no part of the data
    root: str = ""
    model: str = ""
    images: str = ""
    transforms: tuple[str, ...] = ()
    ignored: str = ""  # what else was there that a user might have expected to be used
    robot: RobotChoice | None = None  # cameras and episodes of a LeRobot dataset


@dataclass(frozen=True)
class Packed:
    """The pictures are still inside these files (parquet shards or archives)."""

    kind: Literal["parquet", "archive"]
    files: tuple[str, ...]
    documents: tuple[str, ...] = ()


def choose_layout(
    sizes: Mapping[str, int],
    read: Reader,
    name: str,
    *,
    options: SourceOptions | None = None,
    may_unpack: bool = True,
) -> Layout | Packed:
    """Decide what the files are and which are needed.

    Args:
        sizes: size in bytes by POSIX path; hidden and unwanted files are already left out.
        read: gives a file's content; called for headers, `transforms.json` and `images.bin`.
        name: names the source in errors.
        options: the wishes about cameras and episodes count here.
        may_unpack: False when parquet and archives are not to be looked into any more.

    Raises:
        SourceError: nothing usable, several datasets at once, or a reference to a missing file.
    """
    if not sizes:
        raise SourceError(f"{name} is empty.")
    root = find_root(sizes, read, name)
    if root is not None:
        return _robot_layout(sizes, read, root, name, options or SourceOptions())
    poses = _posed_layout(sizes, read, name)
    if poses is not None:
        return poses
    photos = _photos(sizes)
    videos = sorted(filter(media.is_video, sizes))
    docs = _documents(sizes, "")
    splats = _splats(sizes, read, name, may_check=len(photos) < ENOUGH_PHOTOS)
    if splats:
        main = next(filter(media.is_sog_document, splats), splats[0])
        return Layout("ply", splats, docs, posixpath.dirname(main))
    if len(photos) >= ENOUGH_PHOTOS or (photos and not videos and not _packed(sizes, may_unpack)):
        return _photo_layout(sizes, photos, videos, docs)
    packed = None if videos else _packed(sizes, may_unpack)
    if packed is not None:
        return packed
    if videos:
        left = f"{len(photos)} photos beside the videos" if photos else ""
        return Layout("video", tuple(videos), docs, ignored=left)
    plys = sorted(path for path in sizes if media.suffix(path) == ".ply")
    if plys:  # none is a splat: let the first one say what it is
        where = name if name.endswith(plys[0]) else f"{name}: {plys[0]}"
        splat.read_header(read(plys[0], splat.HEADER_LIMIT), where)
    raise SourceError(f"{name} holds nothing usable: {_describe(sizes)}.")


def folder_sizes(folder: Path) -> dict[str, int]:
    """The listing of a folder of ours, for `choose_layout`."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def folder_reader(folder: Path) -> Reader:
    """A reader of a local folder, for `choose_layout`."""

    def read(path: str, limit: int | None) -> bytes:
        with (folder / path).open("rb") as stream:
            return stream.read(-1 if limit is None else limit)

    return read


def _robot_layout(
    sizes: Mapping[str, int], read: Reader, root: str, name: str, options: SourceOptions
) -> Layout:
    """The shards of the chosen cameras and episodes of a LeRobot dataset, and its `meta/`."""
    robot = choose(read_meta(sizes, read, root, name), sizes, options)
    return Layout("lerobot", robot.files, _documents(sizes, root), root, robot=robot)


def _posed_layout(sizes: Mapping[str, int], read: Reader, name: str) -> Layout | None:
    """The reconstruction nearest to the top, if there is one.

    With a COLMAP model and a `transforms.json` side by side the model wins, since it also has
    points; NeRF synthetic's own split of train and test wins over a model.
    """
    nerf = _nerf_folders(sizes)
    models = _model_folders(sizes, name)
    roots = [*nerf, *models]
    if not roots:
        return None
    depth = min(_depth(root) for root in roots)
    shallow = sorted({root for root in roots if _depth(root) == depth})
    if len(shallow) > 1:
        listed = ", ".join(shallow[:4]) + (", …" if len(shallow) > 4 else "")
        raise SourceError(
            f"{name} holds {len(shallow)} datasets ({listed}); add them one by one, "
            "or choose with the option source.include."
        )
    root = shallow[0]
    split = len(nerf.get(root, ())) > 1
    if root in models and not split:
        try:
            return _colmap_layout(sizes, read, root, models[root])
        except SourceError:
            if root not in nerf:
                raise
    return _nerf_layout(sizes, read, root, nerf[root])


def _nerf_folders(sizes: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
    """Folder → its transforms files, the order being train, then test."""
    names: dict[str, set[str]] = {}
    for path in filter(media.is_transforms, sizes):
        names.setdefault(posixpath.dirname(path), set()).add(posixpath.basename(path))
    found = {}
    for folder, present in names.items():
        if "transforms_train.json" in present:
            held_out = next((t for t in ("test", "val") if f"transforms_{t}.json" in present), None)
            chosen = ["transforms_train.json"]
            chosen += [f"transforms_{held_out}.json"] if held_out else []
        elif "transforms.json" in present:
            chosen = ["transforms.json"]
            chosen += ["transforms_test.json"] if "transforms_test.json" in present else []
        else:
            continue
        found[folder] = tuple(posixpath.join(folder, name) for name in chosen)
    return found


def _nerf_layout(
    sizes: Mapping[str, int], read: Reader, root: str, transforms: tuple[str, ...]
) -> Layout:
    files = set(transforms)
    for path in transforms:
        files.update(posed.nerf_references(read, path, sizes))
    files.update(_masks(sizes, root))
    return Layout(
        "nerfstudio", tuple(sorted(files)), _documents(sizes, root), root, transforms=transforms
    )


def _model_folders(sizes: Mapping[str, int], name: str) -> dict[str, list[str]]:
    """Dataset root → folders below it that hold a COLMAP model."""
    stems: dict[str, set[str]] = {}
    for path in filter(media.is_sparse, sizes):
        stem = posixpath.splitext(posixpath.basename(path))[0].lower()
        stems.setdefault(posixpath.dirname(path), set()).add(stem)
    found: dict[str, list[str]] = {}
    for folder, present in sorted(stems.items()):
        missing = {"cameras", "images", "points3d"} - present
        if not missing:
            root = folder
            while root and _MODEL_FOLDER.fullmatch(posixpath.basename(root)):
                root = posixpath.dirname(root)
            found.setdefault(root, []).append(folder)
        elif "sparse" in folder.split("/") and len(missing) < 3:
            raise SourceError(
                f"{name}: the COLMAP model in {folder} is incomplete, it has no "
                f"{' and no '.join(sorted(missing))} file."
            )
    return found


def _colmap_layout(sizes: Mapping[str, int], read: Reader, root: str, folders: list[str]) -> Layout:
    """The model with the most images among those nearest to the root."""
    depth = min(_depth(folder) for folder in folders)
    names_of = {
        folder: posed.colmap_names(read, _images_file(sizes, folder))
        for folder in folders
        if _depth(folder) == depth
    }
    model = max(names_of, key=lambda folder: len(names_of[folder]))
    present = {path for path in sizes if media.is_image(path)}
    images = posed.locate_images(names_of[model], root, present, model or "at the top")
    files = {path for path in sizes if media.is_sparse(path) and posixpath.dirname(path) == model}
    files.update(posixpath.join(images, name) for name in names_of[model])
    files.update(_masks(sizes, root))
    files.update(_held_out_lists(sizes, root, model))
    return Layout(
        "colmap", tuple(sorted(files)), _documents(sizes, root), root, model=model, images=images
    )


def _held_out_lists(sizes: Mapping[str, int], root: str, model: str) -> list[str]:
    """`test.txt`, which names held-out images, in the model's folder or above it."""
    found, folder = [], model
    while True:
        found.append(posixpath.join(folder, "test.txt"))
        if folder in (root, ""):
            return [path for path in found if path in sizes]
        folder = posixpath.dirname(folder)


def _images_file(sizes: Mapping[str, int], folder: str) -> str:
    binary = posixpath.join(folder, "images.bin")
    return binary if binary in sizes else posixpath.join(folder, "images.txt")


def _splats(
    sizes: Mapping[str, int], read: Reader, name: str, *, may_check: bool
) -> tuple[str, ...]:
    """The files of the one splat to take: the last iteration of a 3DGS output folder, or the only
    one there. Forms that lose less win: PLY, then other files, then folders of pictures."""
    plys = sorted(path for path in sizes if media.suffix(path) == ".ply")
    iterations = {path: int(m[1]) for path in plys if (m := _ITERATION.search(path))}
    if iterations:
        return (max(iterations, key=lambda path: iterations[path]),)
    if not may_check:
        return ()
    found = [path for path in plys if splat.is_splat(read(path, splat.HEADER_LIMIT))]
    splats = found or sorted(filter(media.is_packed_splat, sizes)) or _sog_documents(sizes)
    if len(splats) == 1 and media.is_sog_document(splats[0]):
        return _sog_members(sizes, splats[0])
    if len(splats) > 1:
        raise SourceError(
            f"{name} holds {len(splats)} splats ({', '.join(splats[:3])}"
            f"{', …' if len(splats) > 3 else ''}); name one of them."
        )
    return tuple(splats)


def _sog_documents(sizes: Mapping[str, int]) -> list[str]:
    """`lod-meta.json` of streamed SOGs, else `meta.json` of unbundled ones."""
    streamed = [path for path in sizes if posixpath.basename(path) == "lod-meta.json"]
    return sorted(streamed) or sorted(
        path
        for path in sizes
        if posixpath.basename(path) == "meta.json"
        and all(posixpath.join(posixpath.dirname(path), name) in sizes for name in _SOG_PICTURES)
    )


def _sog_members(sizes: Mapping[str, int], document: str) -> tuple[str, ...]:
    """The document first, then the pictures beside it or, of a streamed one, below it."""
    folder = posixpath.dirname(document)
    below = folder + "/" if folder else ""
    streamed = posixpath.basename(document) == "lod-meta.json"
    members = [
        path
        for path in sizes
        if path.startswith(below)
        and path != document
        and (media.suffix(path) == ".webp" or media.is_sog_document(path))
        and (streamed or posixpath.dirname(path) == folder)
    ]
    return (document, *sorted(members))


def _photos(sizes: Mapping[str, int]) -> list[str]:
    """Pictures of the scene: no masks, depth maps, SOG layers, reduced copies of `images/`."""
    pictures = [path for path in sizes if media.is_image(path) and not media.is_mask(path)]
    pictures = [path for path in pictures if not media.is_auxiliary(path)]
    names: dict[str, set[str]] = {}
    for path in pictures:
        names.setdefault(posixpath.dirname(path), set()).add(posixpath.basename(path))
    sogs = {folder for folder, inside in names.items() if inside >= _SOG_PICTURES}
    pictures = [path for path in pictures if posixpath.dirname(path) not in sogs]
    return sorted(path for path in pictures if not _is_reduced_copy(path, names.keys()))


def _is_reduced_copy(path: str, folders: Collection[str]) -> bool:
    folder = posixpath.dirname(path)
    if not _REDUCED.fullmatch(posixpath.basename(folder)):
        return False
    return posixpath.join(posixpath.dirname(folder), "images") in folders


def _photo_layout(
    sizes: Mapping[str, int], photos: list[str], videos: list[str], docs: tuple[str, ...]
) -> Layout:
    folders = {posixpath.dirname(path) for path in photos}
    tables = [p for p in sizes if media.is_table(p) and posixpath.dirname(p) in folders]
    files = {*photos, *tables, *_masks(sizes, "")}
    left = f"{len(videos)} videos beside the photos" if videos else ""
    return Layout("photos", tuple(sorted(files)), docs, ignored=left)


def _packed(sizes: Mapping[str, int], may_unpack: bool) -> Packed | None:
    if not may_unpack:
        return None
    docs = _documents(sizes, "")
    shards = tuple(sorted(filter(media.is_parquet, sizes)))
    if shards:
        return Packed("parquet", shards, docs)
    archives = tuple(sorted(filter(media.is_archive, sizes)))
    return Packed("archive", archives, docs) if archives else None


def _masks(sizes: Iterable[str], root: str) -> list[str]:
    prefix = root + "/" if root else ""
    return [path for path in sizes if media.is_mask(path) and path.startswith(prefix)]


def _documents(sizes: Iterable[str], root: str) -> tuple[str, ...]:
    """READMEs and licences at the top, in a single top folder, or at the dataset's root."""
    tops = {"", root}
    first = {path.split("/")[0] if "/" in path else "" for path in sizes}
    if len(first) == 1:
        tops |= first
    return tuple(sorted(p for p in sizes if media.is_document(p) and posixpath.dirname(p) in tops))


def _depth(folder: str) -> int:
    return len(folder.split("/")) if folder else 0


def _describe(sizes: Mapping[str, int]) -> str:
    """`no photos … (found 3 .json, 1 .heic; convert HEIC photos to JPEG first)`."""
    counts = Counter(media.suffix(path) or posixpath.basename(path) for path in sizes)
    listed = ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common(4))
    hint = next((_CONVERTIBLE[suffix] for suffix in counts if suffix in _CONVERTIBLE), "")
    if any(posixpath.basename(path) in _SOG_PICTURES for path in sizes) and not hint:
        hint = "these are the pictures of a SOG without its meta.json"
    found = f"found {listed}" + ("; " + hint if hint else "")
    return f"no photos, videos, reconstruction or splat ({found})"
