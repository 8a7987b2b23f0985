"""What training learns or knows of single training views, beside the splat: exposure, camera
corrections, sparse depths. The trainer asks this one object; each part may be absent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from splat_assets.compute import Compute
from splat_assets.datasets.options import TrainOptions
from splat_assets.poses.pose_model import PoseModel
from splat_assets.training.dataset import Sample, TrainingSet
from splat_assets.training.depth import SparseDepth
from splat_assets.training.exposure import Exposure, estimate_gains
from splat_assets.training.pose_refinement import PoseRefinement
from splat_assets.training.scene import SceneFrame
from splat_assets.training.tracks import load_sightings


@dataclass(frozen=True)
class PerView:
    """The parts that are switched on."""

    exposure: Exposure | None = None
    cameras: PoseRefinement | None = None
    depth: SparseDepth | None = None

    @property
    def needs_depth(self) -> bool:
        return self.depth is not None

    def posed(self, index: int, sample: Sample) -> Sample:
        """The sample of view `index` with its refined camera."""
        if self.cameras is None:
            return sample
        return replace(sample, viewmat=self.cameras.apply(index, sample.viewmat))

    def exposed(self, index: int, image: Tensor) -> Tensor:
        """The render of view `index` in that photo's exposure."""
        return image if self.exposure is None else self.exposure.apply(index, image)

    def loss(self, index: int, info: dict[str, Any]) -> Tensor | None:
        """What is added to the photometric loss."""
        if self.depth is None:
            return None
        return self.depth.loss(index, info["depth"], info["alpha"])

    def step(self, step: int) -> None:
        """After the backward pass."""
        if self.exposure is not None:
            self.exposure.step(step)
        if self.cameras is not None:
            self.cameras.step(step)

    def summary(self) -> dict[str, Any]:
        """Entries of the artifact's summary."""
        found: dict[str, Any] = {}
        if self.exposure is not None:
            found["exposure_spread"] = round(self.exposure.spread(), 4)
        if self.cameras is not None:
            turned, moved = self.cameras.change()
            found["pose_change_deg"] = round(turned, 4)
            found["pose_change"] = round(moved, 6)
        if self.depth is not None:
            found["num_depth_points"] = len(self.depth)
        return found

    def state_dict(self) -> dict[str, Any]:
        parts = (("exposure", self.exposure), ("cameras", self.cameras))
        return {name: part.state_dict() for name, part in parts if part is not None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.exposure is not None:
            self.exposure.load_state_dict(state["exposure"])
        if self.cameras is not None:
            self.cameras.load_state_dict(state["cameras"])


def make_per_view(
    poses: PoseModel,
    data: TrainingSet,
    frame: SceneFrame,
    options: TrainOptions,
    compute: Compute,
) -> PerView:
    """What the options ask for."""
    exposure = cameras = depth = None
    sightings = {}
    if options.exposure != "off" or options.depth_weight > 0:
        sightings = load_sightings(poses, data)
    if options.exposure != "off":
        gains = estimate_gains(data, sightings)
        if options.exposure == "on" or gains.vary:
            exposure = Exposure(
                data.train, gains.factors, steps=options.steps, device=compute.device
            )
    if options.refine_poses:
        cameras = PoseRefinement(
            data.train,
            data.viewmats(data.train),
            center=frame.center,
            steps=options.steps,
            device=compute.device,
        )
    if options.depth_weight > 0 and sightings:
        depth = SparseDepth(sightings, weight=options.depth_weight)
    return PerView(exposure, cameras, depth)
