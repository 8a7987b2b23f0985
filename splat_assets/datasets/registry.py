"""The registry: a YAML file per dataset under `<data root>/datasets/`, edited by hand or by us."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.datasets.spec import DatasetSpec, check_slug, parse_spec
from splat_assets.errors import UserError
from splat_assets.isolation import exclusive
from splat_assets.progress import silent

SUFFIX = ".yaml"


@dataclass(frozen=True)
class Registry:
    """Specs by name. Every path (UI, sensors, backfills, CLI) reads this and nothing else."""

    folder: Path

    def path(self, name: str) -> Path:
        """The file of a dataset. Raises `UserError` on a name that is no slug (no traversal)."""
        try:
            return self.folder / (check_slug(name) + SUFFIX)
        except ValueError as error:
            raise UserError(f"Dataset {name!r}: {error}.") from None

    def names(self) -> list[str]:
        """Names of all files that could be specs, sorted; their content is not read."""
        if not self.folder.is_dir():
            return []
        return sorted(
            p.name.removesuffix(SUFFIX)
            for p in self.folder.glob("*" + SUFFIX)
            if not p.name.startswith(".")
        )

    def get(self, name: str) -> DatasetSpec:
        """Read one spec. Raises `UserError` when it is missing, damaged, or named otherwise."""
        path = self.path(name)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(
                f"There is no dataset {name!r} in {self.folder}; "
                "`splat-assets add SOURCE` registers one."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read ({error}); mend or remove it.") from None
        spec = parse_spec(text, where=str(path), name=name)
        if spec.name != name:
            raise UserError(
                f"{path} describes the dataset {spec.name!r}; file and name must agree."
            )
        return spec

    def list(self) -> tuple[list[DatasetSpec], dict[str, str]]:
        """All readable specs, and what is wrong with the others by name."""
        specs, problems = [], {}
        for name in self.names():
            try:
                specs.append(self.get(name))
            except UserError as error:
                problems[name] = str(error)
        for path in self.folder.glob("*.yml"):
            problems[path.name] = f"{path} is ignored: specs end in {SUFFIX}; rename it."
        return specs, problems

    def add(self, spec: DatasetSpec, *, replace: bool = False) -> bool:
        """Write a spec; True when something changed.

        Raises `UserError` when the name stands for another source already (a collision), or for the
        same source with other wishes and `replace` is not set.
        """
        path = self.path(spec.name)
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".lock", silent()):
            if path.exists() and not self._may_write(path, spec, replace):
                return False
            write_text_atomic(path, spec.to_yaml())
        return True

    def _may_write(self, path: Path, spec: DatasetSpec, replace: bool) -> bool:
        """False when the file says the same already; `UserError` when it says something else."""
        try:
            known = self.get(spec.name)
        except UserError:
            if replace:
                return True
            raise
        if known == spec:
            return False
        if replace:
            return True
        if known.source != spec.source:
            raise UserError(
                f"The name {spec.name!r} already stands for {known.source}; "
                "choose another with --name."
            )
        raise UserError(f"Dataset {spec.name!r} has other options; edit {path} or pass --replace.")

    def remove(self, name: str) -> None:
        """Forget a dataset; its artifacts stay. Raises `UserError` when there is none."""
        path = self.path(name)
        if not path.exists():
            raise UserError(f"There is no dataset {name!r} in {self.folder}.")
        path.unlink()
