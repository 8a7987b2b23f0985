"""The quality gates. Each is evaluated in the step that makes the asset, and says what to do.

A blocking gate stops the chain: what would be built on a bad result would only waste hours.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import dagster as dg

from splat_assets.datasets.presets import PRESETS
from splat_assets.datasets.spec import DatasetSpec
from splat_assets.defs.partitions import DATASETS
from splat_assets.stages import StageOutcome

MIN_FRAMES = 8
MIN_REGISTERED_RATIO = 0.8
MAX_REPROJECTION_PX = 1.5
MAX_PSNR_LOSS_DB = 0.5
MIN_PSNR_VS_SPLAT_DB = 35.0  # where there are no photos to compare with
MIN_RATIO = 8.0

_MOTION = {  # what camera_poses found of a video's camera
    "": "Photos, or poses that came with the source: not looked at.",
    "moves": "The camera moves.",
    "places": "The cameras stand still, but at several places.",
    "unknown": "The frames have too little in common to tell, so COLMAP was asked.",
}


def _gate(name: str, *, asset: str, description: str, blocking: bool = False) -> dg.AssetCheckSpec:
    """A gate with a result per dataset (which Dagster calls a preview): what happens to one dataset
    must neither stop nor release another.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            name, asset=asset, description=description, blocking=blocking, partitions_def=DATASETS
        )


SPECS: dict[str, list[dg.AssetCheckSpec]] = {
    "frames": [
        _gate(
            "enough_sharp_frames",
            asset="frames",
            description=f"At least {MIN_FRAMES} sharp, different frames are left.",
        )
    ],
    "camera_poses": [
        _gate(
            "camera_moves",
            asset="camera_poses",
            blocking=True,
            description="The camera of a video changes its place, so that depth can be seen.",
        ),
        _gate(
            "enough_registered",
            asset="camera_poses",
            blocking=True,
            description=f"At least {MIN_REGISTERED_RATIO:.0%} of the frames got a camera pose.",
        ),
        _gate(
            "reprojection_error",
            asset="camera_poses",
            blocking=True,
            description=f"Points land within {MAX_REPROJECTION_PX} px of where they were seen.",
        ),
    ],
    "trained_splat": [
        _gate(
            "held_out_psnr",
            asset="trained_splat",
            description="Views never trained on are rendered as well as the preset promises.",
        )
    ],
    "compressed_splat": [
        _gate(
            "quality_kept",
            asset="compressed_splat",
            description=f"The file decodes and loses at most {MAX_PSNR_LOSS_DB} dB.",
        ),
        _gate(
            "compression_ratio",
            asset="compressed_splat",
            description=f"The file is at least {MIN_RATIO:.0f} times smaller than the PLY.",
        ),
    ],
}


def evaluate(outcome: StageOutcome, spec: DatasetSpec) -> list[dg.AssetCheckResult]:
    """All gates of the outcome's asset. A stage that was skipped passes: it made nothing.

    Lists of checks in the UI show the latest result of any dataset, so each names its own.
    """
    if outcome.artifact.skipped:
        motion = outcome.artifact.summary.get("camera_motion")
        if motion:
            return _standing_camera(outcome.artifact.skipped, motion, spec)
        return [
            _result(spec, check.name, True, outcome.artifact.skipped, "")
            for check in SPECS.get(outcome.asset, ())
        ]
    gates = {
        "frames": _frames,
        "camera_poses": _camera_poses,
        "trained_splat": _trained_splat,
        "compressed_splat": _compressed_splat,
    }
    gate = gates.get(outcome.asset)
    return list(gate(outcome.artifact.summary, spec)) if gate else []


def _frames(summary: dict, spec: DatasetSpec) -> Iterator[dg.AssetCheckResult]:
    found = int(summary["num_frames"])
    yield _result(
        spec,
        "enough_sharp_frames",
        found >= MIN_FRAMES,
        f"{found} frames are left of {summary.get('num_seen', found)}.",
        "Take more photos, walk slower while filming, raise `frames.fps`, or switch off "
        "`frames.drop_blurred`.",
        severity=dg.AssetCheckSeverity.WARN,
        num_frames=found,
        wanted=f"at least {MIN_FRAMES}",
    )


def _camera_poses(summary: dict, spec: DatasetSpec) -> Iterator[dg.AssetCheckResult]:
    motion = summary.get("camera_motion", "")
    yield _result(spec, "camera_moves", True, _MOTION.get(motion, _MOTION[""]), "", motion=motion)
    ratio = float(summary["registered_ratio"])
    yield _result(
        spec,
        "enough_registered",
        ratio >= MIN_REGISTERED_RATIO,
        f"{summary['num_registered']} of {summary['num_frames']} frames have a pose ({ratio:.0%}).",
        "Take pictures with more overlap and texture, cut a video at a higher `frames.fps`, or "
        "raise `poses.max_features`; the unregistered frames are named in the metadata.",
        registered_ratio=ratio,
        wanted=f"at least {MIN_REGISTERED_RATIO}",
    )
    error = summary.get("reprojection_error_px")
    if error is None or error != error:
        yield _result(spec, "reprojection_error", True, "The poses came with the source.", "")
        return
    yield _result(
        spec,
        "reprojection_error",
        float(error) <= MAX_REPROJECTION_PX,
        f"Points are off by {float(error):.2f} px on average.",
        "Remove blurred frames and pictures from other cameras, or set `poses.camera_model` to "
        "one that fits the lens (`OPENCV` for wide angles).",
        reprojection_error_px=float(error),
        wanted=f"at most {MAX_REPROJECTION_PX}",
    )


def _standing_camera(reason: str, motion: str, spec: DatasetSpec) -> list[dg.AssetCheckResult]:
    """The gates of poses that were not solved, since the camera stands still."""
    advice = (
        "Choose a camera that moves, such as one on the robot's wrist or head, or three and more "
        "that stand at different places (`source.cameras`); of your own, film while walking around "
        "the scene. `poses.check_motion=false` tries all the same."
    )
    return [
        _result(spec, "camera_moves", False, reason, advice, motion=motion),
        *(
            _result(spec, check.name, True, "Nothing was solved: see camera_moves.", "")
            for check in SPECS["camera_poses"][1:]
        ),
    ]


def _trained_splat(summary: dict, spec: DatasetSpec) -> Iterator[dg.AssetCheckResult]:
    floor = PRESETS[spec.preset].min_psnr_db
    psnr = summary.get("psnr_db")
    if psnr is None:
        yield _result(spec, "held_out_psnr", True, "No view was held out, so none is compared.", "")
        return
    yield _result(
        spec,
        "held_out_psnr",
        float(psnr) >= floor,
        f"Held-out views reach {float(psnr):.1f} dB; preset {spec.preset!r} promises {floor} dB.",
        "Look at the renders beside the photos: blur everywhere asks for more `train.steps` or a "
        "larger preset, ghosts ask for better poses or masks over what moves.",
        psnr_db=float(psnr),
        wanted=f"at least {floor}",
    )


def _compressed_splat(summary: dict, spec: DatasetSpec) -> Iterator[dg.AssetCheckResult]:
    advice = "Use `compress.order=hilbert` and a larger `compress.palette_size`; the PLY is intact."
    loss = summary.get("psnr_loss_db")
    faithful = summary.get("psnr_vs_splat_db")
    if loss is not None:
        yield _result(
            spec,
            "quality_kept",
            float(loss) <= MAX_PSNR_LOSS_DB,
            f"The compressed splat loses {float(loss):.2f} dB against the photos.",
            advice,
            psnr_loss_db=float(loss),
            wanted=f"at most {MAX_PSNR_LOSS_DB}",
        )
    elif faithful is not None:
        yield _result(
            spec,
            "quality_kept",
            float(faithful) >= MIN_PSNR_VS_SPLAT_DB,
            f"Compressed and original renders agree to {float(faithful):.1f} dB.",
            advice,
            psnr_vs_splat_db=float(faithful),
            wanted=f"at least {MIN_PSNR_VS_SPLAT_DB}",
        )
    else:
        yield _result(
            spec, "quality_kept", True, "The file decodes; there is no view to compare.", ""
        )
    ratio = float(summary["ratio"])
    yield _result(
        spec,
        "compression_ratio",
        ratio >= MIN_RATIO,
        f"{ratio:.1f} times smaller than the PLY.",
        "A very small or SH-free scene has little to save; otherwise lower "
        "`compress.palette_size`.",
        severity=dg.AssetCheckSeverity.WARN,
        ratio=ratio,
        wanted=f"at least {MIN_RATIO:.0f}",
    )


def _result(
    spec: DatasetSpec,
    name: str,
    passed: bool,
    found: str,
    advice: str,
    *,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    **figures: float | str,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=bool(passed),
        check_name=name,
        severity=severity,
        description=found if passed else f"{found} {advice}",
        metadata={"dataset": spec.name, **figures},
    )
