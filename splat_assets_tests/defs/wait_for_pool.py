"""Execute the training step of a dataset, whose pool somebody else holds; a program for a test."""

import sys

import dagster as dg

from splat_assets_tests.defs.fake_definitions import defs


def reconstruct() -> dg.JobDefinition:
    return defs.resolve_job_def("reconstruct")


if __name__ == "__main__":
    with dg.DagsterInstance.get() as instance:
        dg.execute_job(
            dg.reconstructable(reconstruct),
            instance,
            tags={"dagster/partition": sys.argv[1]},
            asset_selection=[dg.AssetKey("trained_splat")],
        )
