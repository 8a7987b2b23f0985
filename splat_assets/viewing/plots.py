"""The plots that the UI shows: frames over time, the training curve, the camera path from above.

Every function takes plain arrays or tables and returns a small PNG. Figures are drawn with the Agg
canvas and never touch pyplot's global state, so that threads of a server may draw at once.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_BYTES = 60_000
_MAX_POINTS = 5_000  # of the sparse cloud; more only makes the file larger
_MAX_TICKS = 60_000  # rows of a table drawn at most

_KEPT = "#2563eb"
_DROPPED = {
    "blurred": "#dc2626",
    "duplicate": "#d97706",
    "identical": "#a16207",
    "over max_frames": "#9ca3af",
}
_OTHER = "#7c3aed"
_SECOND = "#16a34a"
_INK = "#27272a"
_FAINT = "#a1a1aa"


def frames_plot(table: pd.DataFrame) -> bytes:
    """Sharpness of every frame over time (or order), kept ones against dropped ones by reason.

    Args:
        table: as in `frames.parquet`; needs `timestamp_sec`, `source_file`, `sharpness`, `kept`
            and `dropped_reason`. Time is used for videos, order where any frame has none; several
            sources follow one another.
    """
    figure, axes = _figure(7.2, 2.8)
    seen = table[np.isfinite(table["sharpness"].astype(float))]
    seen = _thin(seen, _MAX_TICKS)
    if len(seen) == 0:
        return _empty(figure, axes, "no frame was scored")
    x, label = _frame_positions(seen)
    sharpness = seen["sharpness"].to_numpy(float)
    kept = seen["kept"].to_numpy(bool)
    reasons = seen["dropped_reason"].astype(str).to_numpy()
    axes.plot(x, sharpness, color=_FAINT, linewidth=0.6, zorder=1)
    axes.scatter(
        x[kept], sharpness[kept], s=14, color=_KEPT, label=f"kept ({kept.sum()})", zorder=3
    )
    for reason in sorted(set(reasons[~kept])):
        chosen = ~kept & (reasons == reason)
        colour = _DROPPED.get(reason, _OTHER)
        text = f"{reason or 'dropped'} ({chosen.sum()})"
        axes.scatter(
            x[chosen], sharpness[chosen], s=16, marker="x", linewidths=1, color=colour, label=text
        )
    positive = sharpness[sharpness > 0]
    if len(positive) and positive.max() / positive.min() > 30:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel("sharpness")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=5, frameon=False)
    return _png(figure)


def training_plot(table: pd.DataFrame) -> bytes:
    """PSNR and loss over the steps, and below them the number of Gaussians.

    Args:
        table: as in `training.parquet`: `step`, `loss`, `psnr_db`, `num_gaussians`, `seconds`;
            NaN where a step did not measure.
    """
    from matplotlib.ticker import EngFormatter

    figure, axes = _figure(7.2, 3.6, rows=2, heights=(3, 1.3))
    above, below = axes
    rows = _thin(table, 2_000)
    if len(rows) == 0:
        below.set_axis_off()
        return _empty(figure, above, "no step was recorded")
    step = rows["step"].to_numpy(float)
    loss, psnr = rows["loss"].to_numpy(float), rows["psnr_db"].to_numpy(float)
    right = above.twinx()
    right.spines["top"].set_visible(False)
    measured = np.isfinite(loss)
    right.plot(step[measured], loss[measured], color=_FAINT, linewidth=0.8)
    smooth = _smooth(loss[measured])
    right.plot(step[measured], smooth, color=_INK, linewidth=1.2)
    if len(smooth) and smooth.min() > 0:
        right.set_yscale("log")
    right.set_ylabel("loss")
    measured = np.isfinite(psnr)
    if measured.any():
        marker = "o" if measured.sum() <= 40 else None
        above.plot(step[measured], psnr[measured], color=_KEPT, marker=marker, markersize=3)
        above.set_title(
            f"PSNR {psnr[measured][-1]:.2f} dB after {step[-1]:.0f} steps"
            f" and {_duration(rows['seconds'].max())}",
            loc="left",
        )
    above.set_ylabel("PSNR (dB)", color=_KEPT)
    above.tick_params(axis="y", colors=_KEPT)
    above.set_zorder(right.get_zorder() + 1)
    above.patch.set_visible(False)
    above.tick_params(labelbottom=False)
    below.sharex(above)
    below.fill_between(step, rows["num_gaussians"].to_numpy(float), color=_SECOND, alpha=0.25)
    below.plot(step, rows["num_gaussians"].to_numpy(float), color=_SECOND, linewidth=1.2)
    below.set_ylim(bottom=0)
    below.yaxis.set_major_formatter(EngFormatter(sep=" "))
    below.set_ylabel("Gaussians")
    below.set_xlabel("step")
    return _png(figure)


def camera_path_plot(
    centers: np.ndarray,
    directions: np.ndarray,
    points: np.ndarray | None = None,
    *,
    colors: np.ndarray | None = None,
    ordered: bool = False,
    up: np.ndarray | None = None,
) -> bytes:
    """Cameras and sparse points seen from above.

    Args:
        centers: [N, 3] camera positions.
        directions: [N, 3] viewing directions, of any length.
        points: [P, 3] sparse points.
        colors: [P, 3] uint8 colours of the points.
        ordered: the cameras follow a path, which is drawn.
        up: [3] what is up; without it, the direction in which the cameras spread least.
    """
    figure, axes = _figure(5.2, 5.2)
    centers = np.asarray(centers, dtype=np.float64).reshape(-1, 3)
    directions = np.asarray(directions, dtype=np.float64).reshape(-1, 3)
    if len(centers) == 0:
        return _empty(figure, axes, "no camera was registered")
    plane = _ground_plane(centers, directions, up)
    flat = centers @ plane.T
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    looks = (directions / np.maximum(lengths, 1e-12)) @ plane.T
    middle, reach = _extent(flat, None if points is None else np.asarray(points) @ plane.T)
    if points is not None and len(points):
        _draw_points(axes, np.asarray(points, dtype=np.float64) @ plane.T, colors)
    if ordered:
        axes.plot(flat[:, 0], flat[:, 1], color=_FAINT, linewidth=0.8, zorder=2)
    axes.quiver(
        *flat.T, *looks.T, angles="xy", scale_units="xy", scale=1 / (0.08 * reach),
        width=0.004, color=_KEPT, zorder=3,
    )  # fmt: skip
    axes.scatter(*flat.T, s=10, color=_KEPT, zorder=4)
    if ordered and len(flat) > 1:
        for at, colour, text in ((0, _SECOND, "first"), (-1, "#dc2626", "last")):
            axes.scatter(*flat[at], s=26, color=colour, label=text, zorder=5)
        axes.legend(loc="upper right", frameon=False)
    axes.set_xlim(middle[0] - reach, middle[0] + reach)
    axes.set_ylim(middle[1] - reach, middle[1] + reach)
    axes.set_aspect("equal")
    axes.set_title(f"{len(centers)} cameras from above", loc="left")
    return _png(figure)


def _frame_positions(table: pd.DataFrame) -> tuple[np.ndarray, str]:
    """x of each row and what it means: seconds, sources one after the other, or the order."""
    seconds = table["timestamp_sec"].to_numpy(float)
    order = np.arange(len(table), dtype=float)
    sources = table["source_file"].astype(str).to_numpy()
    is_video = len(set(sources)) < len(sources)  # photos are files of their own
    if not is_video or not np.isfinite(seconds).all():
        return order, "photo, in order of name"
    begins, offset = {}, 0.0
    for source in dict.fromkeys(sources):
        times = seconds[sources == source]
        begins[source] = offset - (times.min() if offset else 0.0)
        offset = begins[source] + times.max() * 1.02
    shifted = seconds + np.array([begins[source] for source in sources])
    return shifted, "seconds" if len(begins) == 1 else f"seconds, {len(begins)} videos in a row"


def _ground_plane(centers: np.ndarray, directions: np.ndarray, up: np.ndarray | None) -> np.ndarray:
    """[2, 3] orthonormal axes of the plane seen from above, right-handed with up."""
    spread = centers - centers.mean(axis=0)
    if up is None:
        # All cameras in one place (or on a line) say nothing; their views then spread the plane.
        samples = spread if np.linalg.matrix_rank(spread, tol=1e-9) >= 2 else directions
        up = np.linalg.svd(samples - samples.mean(axis=0), full_matrices=True)[2][2]
        # Cameras look down on things more often than up.
        up = -up if float(directions.mean(axis=0) @ up) > 0 else up
    up = np.asarray(up, dtype=np.float64) / np.linalg.norm(up)
    level = spread - np.outer(spread @ up, up)
    first = np.linalg.svd(np.vstack([level, np.eye(3) * 1e-9]), full_matrices=False)[2][0]
    first = first - (first @ up) * up
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(up, first)])


def _extent(cameras: np.ndarray, points: np.ndarray | None) -> tuple[np.ndarray, float]:
    """Middle [2] and half the side of the view: all cameras, and the points but for stray ones."""
    low, high = cameras.min(axis=0), cameras.max(axis=0)
    if points is not None and len(points) >= 10:
        inner = np.percentile(points, (4, 96), axis=0)
        size = max(float((high - low).max()), 1e-9)
        # Far background must not shrink the cameras to a dot.
        low = np.minimum(low, np.maximum(inner[0], low - 1.5 * size))
        high = np.maximum(high, np.minimum(inner[1], high + 1.5 * size))
    reach = float((high - low).max()) / 2 * 1.15
    return (low + high) / 2, reach if reach > 0 else 1.0


def _draw_points(axes: Axes, flat: np.ndarray, colors: np.ndarray | None) -> None:
    chosen = np.arange(len(flat))
    if len(flat) > _MAX_POINTS:
        chosen = np.random.default_rng(0).choice(len(flat), _MAX_POINTS, replace=False)
    shade: Any = _FAINT if colors is None else np.asarray(colors)[chosen] / 255.0
    axes.scatter(flat[chosen, 0], flat[chosen, 1], s=2, c=shade, linewidths=0, alpha=0.7, zorder=1)


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over about a twentieth of the curve, of the same length."""
    width = max(1, len(values) // 20)
    if width == 1:
        return values
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _thin(table: pd.DataFrame, limit: int) -> pd.DataFrame:
    """Every n-th row, and the last."""
    if len(table) <= limit:
        return table
    return table.iloc[np.unique(np.linspace(0, len(table) - 1, limit).astype(int))]


def _duration(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "unknown time"
    minutes, rest = divmod(round(float(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes} min"
        if hours
        else f"{minutes} min {rest} s"
        if minutes
        else f"{rest} s"
    )


def _figure(
    width: float, height: float, *, rows: int = 1, heights: tuple[float, ...] | None = None
) -> tuple[Figure, Any]:
    """A figure in inches, with one `Axes` or an array of `rows` of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, gridspec_kw={"height_ratios": heights} if heights else None)
    for each in np.atleast_1d(axes):
        each.spines[["top", "right"]].set_visible(False)
        each.spines[["left", "bottom"]].set_color(_FAINT)
        each.grid(True, color="#e4e4e7", linewidth=0.6)
        each.set_axisbelow(True)
    return figure, axes


def _empty(figure: Figure, axes: Axes, message: str) -> bytes:
    axes.set_axis_off()
    axes.text(0.5, 0.5, message, ha="center", va="center", color=_INK, transform=axes.transAxes)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    """The figure as PNG of 128 colours, a third of the bytes; in lower resolution if needed."""
    from PIL import Image

    _style(figure)
    for dpi in (110, 90, 70, 50):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
        image = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        packed = io.BytesIO()
        image.save(packed, "PNG", optimize=True)
        if packed.tell() < MAX_BYTES:
            break
    return packed.getvalue()


def _style(figure: Figure) -> None:
    """Small, quiet text, set per figure rather than in matplotlib's global settings."""
    from matplotlib.text import Text

    each: Callable[..., list[Any]] = figure.findobj
    for text in each(Text):
        text.set_fontsize(8.5)
