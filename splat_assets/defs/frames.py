"""Asset `frames`: normalised, selected pictures."""

import dagster as dg

from splat_assets.defs.automation import CONDITIONS
from splat_assets.defs.checks import SPECS
from splat_assets.defs.metadata import materialized
from splat_assets.defs.needs import needs
from splat_assets.defs.partitions import DATASETS, GROUP, OWNERS
from splat_assets.defs.raw_dataset import raw_dataset
from splat_assets.defs.runner import StageConfig, StageRunner
from splat_assets.stages import CODE_VERSIONS


@dg.asset(
    deps=[raw_dataset],
    partitions_def=DATASETS,
    group_name=GROUP,
    kinds={"python", "pandas"},
    owners=OWNERS,
    tags={"splat/device": "cpu"},
    op_tags=needs(memory_gb=2),
    code_version=CODE_VERSIONS["frames"],
    automation_condition=CONDITIONS["frames"],
    check_specs=SPECS["frames"],
)
def frames(
    context: dg.AssetExecutionContext, config: StageConfig, stages: StageRunner
) -> dg.MaterializeResult:
    """Sharp, different, upright frames in one size, and a table that says where each came from.

    Videos are cut, photos turned by their EXIF orientation, blurred and repeated frames dropped
    (never below what a reconstruction needs); masks and GPS are kept.
    """
    return materialized(*stages.run(context, config))
