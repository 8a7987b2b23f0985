"""The registry: a YAML file per dataset under `<data root>/datasets/`, edited by hand or by us."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splat_assets.artifacts.manifest import write_text_atomic
from splat_assets.datasets.spec import DatasetSpec, check_slug, parse_spec
from splat_assets.errors import UserError

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
        spec = parse_spec(text, where=str(path))
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
        return specs, problems

    def add(self, spec: DatasetSpec, *, replace: bool = False) -> bool:
        """Write a spec; True when something changed.

        Raises `UserError` when the name stands for another source already (a collision), or for the
        same source with other wishes and `replace` is not set.
        """
        path = self.path(spec.name)
        if path.exists():
            known = self.get(spec.name)
            if known == spec:
                return False
            if known.source != spec.source and not replace:
                raise UserError(
                    f"The name {spec.name!r} already stands for {known.source}; "
                    "choose another with --name."
                )
            if not replace:
                raise UserError(
                    f"Dataset {spec.name!r} has other options; edit {path} or pass --replace."
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(path, spec.to_yaml())
        return True

    def remove(self, name: str) -> None:
        """Forget a dataset; its artifacts stay. Raises `UserError` when there is none."""
        path = self.path(name)
        if not path.exists():
            raise UserError(f"There is no dataset {name!r} in {self.folder}.")
        path.unlink()
