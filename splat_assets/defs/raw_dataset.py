"""Asset `raw_dataset`: the originals."""

from datetime import timedelta

import dagster as dg

from splat_assets.defs.automation import CONDITIONS
from splat_assets.defs.metadata import materialized
from splat_assets.defs.needs import needs
from splat_assets.defs.partitions import DATASETS, GROUP, OWNERS
from splat_assets.defs.runner import StageConfig, StageRunner
from splat_assets.stages import CODE_VERSIONS

# Shown by the asset's name: has any source been asked lately whether it changed? (Dagster's
# freshness is one per asset; a dataset's own is the date of its last materialization.)
FRESHNESS = dg.FreshnessPolicy.time_window(
    warn_window=timedelta(days=8), fail_window=timedelta(days=32)
)


@dg.asset(
    partitions_def=DATASETS,
    group_name=GROUP,
    kinds={"huggingface", "file"},
    owners=OWNERS,
    tags={"splat/device": "network"},
    op_tags=needs(cpus=1),
    code_version=CODE_VERSIONS["raw_dataset"],
    automation_condition=CONDITIONS["raw_dataset"],
    freshness_policy=FRESHNESS,
)
def raw_dataset(
    context: dg.AssetExecutionContext, config: StageConfig, stages: StageRunner
) -> dg.MaterializeResult:
    """The originals of the dataset, untouched, with the hash of every file.

    Fetched from where the dataset's registry file says: a folder, an archive, a video, a Hugging
    Face dataset, a posed capture or a finished splat. Files that are already here and unchanged
    are not fetched again. Network trouble is retried; a damaged or missing source is not.
    """
    return materialized(*stages.run(context, config))
