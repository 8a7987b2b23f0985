"""What people do to a splat between two formats: turn, cut, clean, thin out.

`apply` does the steps in one fixed order, whatever order they were asked for: clean, scale, turn,
move, cut, drop, reduce the degree, decimate.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from splat_assets.errors import UserError
from splat_assets.formats.decimate import decimate
from splat_assets.gaussians.cleanup import clean
from splat_assets.gaussians.gaussians import SH_REST, Gaussians
from splat_assets.gaussians.transform import rotate, scale, translate
from splat_assets.progress import Progress, silent

_STRAY_FACTOR = 10.0  # of the usual distance from the middle
UPS = {
    sign + axis: np.eye(3)[i] * (-1 if sign else 1)
    for i, axis in enumerate("xyz")
    for sign in ("", "-")
}


@dataclass(frozen=True)
class Edit:
    """What to do; the defaults do nothing but drop what no format can hold."""

    up: str | None = None  # which way is up in the inputs ("y", "-z", …); turned to -y
    scale: float = 1.0
    rotate_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)  # about x, then y, then z
    translate: tuple[float, float, float] = (0.0, 0.0, 0.0)
    box: tuple[float, float, float, float, float, float] | None = None  # min x y z, max x y z
    sphere: tuple[float, float, float, float] | None = None  # centre, radius
    drop_invisible: bool = False  # those that never reach 1/255
    drop_stray: bool = False  # those far away from all others
    sh_degree: int | None = None  # at most
    count: int | None = None  # at most, by merging
    share: float | None = None  # the same as a share of what is left after all else


@dataclass(frozen=True)
class Edited:
    """The result, and what went where."""

    gaussians: Gaussians
    dropped: dict[str, int] = field(default_factory=dict)  # why: how many; only what happened


def apply(gaussians: Gaussians, edit: Edit, progress: Progress | None = None) -> Edited:
    """Do what `edit` says. Raises `UserError` for an impossible wish, or when nothing is left."""
    progress = progress or silent()
    _check(edit)
    dropped: dict[str, int] = {}
    kept, report = clean(gaussians, drop_invisible=edit.drop_invisible)
    reasons = (
        ("not finite", report.non_finite),
        ("zero rotation", report.zero_quats),
        ("invisible", report.invisible),
    )
    dropped |= {why: count for why, count in reasons if count}
    kept = _place(kept, edit)

    def keep(inside: np.ndarray, why: str) -> None:
        nonlocal kept
        if not inside.all():
            dropped[why] = int((~inside).sum())
            kept = kept.select(inside)

    if edit.box is not None:
        low, high = np.array(edit.box[:3]), np.array(edit.box[3:])
        inside = (kept.means >= low) & (kept.means <= high)
        keep(np.logical_and.reduce(inside, axis=1), "outside the box")
    if edit.sphere is not None:
        offset = kept.means.astype(np.float64) - edit.sphere[:3]
        keep((offset**2).sum(axis=1) <= edit.sphere[3] ** 2, "outside the sphere")
    if edit.drop_stray and len(kept):
        keep(~is_stray(kept), "stray")
    if not len(kept):
        raise UserError("Nothing is left: every Gaussian was dropped.")
    if edit.sh_degree is not None and edit.sh_degree < kept.sh_degree:
        kept = replace(kept, shN=np.ascontiguousarray(kept.shN[:, : SH_REST[edit.sh_degree]]))
    count = edit.count if edit.share is None else max(1, round(edit.share * len(kept)))
    if count is not None and count < len(kept):
        dropped["merged"] = len(kept) - count
        kept = decimate(kept, count, progress)
    return Edited(kept, dropped)


def is_stray(gaussians: Gaussians) -> np.ndarray:
    """[N] bool: farther than ten times as far from the middle as all but the outermost 2 % are, or
    as large as that distance."""
    means = gaussians.means.astype(np.float64)
    distance = np.linalg.norm(means - np.median(means, axis=0), axis=1)
    usual = float(np.quantile(distance, 0.98))
    if usual == 0:
        return np.zeros(len(means), bool)
    largest = np.exp(np.minimum(gaussians.scales.max(axis=1), 80.0).astype(np.float64))
    return (distance > _STRAY_FACTOR * usual) | (largest > _STRAY_FACTOR * usual)


def _check(edit: Edit) -> None:
    numbers = (edit.scale, *edit.rotate_deg, *edit.translate, *(edit.box or ()))
    if not np.isfinite([*numbers, *(edit.sphere or ())]).all():
        raise UserError("Distances, angles and factors must be finite numbers.")
    if edit.scale <= 0:
        raise UserError(f"A splat cannot be scaled by {edit.scale:g}; give a number above 0.")
    if edit.up is not None and edit.up not in UPS:
        raise UserError(f"Up cannot be {edit.up!r}; choose one of {', '.join(UPS)}.")
    if edit.box is not None and any(np.greater(edit.box[:3], edit.box[3:])):
        raise UserError("The box is empty: give its lower corner first, then its upper one.")
    if edit.sphere is not None and edit.sphere[3] <= 0:
        raise UserError(f"A sphere of radius {edit.sphere[3]:g} holds nothing.")
    if edit.sh_degree is not None and edit.sh_degree not in SH_REST:
        raise UserError(f"There is no SH degree {edit.sh_degree}; choose 0 to 3.")
    if edit.share is not None and not 0 < edit.share <= 1:
        raise UserError(f"A splat cannot be reduced to {edit.share:.4g} of its Gaussians.")
    if edit.count is not None and edit.count < 1:
        raise UserError(f"A splat cannot be reduced to {edit.count} Gaussians.")


def _place(g: Gaussians, edit: Edit) -> Gaussians:
    if edit.up is not None:
        from splat_assets.viewing.camera import upright_rotation

        turn = upright_rotation(UPS[edit.up])
        g = g if np.allclose(turn, np.eye(3)) else rotate(g, turn)
    if edit.scale != 1:
        g = scale(g, edit.scale)
    if any(edit.rotate_deg):
        g = rotate(g, euler_matrix(edit.rotate_deg))
    if any(edit.translate):
        g = translate(g, np.array(edit.translate))
    return g


def euler_matrix(degrees: tuple[float, float, float]) -> np.ndarray:
    """[3, 3] rotation about x, then about y, then about z, all of them fixed axes."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(degrees)):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[second, first], turn[first, second] = np.sin(angle), -np.sin(angle)
        matrix = turn @ matrix
    return matrix
