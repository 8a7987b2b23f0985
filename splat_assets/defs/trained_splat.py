"""Asset `trained_splat`: the scene as Gaussians."""

import dagster as dg

from splat_assets.defs.automation import CONDITIONS
from splat_assets.defs.camera_poses import camera_poses
from splat_assets.defs.checks import SPECS
from splat_assets.defs.metadata import materialized
from splat_assets.defs.needs import needs
from splat_assets.defs.partitions import DATASETS, GPU_POOL, GROUP, OWNERS
from splat_assets.defs.runner import StageConfig, StageRunner
from splat_assets.stages import CODE_VERSIONS


@dg.asset(
    deps=[camera_poses],
    partitions_def=DATASETS,
    group_name=GROUP,
    kinds={"pytorch", "gsplat"},
    owners=OWNERS,
    tags={"splat/device": "gpu"},
    op_tags=needs(gpus=1, memory_gb=4),
    code_version=CODE_VERSIONS["trained_splat"],
    automation_condition=CONDITIONS["trained_splat"],
    check_specs=SPECS["trained_splat"],
    pool=GPU_POOL,
)
def trained_splat(
    context: dg.AssetExecutionContext, config: StageConfig, stages: StageRunner
) -> dg.MaterializeResult:
    """The scene as 3D Gaussians, trained on the frames and judged on views held out.

    Runs on CUDA where it works and on the CPU elsewhere (the metadata says which, and why). A run
    that was cancelled or killed is resumed from its last checkpoint by the next one.
    """
    return materialized(*stages.run(context, config))
