"""`DatasetSpec`: the name, the source and the wishes of one dataset; its YAML form."""

from __future__ import annotations

import re
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from splat_assets.datasets.options import (
    STAGES,
    CompressOptions,
    FrameOptions,
    PoseOptions,
    SourceOptions,
    StageOptions,
    TrainOptions,
)
from splat_assets.datasets.presets import PRESETS, PipelineOptions, PresetName
from splat_assets.errors import UserError

SLUG = re.compile(r"[a-z0-9][a-z0-9._-]{0,95}")
RESERVED = ("datasets", "notify.yaml", "watch.yaml")  # what lies beside the datasets' folders
_MODELS: dict[str, type[StageOptions]] = {
    "source": SourceOptions,
    "frames": FrameOptions,
    "poses": PoseOptions,
    "train": TrainOptions,
    "compress": CompressOptions,
}


class DatasetSpec(BaseModel):
    """One dataset: a partition of the graph, a YAML file in the registry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="the partition key, a slug")
    source: str = Field(min_length=1, description="where the pictures are; see `sources`")
    preset: PresetName = "preview"
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="overrides: stage → option → value"
    )
    description: str = ""

    @field_validator("name")
    @classmethod
    def _name_is_slug(cls, value: str) -> str:
        return check_slug(value)

    @field_validator("options")
    @classmethod
    def _stages_exist(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for stage in value:
            if stage not in STAGES:
                raise ValueError(f"there is no stage {stage!r}; the stages are {', '.join(STAGES)}")
        return value

    def resolve(self) -> PipelineOptions:
        """Preset defaults with this spec's overrides; `UserError` naming a bad field."""
        preset = PRESETS[self.preset]
        resolved = {}
        for stage, model in _MODELS.items():
            values = {**getattr(preset, stage, {}), **self.options.get(stage, {})}
            try:
                resolved[stage] = model(**values)
            except ValidationError as error:
                raise UserError(f"Dataset {self.name!r}: {explain(error, stage)}") from None
        return PipelineOptions(**resolved)  # type: ignore[arg-type]

    def to_yaml(self) -> str:
        """The registry file's text; long values stay on their line, for grep and diff."""
        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_defaults=True),
            sort_keys=False,
            allow_unicode=True,
            width=float("inf"),
        )


def make_spec(**values: Any) -> DatasetSpec:
    """Build a spec and check all of it, options included. Raises `UserError` in one sentence."""
    try:
        spec = DatasetSpec(**values)
    except ValidationError as error:
        name = values.get("name", "?")
        raise UserError(f"Dataset {name!r}: {explain(error)}") from None
    spec.resolve()
    return spec


def parse_spec(text: str, *, where: str, name: str | None = None) -> DatasetSpec:
    """A spec from its YAML text; `where` names the file in errors, `name` is used where the text
    has none.
    """
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{where} is not valid YAML: {line}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{where} must be a mapping with at least `source`.")
    if name is not None:
        values.setdefault("name", name)
    try:
        return make_spec(**values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def check_slug(name: str) -> str:
    """Return `name` when it is a valid partition key, else raise `ValueError`."""
    if not SLUG.fullmatch(name) or ".." in name:
        raise ValueError(
            f"the name {name!r} may hold lower-case letters, digits, '.', '_' and '-', starts with "
            "a letter or digit, and is at most 96 long"
        )
    if name in RESERVED:
        raise ValueError(f"the name {name!r} is taken by splat_assets itself; choose another")
    return name


def slugify(text: str) -> str:
    """A readable slug from any text: `lerobot/SVLA so101` → `lerobot--svla-so101`.

    Raises `UserError` when nothing usable is left.
    """
    import unicodedata

    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    plain = plain.strip("/ ").replace("/", "--")
    plain = re.sub(r"[^a-z0-9._-]+", "-", plain)
    plain = re.sub(r"\.{2,}", ".", plain)
    slug = plain.strip("-._")[:96].rstrip("-._")
    if not slug:
        raise UserError(f"{text!r} holds no letter or digit to make a name of; pass --name.")
    return f"{slug}-1" if slug in RESERVED else slug


def explain(error: ValidationError, stage: str | None = None) -> str:
    """The first complaint of a pydantic error as a plain sentence."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in ((stage,) if stage else ()) + tuple(first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"there is no option {field!r}."
    if first["type"] == "value_error":
        return str(first["ctx"]["error"]) + "."
    reason = first["msg"]
    given = "" if first["type"] == "missing" else f" (it is {first['input']!r})"
    return f"option {field!r}: {reason[0].lower()}{reason[1:]}{given}."
