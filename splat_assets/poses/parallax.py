"""Does the camera of a video move at all? Asked before COLMAP spends an hour on finding out.

Depth is seen only where a camera changes its place. If it stands still or merely turns, a rotation
explains how every point of a still scene moves from frame to frame: x' ~ K R K⁻¹ x (Hartley &
Zisserman, Multiple View Geometry, §8.4). So SIFT features of a few pairs of small frames are
matched, and the rotation that explains most of the matches is compared with what an epipolar
geometry explains, which is every rigid motion. Robot arms and people moving in the picture fit
neither, or are the smaller part. Pairs near and far in time are looked at: a moving camera shows
its parallax in some of them. Where the matches say that it stands, most of the picture must agree
pixel by pixel once it is turned back: the gripper that a wrist camera carries along stands still in
its pictures too, and may hold most of the matches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import pycolmap
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter, map_coordinates, uniform_filter

from splat_assets.frames.frame_set import FrameSet
from splat_assets.poses.features import FeaturePlan, group_cameras, make_camera
from splat_assets.progress import Progress

LONG_SIDE = 480  # pixels, of the frames as they are looked at; "px" below are of these
MAX_FEATURES = 500
ANCHORS = 10  # frames compared with some of the frames after them, per camera
NEAR = (1, 3, 10)  # frames further on
FAR = (1, 3, 5)  # anchors further on
MIN_FRAMES = 6  # fewer give no verdict
MIN_RIGID = 24  # matches of a rigid scene without which a pair says nothing
MAX_RATIO = 0.8  # of the distances to the best and the second best match
PARALLAX_PX = 2.0  # about a quarter of a degree; COLMAP takes points from 1.5 degrees on
MIN_INFORMED = 0.6  # of the anchors must have a pair that says something,
MIN_FAR = 0.4  # and a far one: what stands still matches at any distance in time
STILL_SHARE = 0.8  # of those must show no parallax in any pair
TURN_PX = 0.03 * LONG_SIDE  # the picture shifts by more: the camera turns, or is far from a plane
MIN_EXPLAINED = 0.85  # of the rigid matches, by the rotation of a camera that turns
# of the textured picture, turned back, must look the same; median over the anchors
MIN_AGREEMENT = {"fixed": 0.6, "turns": 0.8}
ENOUGH_PLACES = 3  # cameras that each stand still but at so many places can see depth together
_FOCAL_RATIOS = (0.7, 1.0, 1.4, 2.0)  # of the long side, tried where EXIF gives none
_FIT_PX = 1.5
_TRIALS = 150
_REFINEMENTS = 2
_EDGE_PX = 6  # a feature nearer to what is masked out may be the mask's
_HALVED = 2  # pictures are correlated at half their size
_BLUR_PX = 0.75  # pixels that are off by a fraction, and noise, shall still agree
_WINDOW_PX = 11  # over which two pictures are correlated
_SAME = 0.8  # correlation from which on a place shows the same
_TEXTURE = 3.0  # grey levels of standard deviation without which a place says nothing

Kind = Literal["moves", "fixed", "turns", "unknown"]


@dataclass(frozen=True)
class CameraMotion:
    """The verdict on one camera. Pixels are of pictures reduced to `LONG_SIDE`."""

    camera: str
    kind: Kind
    num_pairs: int  # that say something
    parallax_px: float  # median over the pairs; NaN without any
    shift_px: float  # how far what a rotation explains moves between frames far apart

    @property
    def name(self) -> str:
        """`observation.images.cam_high | 640x480` → `observation.images.cam_high`."""
        return self.camera.split(" | ")[0]

    @property
    def stands(self) -> bool:
        """No depth can be seen with it alone."""
        return self.kind in ("fixed", "turns")

    def to_dict(self) -> dict[str, Any]:
        def plain(value: float) -> float | None:
            return round(value, 2) if value == value else None

        return {
            "camera": self.camera,
            "kind": self.kind,
            "num_pairs": self.num_pairs,
            "parallax_px": plain(self.parallax_px),
            "shift_px": plain(self.shift_px),
        }


@dataclass(frozen=True)
class _Features:
    """What was found in one reduced frame."""

    grey: np.ndarray  # [H, W] uint8
    xy: np.ndarray  # [N, 2] from the middle of the picture, as if its long side were LONG_SIDE
    usable: np.ndarray  # [N] bool: not at a mask's edge
    descriptors: np.ndarray  # [N, 128] float32, unit vectors


@dataclass(frozen=True)
class _Pair:
    """Matches of two frames, and which of them move like a rigid scene."""

    anchor: int
    other: int
    first: np.ndarray  # [M, 2] pixels from the middle
    second: np.ndarray  # [M, 2]
    rigid: np.ndarray  # [M] bool


@dataclass(frozen=True)
class _Turn:
    """How well a rotation explains a pair."""

    rotation: np.ndarray  # [3, 3], from the anchor's camera to the other's
    focal: float
    num_fitting: int
    parallax_px: float  # median distance of rigid matches from where the rotation puts them
    explained: float  # share of rigid matches nearer than `PARALLAX_PX` to there
    shift_px: float  # median, of what fits


def camera_motions(
    frames: FrameSet, kept: pd.DataFrame, seed: int, progress: Progress
) -> list[CameraMotion]:
    """Judge every camera of an ordered frame set. The index of `kept` must be 0..N-1."""
    groups = list(group_cameras(kept))
    motions = []
    for number, rows in enumerate(groups):
        span = progress.span(number / len(groups), (number + 1) / len(groups))
        motions.append(_judge(frames, rows, seed, span))
    return motions


def no_parallax(motions: Sequence[CameraMotion]) -> str | None:
    """Why no depth can be found with these cameras, as one sentence; None when it may be."""
    if not motions or len(motions) >= ENOUGH_PLACES or not all(m.stands for m in motions):
        return None
    names = " and ".join(motion.name for motion in motions)
    if len(motions) > 1:
        return f"In {names} the camera stands still, and two places see hardly any depth."
    motion = motions[0]
    if motion.kind == "turns":
        return (
            f"In {names} the camera only turns on the spot and does not change its place, so no "
            "depth can be seen."
        )
    return (
        f"In {names} the camera stands still, or nearly so: its picture shifts by "
        f"{motion.shift_px / LONG_SIDE:.1%} of its width, so no depth can be seen."
    )


def _judge(frames: FrameSet, rows: pd.DataFrame, seed: int, progress: Progress) -> CameraMotion:
    camera = str(rows["camera"].iloc[0])
    places = _pairs(len(rows))
    if len(rows) < MIN_FRAMES:
        return CameraMotion(camera, "unknown", 0, np.nan, np.nan)
    names = [str(name) for name in rows["name"]]
    found = _find_features(frames, names, {p for pair in places for p in pair}, progress)
    pairs = [pair for a, b in places if (pair := _match(a, b, found, seed)) is not None]
    progress.check()
    turns = _best_turns(pairs, _focal_lengths(rows), np.random.default_rng(seed))
    progress.update(1.0, "Looking whether the camera moves")
    if not pairs:
        return CameraMotion(camera, "unknown", 0, np.nan, np.nan)
    anchors = np.array([pair.anchor for pair in pairs])
    parallax = np.array([turn.parallax_px for turn in turns])
    shift = _far_shift(pairs, turns)
    kind = _verdict(pairs, parallax, places, _step(len(rows)))
    if kind == "fixed" and shift > TURN_PX:
        # in front of a plane a sideways move looks much like a turn: nothing nearer may disagree
        explained = float(np.median([turn.explained for turn in turns]))
        kind = "turns" if explained >= MIN_EXPLAINED else "moves"
    if kind in MIN_AGREEMENT:
        progress.check()
        agreement = np.array(
            [
                _agreement(found[pair.anchor].grey, found[pair.other].grey, turn)
                for pair, turn in zip(pairs, turns, strict=True)
            ]
        )
        best = [agreement[anchors == anchor].max() for anchor in np.unique(anchors)]
        if np.median(best) < MIN_AGREEMENT[kind]:
            kind = "moves"
    return CameraMotion(camera, kind, len(pairs), float(np.median(parallax)), shift)


def _far_shift(pairs: Sequence[_Pair], turns: Sequence[_Turn]) -> float:
    """The largest of the medians over pairs that are equally far apart."""
    gaps = np.array([pair.other - pair.anchor for pair in pairs])
    shifts = np.array([turn.shift_px for turn in turns])
    return max(float(np.median(shifts[gaps == gap])) for gap in np.unique(gaps))


def _verdict(
    pairs: Sequence[_Pair], parallax: np.ndarray, places: Sequence[tuple[int, int]], step: int
) -> Kind:
    """An anchor is moving when any of its pairs shows parallax."""
    anchors = np.array([pair.anchor for pair in pairs])
    informed = np.unique(anchors)
    if len(informed) < MIN_INFORMED * len({a for a, _ in places}):
        return "unknown"
    still = [parallax[anchors == anchor].max() < PARALLAX_PX for anchor in informed]
    if np.mean(still) < STILL_SHARE:
        return "moves"
    seen_far = {pair.anchor for pair in pairs if pair.other - pair.anchor >= step}
    if len(seen_far) < MIN_FAR * len({a for a, b in places if b - a >= step}):
        return "unknown"
    return "fixed"


def _pairs(count: int) -> list[tuple[int, int]]:
    """Positions (i, j), i < j, to compare among `count` frames in order."""
    anchors = np.unique(np.linspace(0, max(count - 2, 0), ANCHORS).astype(int))
    step = _step(count)
    gaps = {*NEAR, *(steps * step for steps in FAR)}
    found = {(int(a), int(a) + gap) for a in anchors for gap in gaps if a + gap < count}
    return sorted(found)


def _step(count: int) -> int:
    """Frames from one anchor to the next."""
    return max(1, (count - 2) // (ANCHORS - 1))


def _find_features(
    frames: FrameSet, names: Sequence[str], positions: set[int], progress: Progress
) -> dict[int, _Features]:
    options = pycolmap.FeatureExtractionOptions()
    options.use_gpu = False
    options.num_threads = 1
    options.sift.max_num_features = MAX_FEATURES
    options.sift.first_octave = 0
    options.sift.peak_threshold = 0.004
    extractor = pycolmap.FeatureExtractor.create(options, pycolmap.Device.cpu)
    found = {}
    for number, position in enumerate(sorted(positions)):
        progress.update(number / len(positions), "Looking whether the camera moves", images=number)
        name = names[position]
        with Image.open(frames.images / name) as image:
            grey = _reduced(image)
        near_mask = np.zeros(grey.shape, bool)
        mask_path = frames.masks / f"{name}.png"
        if mask_path.exists():
            with Image.open(mask_path) as mask:
                ignored = np.asarray(mask.convert("L").resize(grey.shape[::-1])) < 128
            grey = np.where(ignored, np.uint8(128), grey)
            near_mask = binary_dilation(ignored, iterations=_EDGE_PX)
        keypoints, descriptors = extractor.extract_from_uint8_array(np.ascontiguousarray(grey))
        places = np.array([[p.x, p.y] for p in keypoints]).reshape(-1, 2)
        x, y = np.minimum(places.astype(int), np.array(grey.shape[::-1]) - 1).T
        xy = (places - np.array(grey.shape[::-1]) / 2) * (LONG_SIDE / max(grey.shape))
        unit = descriptors.data.astype(np.float32).reshape(-1, 128)
        unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
        found[position] = _Features(grey, xy, ~near_mask[y, x], unit)
    return found


def _reduced(image: Image.Image) -> np.ndarray:
    """[H, W] uint8, long side `LONG_SIDE` or less."""
    image.draft("L", (LONG_SIDE, LONG_SIDE))
    grey = image.convert("L")
    grey.thumbnail((LONG_SIDE, LONG_SIDE), Image.Resampling.BOX)
    return np.asarray(grey)


def _match(anchor: int, other: int, found: dict[int, _Features], seed: int) -> _Pair | None:
    """None where too little matches to say anything."""
    a, b = found[anchor], found[other]
    if min(len(a.xy), len(b.xy)) < MIN_RIGID:
        return None
    i, j = _nearest(a.descriptors, b.descriptors)
    usable = a.usable[i] & b.usable[j]
    if usable.sum() < MIN_RIGID:
        return None
    first, second = a.xy[i[usable]], b.xy[j[usable]]
    ransac = pycolmap.RANSACOptions()
    ransac.max_error = _FIT_PX
    ransac.min_num_trials, ransac.max_num_trials = 100, 1000
    ransac.random_seed = seed
    epipolar = pycolmap.estimate_fundamental_matrix(first, second, ransac)
    if epipolar is None or epipolar["num_inliers"] < MIN_RIGID:
        return None
    return _Pair(anchor, other, first, second, np.asarray(epipolar["inlier_mask"]))


def _nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `a` and of `b` that are each other's nearest, and clearly so (Lowe's ratio).

    COLMAP's own matcher takes longer for this than all the rest here together.
    """
    cosines = a @ b.T
    nearest = cosines.argmax(axis=1)
    rows = np.arange(len(a))
    two = np.partition(cosines, -2, axis=1)[:, -2:]
    second, first = np.sqrt(np.maximum(2 - 2 * two, 0)).T
    good = (cosines.argmax(axis=0)[nearest] == rows) & (first < MAX_RATIO * second)
    return rows[good], nearest[good]


def _focal_lengths(rows: pd.DataFrame) -> tuple[float, ...]:
    """Candidates in pixels of the reduced pictures: the known one, or a range."""
    camera = make_camera(rows, "auto", FeaturePlan(LONG_SIDE, MAX_FEATURES))
    if camera.has_prior_focal_length:
        return (camera.mean_focal_length() * LONG_SIDE / max(camera.width, camera.height),)
    return tuple(ratio * LONG_SIDE for ratio in _FOCAL_RATIOS)


def _best_turns(
    pairs: Sequence[_Pair], focals: Sequence[float], rng: np.random.Generator
) -> list[_Turn]:
    """The rotations of all pairs for the one focal length that explains most matches."""
    tried = [[_fit_turn(pair, focal, rng) for pair in pairs] for focal in focals]
    return max(tried, key=lambda turns: sum(turn.num_fitting for turn in turns))


def _fit_turn(pair: _Pair, focal: float, rng: np.random.Generator) -> _Turn:
    """RANSAC over rotations from two matches each, then refined on what fits."""
    u, v = _bearings(pair.first, focal), _bearings(pair.second, focal)
    chosen = rng.integers(0, len(u), (_TRIALS, 2))
    rotations = _frames_of(v[chosen]) @ _frames_of(u[chosen]).transpose(0, 2, 1)
    errors = _errors(rotations, u, pair.second, focal)
    winner = int((errors < _FIT_PX).sum(axis=1).argmax())
    rotation, best = rotations[winner], errors[winner]
    for _ in range(_REFINEMENTS):
        fits = best < _FIT_PX
        if fits.sum() < 3:
            break
        mean = _mean_rotation(u[fits], v[fits])
        refined = _errors(mean[None], u, pair.second, focal)[0]
        if (refined < _FIT_PX).sum() < fits.sum():
            break
        rotation, best = mean, refined
    fits = best < _FIT_PX
    moved = np.linalg.norm(pair.second - pair.first, axis=1)
    return _Turn(
        rotation,
        focal,
        num_fitting=int(fits.sum()),
        parallax_px=float(np.median(best[pair.rigid])),
        explained=float(np.mean(best[pair.rigid] < PARALLAX_PX)),
        shift_px=float(np.median(moved[fits])) if fits.any() else np.inf,
    )


def _bearings(xy: np.ndarray, focal: float) -> np.ndarray:
    """[N, 3] unit vectors of places in the picture."""
    rays = np.column_stack([xy / focal, np.ones(len(xy))])
    return rays / np.linalg.norm(rays, axis=1, keepdims=True)


def _frames_of(rays: np.ndarray) -> np.ndarray:
    """[T, 3, 3] orthonormal frames (columns) spanned by two rays each, [T, 2, 3]."""
    x = rays[:, 0]
    z = np.cross(x, rays[:, 1])
    z = z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-12)
    return np.stack([x, np.cross(z, x), z], axis=2)


def _errors(rotations: np.ndarray, u: np.ndarray, second: np.ndarray, focal: float) -> np.ndarray:
    """[T, N] pixels between where each rotation puts the rays and where they were matched."""
    turned = np.einsum("tij,nj->tni", rotations, u)
    xy = turned[..., :2] / np.maximum(turned[..., 2:], 1e-3) * focal
    return np.linalg.norm(xy - second, axis=2)


def _mean_rotation(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[3, 3] the rotation that takes u nearest to v (Kabsch)."""
    left, _, right = np.linalg.svd(v.T @ u)
    sign = np.diag([1.0, 1.0, np.linalg.det(left @ right)])
    return left @ sign @ right


def _agreement(anchor: np.ndarray, other: np.ndarray, turn: _Turn) -> float:
    """Share of the textured anchor that looks the same in the other picture, turned back; 0..1."""
    if other.shape != anchor.shape:
        return 0.0
    anchor, other = _halve(anchor), _halve(other)
    height, width = anchor.shape
    focal = turn.focal * max(height, width) / LONG_SIDE
    y, x = np.mgrid[:height, :width]
    middle = np.array([width / 2, height / 2])
    rays = np.stack([(x - middle[0]) / focal, (y - middle[1]) / focal, np.ones_like(x)])
    seen = np.tensordot(turn.rotation, rays, axes=1)
    place = seen[:2] / np.maximum(seen[2:], 1e-3) * focal + middle[:, None, None]
    turned = map_coordinates(other, place[::-1], order=1, mode="nearest")
    a, b = (gaussian_filter(picture, _BLUR_PX) for picture in (anchor, turned))
    mean_a, mean_b = uniform_filter(a, _WINDOW_PX), uniform_filter(b, _WINDOW_PX)
    var_a = np.maximum(uniform_filter(a * a, _WINDOW_PX) - mean_a**2, 0)
    var_b = np.maximum(uniform_filter(b * b, _WINDOW_PX) - mean_b**2, 0)
    shared = uniform_filter(a * b, _WINDOW_PX) - mean_a * mean_b
    textured = np.maximum(var_a, var_b) > _TEXTURE**2
    same = shared > _SAME * np.sqrt(np.maximum(var_a * var_b, 1e-6))
    return float((same & textured).sum() / max(textured.sum(), 1))


def _halve(grey: np.ndarray) -> np.ndarray:
    """[H // 2, W // 2] float32, means of four."""
    height, width = (side // _HALVED for side in grey.shape)
    parts = grey[: _HALVED * height, : _HALVED * width].reshape(height, _HALVED, width, _HALVED)
    return parts.mean(axis=(1, 3), dtype=np.float32)
