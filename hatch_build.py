"""Build hook: takes the browser viewer from npm into the package, for wheels and editable installs.

A machine that cannot reach npm still gets a working install; the viewer is fetched on first use.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ViewerBuildHook(BuildHookInterface):
    """Fills `splat_assets/viewing/vendor/`."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """npm from PyPI, only where it is needed and the machine has none."""
        fetch = self._fetch_module()
        needed = fetch.vendor_problem(self._vendor) is not None and fetch.npm_command() is None
        return [fetch.NODE_FROM_PYPI] if needed else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        fetch = self._fetch_module()
        try:
            fetch.fetch_viewer(self._vendor)
        except fetch.FetchError as problem:
            self.app.display_warning(
                f"The browser viewer is not part of this build: {problem}. "
                "Everything else works; `splat-assets doctor` fetches it later."
            )

    @property
    def _vendor(self) -> Path:
        return Path(self.root) / "splat_assets" / "viewing" / "vendor"

    def _fetch_module(self) -> ModuleType:
        path = Path(self.root) / "splat_assets" / "viewing" / "vendor_fetch.py"
        spec = importlib.util.spec_from_file_location("splat_assets_vendor_fetch", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
