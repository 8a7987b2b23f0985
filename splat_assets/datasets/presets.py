"""Presets: what `preview`, `standard` and `high` mean for every stage."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from splat_assets.datasets.options import (
    CompressOptions,
    FrameOptions,
    PoseOptions,
    SourceOptions,
    TrainOptions,
)

PresetName = Literal["preview", "standard", "high"]


@dataclass(frozen=True)
class PipelineOptions:
    """The resolved options of all five stages."""

    source: SourceOptions
    frames: FrameOptions
    poses: PoseOptions
    train: TrainOptions
    compress: CompressOptions

    def to_dict(self) -> dict[str, dict[str, Any]]:
        return {f.name: getattr(self, f.name).model_dump(mode="json") for f in fields(self)}


@dataclass(frozen=True)
class Preset:
    """A preset's differences from the option defaults, and the quality its result must reach."""

    name: PresetName
    description: str
    frames: dict[str, Any]
    poses: dict[str, Any]
    train: dict[str, Any]
    compress: dict[str, Any]
    min_psnr_db: float


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "preview",
            "minutes on a laptop without a GPU; 320 px training images, 20 k Gaussians",
            frames={"max_frames": 60, "max_long_side": 1000},
            poses={"feature_long_side": 640, "max_features": 2048},
            train={"steps": 1000, "max_gaussians": 20_000, "long_side": 320},
            compress={},
            min_psnr_db=18.0,
        ),
        Preset(
            "standard",
            "minutes with a GPU, an hour or more without; 1000 px, 500 k Gaussians",
            frames={"max_frames": 200, "max_long_side": 1600},
            poses={"feature_long_side": 1200, "max_features": 6144},
            train={"steps": 7000, "max_gaussians": 500_000, "long_side": 1000},
            compress={},
            min_psnr_db=20.0,
        ),
        Preset(
            "high",
            "needs a GPU; 1600 px, 2 M Gaussians, 30 k steps",
            frames={"max_frames": 400, "max_long_side": 3200},
            poses={"feature_long_side": 2000, "max_features": 8192},
            train={"steps": 30_000, "max_gaussians": 2_000_000, "long_side": 1600},
            compress={},
            min_psnr_db=22.0,
        ),
    )
}
