"""Remove from a splat what no renderer can draw, and say how much that was."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from splat_assets.gaussians.gaussians import Gaussians

_MIN_LOGIT = float(np.log((1 / 255) / (1 - 1 / 255)))


@dataclass(frozen=True)
class CleanupReport:
    """How many Gaussians were dropped, and why; each is counted under its first reason."""

    total: int
    non_finite: int
    zero_quats: int
    invisible: int = 0

    @property
    def dropped(self) -> int:
        return self.non_finite + self.zero_quats + self.invisible

    def describe(self) -> str:
        """One sentence, or "" when nothing was dropped."""
        if not self.dropped:
            return ""
        counts = (
            (self.non_finite, "with values that are not finite"),
            (self.zero_quats, "with a zero quaternion"),
            (self.invisible, "too transparent to be seen"),
        )
        parts = ", ".join(f"{count} {what}" for count, what in counts if count)
        return f"Dropped {self.dropped} of {self.total} Gaussians: {parts}."


def clean(gaussians: Gaussians, *, drop_invisible: bool = False) -> tuple[Gaussians, CleanupReport]:
    """Drop Gaussians with non-finite values or zero quaternions; normalise the other quaternions.

    An opacity of +∞ (a logit of exactly 1.0, which some tools write) is drawable, so it is clamped
    rather than dropped; one of -∞ is invisible and dropped as not finite.

    Args:
        drop_invisible: also drop those that never reach 1/255, the rasterisers' threshold.
    """
    opacities = gaussians.opacities
    if np.isposinf(opacities).any():
        opacities = np.where(np.isposinf(opacities), np.float32(20.0), opacities)
    arrays = (
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        opacities,
        gaussians.sh0,
        gaussians.shN,
    )
    n = len(gaussians)
    finite = np.ones(n, dtype=bool)
    for array in arrays:
        is_finite = np.isfinite(array)
        if not is_finite.all():  # seldom; by row it takes much longer
            finite &= is_finite.reshape(n, -1).all(axis=1)
    # float64: the square of a tiny but valid quaternion underflows in float32
    squares = np.zeros(n)
    for column in gaussians.quats.T:
        squares += np.square(column, dtype=np.float64)
    lengths = np.sqrt(squares)
    turned = lengths > 0
    visible = opacities >= _MIN_LOGIT if drop_invisible else np.ones(n, dtype=bool)
    report = CleanupReport(
        total=n,
        non_finite=int((~finite).sum()),
        zero_quats=int((finite & ~turned).sum()),
        invisible=int((finite & turned & ~visible).sum()),
    )
    keep = finite & turned & visible
    kept = replace(gaussians, opacities=opacities)
    if not keep.all():
        kept, lengths = kept.select(keep), lengths[keep]
    quats = np.empty_like(kept.quats)  # without all of them in float64 in between
    np.divide(kept.quats, lengths[:, None], out=quats, casting="same_kind")
    return replace(kept, quats=quats), report
