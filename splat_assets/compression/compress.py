"""The stage `compressed_splat`: a trained splat becomes standard SOG files, a viewer page and a
report that measures, instead of promising, what was lost."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splat_assets.artifacts.manifest import build_manifest, write_manifest
from splat_assets.compression.compressed_splat import CompressedSplat
from splat_assets.compression.fallback import Notes, first_that_works
from splat_assets.compression.presentation import write_report
from splat_assets.compression.quality import Quality, choose_views, measure_loss
from splat_assets.compression.sog_bundle import EncodedSog, write_bundle, write_folder
from splat_assets.compression.sog_reader import read_sog
from splat_assets.compression.streamed import (
    STREAM_ABOVE,
    StreamedSog,
    StreamOptions,
    write_streamed,
)
from splat_assets.compression.targets import TargetedSog, encode_as_wished
from splat_assets.compression.views import frame_splat
from splat_assets.compute import Compute, peak_memory_bytes
from splat_assets.datasets.options import CompressOptions
from splat_assets.errors import TransientError, UserError
from splat_assets.formats.registry import LOD_META
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.ply import read_ply, write_ply
from splat_assets.gaussians.splat_model import SplatModel, View
from splat_assets.gaussians.transform import rotate
from splat_assets.progress import Progress
from splat_assets.viewing.camera import orbit_views, pick_view, turn_view, upright_rotation
from splat_assets.viewing.preview import write_preview

_LEVEL_ENOUGH_DEG = 1.0  # smaller tilts are left alone


@dataclass(frozen=True)
class _Scene:
    """The splat as it will be published: turned upright, with cameras to look at it."""

    gaussians: Gaussians
    rotation: np.ndarray | None  # [3, 3] from the frame of the poses; None when not turned
    views: list[View]  # to compare in, frame of the poses
    cameras: list[View]  # to choose the precision in: those of training, frame of the poses
    opening: View  # to open the viewer with, frame of the published splat
    target: np.ndarray  # [3] what the viewer orbits, frame of the published splat
    background: tuple[float, float, float]

    @property
    def judging_views(self) -> list[View] | None:
        """`cameras` in the frame of the published splat; None when it came without."""
        if not self.cameras or self.rotation is None:
            return self.cameras or None
        return [turn_view(view, self.rotation) for view in self.cameras]


def compress_splat(
    splat: SplatModel,
    out: Path,
    *,
    options: CompressOptions,
    compute: Compute,
    progress: Progress,
) -> CompressedSplat:
    """Write a `CompressedSplat` into the existing empty folder `out`.

    The published splat is turned upright (-y up, as viewers expect) where the poses tell which way
    up is; the rotation is in `report.json` under `frame`.

    Raises `UserError` when the splat is empty or damaged, `Cancelled` when asked to stop.
    """
    began, cpu_began = time.perf_counter(), time.process_time()
    progress.update(0.0, "Reading the splat")
    original = read_ply(splat.ply)
    scene = _prepare(splat, original)
    targeted = encode_as_wished(
        scene.gaussians,
        options,
        scene.judging_views,
        progress.span(0.05, 0.5),
        background=scene.background,
    )
    encoded = targeted.encoded
    encode_seconds = time.perf_counter() - began

    sog_bytes = write_bundle(out / "scene.sog", encoded)
    write_folder(out / "scene", encoded)
    notes = Notes(progress)
    streamed = _stream(out, scene.gaussians, encoded, options, notes, progress.span(0.45, 0.5))
    for name in options.formats:
        if name == "ply":
            write_ply(out / "scene.ply", scene.gaussians)
    decoded = read_sog(out / "scene.sog")
    if len(decoded) != encoded.count:
        raise RuntimeError(f"scene.sog decodes to {len(decoded)} of {encoded.count} Gaussians")

    quality = measure_loss(
        original,
        decoded,
        scene.views,
        compute=compute,
        progress=progress.span(0.5, 0.9),
        background=scene.background,
        folder=splat.path,
        rotation=scene.rotation,
    )
    progress.update(0.9, "Drawing the preview")
    write_preview(
        out / "preview.jpg", decoded, scene.opening, compute=compute, background=scene.background
    )
    ply_bytes = splat.ply.stat().st_size
    figures = _figures(encoded, quality, ply_bytes, sog_bytes)
    if streamed is not None:
        figures["streamed_bytes"] = streamed.bytes
    if options.viewer:
        progress.update(0.95, "Writing the viewer page")
        large = streamed is not None and encoded.count > STREAM_ABOVE
        content = out / (f"streamed/{LOD_META}" if large else "scene.sog")
        _write_viewer(out, content, scene, splat.manifest.dataset, figures, notes)
    figures["seconds"] = round(time.perf_counter() - began, 2)
    told = (encoded.cleanup.describe(), *targeted.notes, *(streamed.notes if streamed else ()))
    figures["notes"] = [note for note in dict.fromkeys((*told, *notes)) if note]
    report = {
        **_report(figures, targeted, quality, scene),
        **({"streamed": streamed.to_dict()} if streamed else {}),
        "encode_seconds": round(encode_seconds, 2),
        "cpu_seconds": round(time.process_time() - cpu_began, 2),
        "peak_memory_bytes": peak_memory_bytes(compute.device),
    }
    write_report(
        out,
        report,
        title=splat.manifest.dataset,
        before=original,
        after=decoded,
        views=scene.views,
        quality=quality,
        folder=splat.path,
        compute=compute,
        background=scene.background,
        rotation=scene.rotation,
    )
    manifest = build_manifest(
        out,
        CompressedSplat.KIND,
        versioned=["scene.sog"],
        summary=figures,
        options=options.model_dump(mode="json"),
    )
    # before the manifest, which makes the folder whole: a stop asked for until now is obeyed
    progress.update(1.0, "Compressed", sog_bytes=sog_bytes, ratio=figures["ratio"])
    write_manifest(out, manifest)
    return CompressedSplat.open(out)


def _prepare(splat: SplatModel, original: Gaussians) -> _Scene:
    """Turn the splat upright and find the cameras to judge and to show it with."""
    views = splat.views()
    if not views:
        center, radius = frame_splat(original)
        around = orbit_views(center, radius)
        return _Scene(original, None, around, [], around[1], center, (0.0, 0.0, 0.0))
    background = tuple(float(c) for c in splat.evaluation().get("background", (0, 0, 0)))
    center = np.array(splat.summary.get("scene_center") or frame_splat(original)[0], np.float64)
    rotation = None
    up = splat.summary.get("scene_up")
    if up is not None:
        turn = upright_rotation(np.array(up, np.float64))
        angle = np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1)))
        rotation = turn if angle > _LEVEL_ENOUGH_DEG else None
    opening = pick_view(views, center, None if up is None else np.array(up, np.float64))
    if rotation is None:
        published, target = original, center
    else:
        published, target = rotate(original, rotation), rotation @ center
        opening = turn_view(opening, rotation)
    red, green, blue = background
    trained = [view for view in views if not view.is_test] or views
    background = (red, green, blue)
    return _Scene(published, rotation, choose_views(views), trained, opening, target, background)


def _figures(
    encoded: EncodedSog, quality: Quality, ply_bytes: int, sog_bytes: int
) -> dict[str, Any]:
    """The manifest's summary."""
    measured = quality.to_dict()
    figures: dict[str, Any] = {
        "num_gaussians": encoded.count,
        "ply_bytes": ply_bytes,
        "sog_bytes": sog_bytes,
        "ratio": round(ply_bytes / sog_bytes, 2),
        "psnr_vs_splat_db": measured["psnr_vs_splat_db"],
        "ssim_vs_splat": measured["ssim_vs_splat"],
        "order": encoded.sorting.order,
        "palette_size": encoded.palette_size,
    }
    if "psnr_loss_db" in measured:
        figures |= {
            "psnr_db": measured["psnr_after_db"],
            "ssim": measured["ssim_after"],
            "psnr_loss_db": measured["psnr_loss_db"],
        }
    return figures


def _stream(
    out: Path,
    gaussians: Gaussians,
    encoded: EncodedSog,
    options: CompressOptions,
    notes: Notes,
    progress: Progress,
) -> StreamedSog | None:
    """Write `streamed/` where it is wanted, or the scene is too large for one file."""
    large = options.streamed == "auto" and encoded.count > STREAM_ABOVE
    if not large and options.streamed != "always":
        return None
    wishes = StreamOptions(
        preset=options.preset, precision=encoded.precision, palette_size=options.palette_size
    )
    target = out / "streamed" / LOD_META
    return first_that_works(
        "Cutting the scene into chunks",
        (
            ("", lambda: write_streamed(target, gaussians, wishes, progress=progress)),
            ("there is scene.sog only", lambda: None),
        ),
        notes,
    )


def _write_viewer(
    out: Path,
    content: Path,
    scene: _Scene,
    name: str,
    figures: dict[str, Any],
    notes: Notes,
) -> None:
    """Write `viewer.html`. Not being able to reach npm must not cost the compressed splat."""
    from splat_assets.viewing.viewer import write_viewer_html

    caption = [
        f"{figures['num_gaussians']:,} Gaussians",
        f"{figures['sog_bytes'] / 1e6:.2f} MB, {figures['ratio']:.0f}× smaller",
    ]
    if "psnr_db" in figures:
        caption.append(f"{figures['psnr_db']:.1f} dB on held-out photos")
    else:
        caption.append(f"{figures['psnr_vs_splat_db']:.1f} dB to the uncompressed splat")
    try:
        write_viewer_html(
            out / "viewer.html",
            content,
            title=name or "Gaussian splat",
            view=scene.opening,
            target=scene.target,
            background=scene.background,
            caption=caption,
        )
    except (UserError, TransientError) as problem:
        notes(str(problem))


def _report(
    figures: dict[str, Any],
    targeted: TargetedSog,
    quality: Quality,
    scene: _Scene,
) -> dict[str, Any]:
    """What `report.json` holds beyond the summary."""
    encoded = targeted.encoded
    return {
        **figures,
        "field_bytes": encoded.field_bytes,
        "bytes_per_gaussian": round(figures["sog_bytes"] / encoded.count, 3),
        "codebooks": encoded.codebooks,
        "precision": asdict(encoded.precision),
        "aimed_db": round(targeted.aimed_db, 2),
        "sh_degree": scene.gaussians.sh_degree,
        "antialiased": scene.gaussians.antialiased,
        "quality": quality.to_dict(),
        "quality_views": "registered" if scene.cameras else "orbit",
        "sorter": encoded.sorting.sorter,
        "sorted_per_second": round(encoded.sorting.per_second),
        "dropped_gaussians": encoded.cleanup.dropped,
        "pruned_gaussians": targeted.pruned,
        "finetuned": targeted.finetuned,
        "frame": {
            "up": [0, -1, 0],
            "rotation_from_poses": (
                np.eye(3) if scene.rotation is None else scene.rotation
            ).tolist(),
        },
    }
