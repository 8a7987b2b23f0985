"""The partitions: one per dataset, and the labels every asset of the graph shares."""

from __future__ import annotations

import dagster as dg

DATASETS = dg.DynamicPartitionsDefinition(name="dataset")

OWNERS = ["team:splat-assets"]
GROUP = "splats"  # one group: the UI then opens with the whole chain in sight

# Pools, limited in dagster.yaml: training owns a device, feature matching owns the CPU.
GPU_POOL, SFM_POOL = "gpu", "sfm"
