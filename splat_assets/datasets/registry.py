"""The registry: a YAML file per dataset under `<data root>/datasets/`, edited by hand or by us."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splat_assets.datasets.shelf import Shelf, open_shelf
from splat_assets.datasets.spec import DatasetSpec, check_slug, parse_spec
from splat_assets.errors import UserError

SUFFIX = ".yaml"


@dataclass(frozen=True)
class Registry:
    """Specs by name. Every path (UI, sensors, backfills, CLI) reads this and nothing else."""

    folder: Path | str  # a local path, or the fsspec URL that a team shares

    @property
    def shelf(self) -> Shelf:
        return open_shelf(self.folder)

    def path(self, name: str) -> str:
        """The file of a dataset. Raises `UserError` on a name that is no slug (no traversal)."""
        return f"{self.folder}/{_file(name)}"

    def names(self) -> list[str]:
        """Names of all files that could be specs, sorted; their content is not read."""
        files = self.shelf.names()
        return [name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX)]

    def get(self, name: str) -> DatasetSpec:
        """Read one spec. Raises `UserError` when it is missing, damaged, or named otherwise."""
        text = self.shelf.read(_file(name))
        if text is None:
            raise UserError(
                f"There is no dataset {name!r} in {self.folder}; "
                "`splat-assets add SOURCE` registers one."
            )
        spec = parse_spec(text, where=self.path(name), name=name)
        if spec.name != name:
            raise UserError(
                f"{self.path(name)} describes the dataset {spec.name!r}; file and name must agree."
            )
        return spec

    def list(self) -> tuple[list[DatasetSpec], dict[str, str]]:
        """All readable specs, and what is wrong with the others by name."""
        specs: list[DatasetSpec] = []
        problems: dict[str, str] = {}
        files = self.shelf.names()
        names = [name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX)]
        for name, found in zip(names, self.shelf.each(self._read, names), strict=True):
            if isinstance(found, DatasetSpec):
                specs.append(found)
            else:
                problems[name] = found
        for file in files:
            if file.endswith(".yml"):
                where = f"{self.folder}/{file}"
                problems[file] = f"{where} is ignored: specs end in {SUFFIX}; rename it."
        return specs, problems

    def _read(self, name: str) -> DatasetSpec | str:
        """A spec, or what is wrong with it."""
        try:
            return self.get(name)
        except UserError as error:
            return str(error)

    def add(self, spec: DatasetSpec, *, replace: bool = False) -> bool:
        """Write a spec; True when something changed.

        Raises `UserError` when the name stands for another source already (a collision), or for the
        same source with other wishes and `replace` is not set.
        """
        file, text, shelf = _file(spec.name), spec.to_yaml(), self.shelf
        with shelf.alone():
            if shelf.create(file, text):
                return True
            if not self._may_write(spec, replace):
                return False
            shelf.write(file, text)
        return True

    def _may_write(self, spec: DatasetSpec, replace: bool) -> bool:
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
        raise UserError(
            f"Dataset {spec.name!r} has other options; edit {self.path(spec.name)} or "
            "pass --replace."
        )

    def remove(self, name: str) -> None:
        """Forget a dataset; its artifacts stay. Raises `UserError` when there is none."""
        file = _file(name)
        if self.shelf.read(file) is None:
            raise UserError(f"There is no dataset {name!r} in {self.folder}.")
        self.shelf.delete(file)


def _file(name: str) -> str:
    try:
        return check_slug(name) + SUFFIX
    except ValueError as error:
        raise UserError(f"Dataset {name!r}: {error}.") from None
