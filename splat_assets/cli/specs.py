"""From what was typed to a `DatasetSpec`: sources, names, `--set` options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splat_assets.cli.output import warn
from splat_assets.datasets.registry import Registry
from splat_assets.datasets.spec import DatasetSpec, make_spec
from splat_assets.errors import SourceError, UserError
from splat_assets.settings import load_settings

if TYPE_CHECKING:
    from splat_assets.sources.uri import SourceRef

DEFAULT_PRESET = "preview"


def open_registry() -> Registry:
    return Registry(load_settings().registry_folder)


def parse_overrides(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`["train.steps=500"]` → `{"train": {"steps": 500}}`; values are YAML.

    Raises `UserError` for text of another form; whether the option exists is the spec's business.
    """
    import yaml

    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        stage, dot, option = name.strip().partition(".")
        if not (equals and dot and stage and option):
            raise UserError(f"--set {text!r} must look like stage.option=value.")
        try:
            found.setdefault(stage, {})[option] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {text!r}: the value is not valid YAML; quote it.") from None
    return found


def new_spec(
    source: str, *, name: str | None, preset: str | None, overrides: Sequence[str]
) -> DatasetSpec:
    """A checked spec for a source. Raises `UserError` for what can be seen to be wrong now."""
    from splat_assets.sources.uri import default_name, parse_source

    ref = parse_source(source)
    spec = make_spec(
        name=name or default_name(ref),
        source=ref.uri,
        preset=preset or DEFAULT_PRESET,
        options=parse_overrides(overrides),
    )
    _look_ahead(ref, spec)
    return spec


def resolve_target(
    target: str, *, name: str | None, preset: str | None, overrides: Sequence[str]
) -> tuple[DatasetSpec, bool]:
    """The dataset that `run NAME|SOURCE` means, and whether its registry entry must be written.

    A registered name wins over a source. Options given for a registered dataset change it.
    """
    registry = open_registry()
    if target in registry.names():
        spec = registry.get(target)
        if name not in (None, target):
            raise UserError(f"{target!r} is a dataset already; --name is for new sources.")
        return _changed(spec, preset, overrides)
    try:
        spec = new_spec(target, name=name, preset=preset, overrides=overrides)
    except SourceError:
        if "/" in target or Path(target).exists():
            raise
        raise UserError(
            f"There is no dataset {target!r} (`splat-assets list` shows those there are), "
            "and no file or folder of this name here."
        ) from None
    if spec.name in registry.names():
        known = registry.get(spec.name)
        if known.source == spec.source:
            return _changed(known, preset, overrides)
    return spec, True


def _changed(
    spec: DatasetSpec, preset: str | None, overrides: Sequence[str]
) -> tuple[DatasetSpec, bool]:
    options = {stage: dict(values) for stage, values in spec.options.items()}
    for stage, values in parse_overrides(overrides).items():
        options.setdefault(stage, {}).update(values)
    changed = make_spec(
        **{**spec.model_dump(), "preset": preset or spec.preset, "options": options}
    )
    return changed, changed != spec


def _look_ahead(ref: SourceRef, spec: DatasetSpec) -> None:
    """Say at once what would only fail, or disappoint, after a while."""
    if spec.preset != DEFAULT_PRESET and not _may_have_gpu():
        warn(f"No NVIDIA GPU is seen here, and preset {spec.preset!r} takes hours without one.")
    if ref.kind != "folder":
        return
    from splat_assets.sources import media

    fewest = spec.resolve().frames.min_frames
    photos = others = 0
    for path in ref.path.rglob("*"):
        if media.is_image(path.name):
            photos += 1
        elif media.is_video(path.name) or media.is_parquet(path.name) or _is_splat(path.name):
            others += 1
        if photos >= fewest or others:
            return
    if photos == 0:
        raise SourceError(f"{ref.path} holds no photos, video or model; name another folder.")
    raise SourceError(
        f"{ref.path} holds only {photos} photo{'s' if photos > 1 else ''}; "
        f"at least {fewest} are needed, and 20 or more give a good scene."
    )


def _is_splat(name: str) -> bool:
    """By its name."""
    from splat_assets.sources import media

    return name.endswith(".ply") or media.is_packed_splat(name) or media.is_sog_document(name)


def _may_have_gpu() -> bool:
    """A look without importing torch, for a warning only."""
    return any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/dxg", "/proc/driver/nvidia"))
