"""The jobs a person launches: the whole chain, the last step alone, and adding a dataset."""

from typing import Any

import dagster as dg
from pydantic import Field

from splat_assets.datasets.spec import make_spec
from splat_assets.defs.partitions import DATASETS
from splat_assets.defs.resources import RegistryResource
from splat_assets.errors import UserError
from splat_assets.stages import ASSETS

DATASET_TAG = "splat/dataset"  # on runs of `add_dataset`: what it added
LAUNCH_TAG = "splat/launch"  # present when its reconstruction was asked for

reconstruct = dg.define_asset_job(
    "reconstruct",
    selection=dg.AssetSelection.assets(*ASSETS),  # not by text: its parser costs 30 ms to import
    description="The whole chain of a dataset. Assets that are up to date are kept as they are.",
)

recompress = dg.define_asset_job(
    "recompress",
    selection=dg.AssetSelection.assets("compressed_splat"),
    description="Only the compression, from the trained splat that is there.",
)


class AddDataset(dg.Config):
    """A new dataset; the same as `splat-assets add`."""

    source: str = Field(
        description="Where the pictures are: org/name or hf://datasets/org/name[@rev], a folder of "
        "photos, a .zip or .tar, a video, an http(s) URL, a COLMAP or nerfstudio folder, a splat"
    )
    name: str = Field(default="", description="Its name, a slug; default: made from the source")
    preset: str = Field(default="preview", description="preview, standard or high")
    options: dict[str, dict[str, Any]] = Field(
        default={}, description="Settings that differ from the preset: stage → option → value"
    )
    replace: bool = Field(default=False, description="Overwrite a dataset of this name")
    launch: bool = Field(default=True, description="Reconstruct it right away")


@dg.op(description="Writes the registry file and adds the partition.")
def register_dataset(
    context: dg.OpExecutionContext, config: AddDataset, registry: RegistryResource
) -> str:
    from splat_assets.sources.uri import default_name, parse_source

    try:
        source = parse_source(config.source)
        name = config.name or default_name(source)
        spec = make_spec(name=name, source=source.uri, preset=config.preset, options=config.options)
        changed = registry.open().add(spec, replace=config.replace)
    except UserError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    context.instance.add_dynamic_partitions(DATASETS.name or "dataset", [name])
    tags = {DATASET_TAG: name} | ({LAUNCH_TAG: "true"} if config.launch else {})
    context.instance.add_run_tags(context.run_id, tags)
    context.log.info(f"Dataset {name!r} {'registered' if changed else 'was there already'}.")
    return name


@dg.job(description="Register a dataset and, unless told otherwise, reconstruct it.")
def add_dataset() -> None:
    register_dataset()
