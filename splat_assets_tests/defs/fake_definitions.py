"""A code location with the project's graph and fake stages, for tests with real services."""

from splat_assets.definitions import build_defs
from splat_assets.defs.resources import ComputeResource
from splat_assets_tests.defs.fake_stages import FUNCTIONS

defs = build_defs(resources={"compute": ComputeResource(device="cpu")}, functions=FUNCTIONS)
