"""Asset `camera_poses`: where the pictures were taken from."""

import dagster as dg

from splat_assets.defs.automation import CONDITIONS
from splat_assets.defs.checks import SPECS
from splat_assets.defs.frames import frames
from splat_assets.defs.metadata import materialized
from splat_assets.defs.needs import needs
from splat_assets.defs.partitions import DATASETS, GROUP, OWNERS, SFM_POOL
from splat_assets.defs.runner import StageConfig, StageRunner
from splat_assets.stages import CODE_VERSIONS


@dg.asset(
    deps=[frames],
    partitions_def=DATASETS,
    group_name=GROUP,
    kinds={"python", "colmap"},
    owners=OWNERS,
    tags={"splat/device": "cpu"},
    op_tags=needs(memory_gb=4),
    code_version=CODE_VERSIONS["camera_poses"],
    automation_condition=CONDITIONS["camera_poses"],
    check_specs=SPECS["camera_poses"],
    pool=SFM_POOL,
)
def camera_poses(
    context: dg.AssetExecutionContext, config: StageConfig, stages: StageRunner
) -> dg.MaterializeResult:
    """The camera of every frame and a sparse point cloud, solved with COLMAP.

    Poses that came with the source are taken as they are. Two gates stop the chain here: too few
    registered frames, or points that do not land where they were seen.
    """
    return materialized(*stages.run(context, config))
