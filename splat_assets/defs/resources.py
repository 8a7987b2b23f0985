"""Resources: thin factories that return plain library objects, resolved when a step starts.

Empty fields mean "as the environment says" (`SPLAT_ASSETS_DATA`, `SPLAT_ASSETS_DEVICE`); tests and
production set them.
"""

from dataclasses import replace

import dagster as dg
from pydantic import Field

from splat_assets.artifacts.store import ArtifactStore
from splat_assets.compute import Compute, select_compute
from splat_assets.datasets.registry import Registry
from splat_assets.settings import Settings, load_settings


class StoreResource(dg.ConfigurableResource):
    """Where artifacts are kept."""

    root: str = Field(
        default="", description="folder or fsspec URL; default: $SPLAT_ASSETS_DATA or ./data"
    )

    def settings(self) -> Settings:
        found = load_settings()
        return replace(found, data_root=self.root) if self.root else found

    def open(self) -> ArtifactStore:
        return ArtifactStore.open(self.settings())


class RegistryResource(dg.ConfigurableResource):
    """Which datasets there are: one YAML file each."""

    folder: str = Field(
        default="", description="folder or fsspec URL; default: `datasets` below the data root"
    )

    def open(self) -> Registry:
        return Registry(self.folder or load_settings().registry_folder)


class ComputeResource(dg.ConfigurableResource):
    """Which device trains and renders."""

    device: str = Field(
        default="", description="auto, cpu, cuda or cuda:<n>; default: $SPLAT_ASSETS_DEVICE or auto"
    )

    def select(self) -> Compute:
        return select_compute(self.device or load_settings().device)
