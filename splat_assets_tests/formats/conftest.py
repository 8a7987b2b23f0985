"""The reference tool for the formats as well."""

from splat_assets_tests.compression.conftest import splat_transform

__all__ = ["splat_transform"]
