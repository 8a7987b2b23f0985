"""Asset `compressed_splat`: what people receive."""

import dagster as dg

from splat_assets.defs.automation import CONDITIONS
from splat_assets.defs.checks import SPECS
from splat_assets.defs.metadata import materialized
from splat_assets.defs.needs import needs
from splat_assets.defs.partitions import DATASETS, GROUP, OWNERS
from splat_assets.defs.runner import StageConfig, StageRunner
from splat_assets.defs.trained_splat import trained_splat
from splat_assets.stages import CODE_VERSIONS


@dg.asset(
    deps=[trained_splat],
    partitions_def=DATASETS,
    group_name=GROUP,
    kinds={"python", "sog"},
    owners=OWNERS,
    tags={"splat/device": "cpu"},
    op_tags=needs(gpus=1, memory_gb=4),
    code_version=CODE_VERSIONS["compressed_splat"],
    automation_condition=CONDITIONS["compressed_splat"],
    check_specs=SPECS["compressed_splat"],
)
def compressed_splat(
    context: dg.AssetExecutionContext, config: StageConfig, stages: StageRunner
) -> dg.MaterializeResult:
    """The splat as a small SOG file that every viewer opens, and a page that shows it offline.

    The loss is measured, not promised: the decoded file is rendered against the uncompressed splat
    and against the held-out photos. Open `viewer.html` from the metadata's path.
    """
    return materialized(*stages.run(context, config))
