"""Typed options, one class per stage. Validated once, at the edge; every field has a default.

A preset is a set of these defaults (`presets.py`); a `DatasetSpec` overrides single fields; the
graph, the CLI and plain Python all pass the resolved objects to the stage functions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class StageOptions(BaseModel):
    """Base of the options: frozen, and an unknown name is an error rather than ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _names(value: Any) -> Any:
    """`a, b` means `[a, b]`."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _numbers(value: Any) -> Any:
    """`3`, `0-4,7` and lists of such mean the numbers, each once and in the order given."""
    if isinstance(value, bool) or not isinstance(value, int | str | list | tuple):
        return value
    if isinstance(value, int):
        return (value,)
    parts = value.split(",") if isinstance(value, str) else value
    found: list[int] = []
    for part in parts:
        if not isinstance(part, str):
            found.append(part)
            continue
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise ValueError(f"source.episodes: {part!r} is no number and no range such as 0-4")
        if dash and int(last) - int(first) > 100_000:
            raise ValueError(f"source.episodes: the range {part} is too long")
        found += range(int(first), int(last) + 1) if dash else [int(first)]
    return tuple(dict.fromkeys(found))


class SourceOptions(StageOptions):
    """How originals are fetched."""

    revision: str | None = Field(None, description="Hub branch, tag or commit; default: main")
    include: tuple[str, ...] = Field((), description="globs; only matching files are taken")
    exclude: tuple[str, ...] = Field((), description="globs; matching files are left out")
    max_bytes: int = Field(20 * 2**30, gt=0, description="refuse sources larger than this")
    max_files: int = Field(100_000, gt=0, description="refuse sources with more files than this")
    max_rows: int = Field(2_000, gt=0, description="images taken from parquet shards at most")
    cameras: Annotated[tuple[str, ...], BeforeValidator(_names)] = Field(
        (),
        description="LeRobot: cameras by name or glob; default: one that the robot carries, where "
        "the names tell",
    )
    episodes: Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_numbers)] = Field(
        (), description="LeRobot: episodes, such as 0-4,7; default: the first"
    )


class FrameOptions(StageOptions):
    """How frames are cut, scored, selected and sized."""

    fps: float = Field(2.0, gt=0, description="frames per second cut from a video")
    frames_per_episode: int | None = Field(
        None,
        ge=1,
        description="LeRobot: frames cut from an episode and camera, instead of by fps; default: "
        "what max_frames allows",
    )
    start_sec: float = Field(0.0, ge=0, description="video, episode: first second used")
    end_sec: float | None = Field(None, gt=0, description="video, episode: last second used")
    video_stream: int = Field(0, ge=0, description="which video stream of the file")
    max_frames: int = Field(150, ge=2, description="keep at most this many frames")
    min_frames: int = Field(4, ge=2, description="fewer usable frames than this is an error")
    max_long_side: int = Field(1600, ge=64, description="pixels; larger frames are reduced")
    drop_blurred: bool = Field(True, description="drop frames much less sharp than neighbours")
    drop_duplicates: bool = Field(True, description="drop frames nearly equal to the last kept")

    @model_validator(mode="after")
    def _ranges_hold_something(self) -> Self:
        if self.end_sec is not None and self.end_sec <= self.start_sec:
            raise ValueError(f"end_sec {self.end_sec} is not after start_sec {self.start_sec}")
        if self.max_frames < self.min_frames:
            raise ValueError(f"max_frames {self.max_frames} is below min_frames {self.min_frames}")
        return self


class PoseOptions(StageOptions):
    """How cameras are solved."""

    feature_long_side: int = Field(
        1000,
        ge=64,
        description="pixels; images are reduced to it for SIFT, and to half their size at most",
    )
    max_features: int = Field(4096, ge=128, description="SIFT features per image")
    matching: Literal["auto", "exhaustive", "sequential", "spatial"] = "auto"
    mapper: Literal["auto", "incremental", "global"] = "auto"
    camera_model: Literal[
        "auto", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"
    ] = "auto"
    check_motion: bool = Field(
        True, description="video: look first whether the camera moves enough to see depth"
    )
    use_gps: bool = Field(True, description="orient and scale the scene by GPS where present")
    seed: int = 0


class TrainOptions(StageOptions):
    """How Gaussians are trained."""

    steps: int = Field(1000, ge=1)
    max_gaussians: int | None = Field(
        None, ge=100, description="budget, never exceeded; default: from pixels and memory"
    )
    long_side: int = Field(320, ge=32, description="pixels of the training images' long side")
    sh_degree: int = Field(3, ge=0, le=3)
    strategy: Literal["auto", "mcmc", "gradient", "multiview"] = Field(
        "auto", description="densification; auto is mcmc"
    )
    dense_init: Literal["auto", "on", "off"] = Field(
        "auto",
        description="start from stereo points besides the sparse ones; auto: with ten training "
        "views or more",
    )
    progressive_resolution: bool = Field(
        True, description="begin with reduced images, as far as they stay 240 pixels long"
    )
    progressive_blur: bool = Field(False, description="begin with blurred images")
    sh_ramp: bool = Field(True, description="begin with plain colours, one SH band after the other")
    plateau_patience: int = Field(
        0, ge=0, description="stop after so many held-out scores (30 a run) without gain; 0: never"
    )
    target_psnr_db: float | None = Field(
        None, gt=0, description="stop when the held-out views reach this PSNR"
    )
    min_contribution_px: float = Field(
        0.5, ge=0, description="prune Gaussians that add less to every training view; 0: none"
    )
    camera_clearance: float = Field(
        3.0,
        ge=0,
        description="no Gaussian is larger than its distance to the nearest camera over this, "
        "as it would veil what is seen from beside the camera; 0: off",
    )
    exposure: Literal["auto", "on", "off"] = Field(
        "auto",
        description="learn the exposure of each training image; auto: where the colours of the "
        "sparse points show that it changed",
    )
    refine_poses: bool = Field(False, description="correct the cameras while training")
    depth_weight: float = Field(0.0, ge=0, description="weight of depth at sparse points; 0: off")
    cleanup: bool = Field(True, description="remove floaters where no held-out view suffers")
    selective_adam: bool = Field(
        False, description="on CUDA: each step changes only the Gaussians that its view shows"
    )
    test_every: int = Field(8, ge=0, description="every n-th image is held out; 0 holds out none")
    checkpoint_every_sec: float = Field(30.0, gt=0, description="seconds between checkpoints")
    seed: int = 0


class CompressOptions(StageOptions):
    """How the splat is compressed and published."""

    preset: Literal["web", "standard", "archive"] = Field(
        "standard",
        description="PSNR kept against the trained splat: about 40, 48 or 58 dB (as near to it as "
        "the format's 8 bits come)",
    )
    target_db: float | None = Field(
        None, ge=25, le=70, description="keep this PSNR against the trained splat instead"
    )
    max_mb: float | None = Field(None, gt=0, description="at most this size, at what quality fits")
    order: Literal["hilbert", "morton", "plas", "none"] = "hilbert"
    palette_size: int | None = Field(
        None, ge=64, le=65536, description="SH palette entries; default: chosen per scene"
    )
    prune: bool = Field(
        True, description="leave out Gaussians whose contribution is worth less than their bytes"
    )
    finetune: bool = Field(
        True,
        description="adjust colours, opacities, scales and palette while they are rounded, with "
        "cameras, a target_db or max_mb",
    )
    formats: tuple[Literal["sog", "ply"], ...] = Field(
        ("sog",), description="files written beside scene.sog"
    )
    viewer: bool = Field(True, description="write the self-contained viewer.html")
    streamed: Literal["auto", "always", "never"] = Field(
        "auto", description="also write chunks and levels of detail; auto: above 1M Gaussians"
    )
    seed: int = 0


STAGES = ("source", "frames", "poses", "train", "compress")
