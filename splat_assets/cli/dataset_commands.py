"""`add`, `list`, `status`, `remove`: the registry from the terminal."""

from __future__ import annotations

from typing import Any

import typer

from splat_assets.cli import options
from splat_assets.cli.output import say, say_json, say_table, show_bytes, show_seconds, warn


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(add)
    app.command(name="list")(list_datasets)
    app.command()(status)
    app.command()(remove)


def add(
    source: str = typer.Argument(
        metavar="SOURCE",
        help="org/name, hf://datasets/org/name\\[@rev], a folder of photos, an archive, a video, "
        "an http(s) URL, a COLMAP or nerfstudio folder, or a splat file",
    ),
    name: str | None = options.NAME,
    preset: str | None = options.PRESET,
    overrides: list[str] = options.SET,
    replace: bool = typer.Option(False, "--replace", help="Replace a dataset of this name."),
) -> None:
    """Register a dataset."""
    from splat_assets.cli.specs import new_spec

    spec = new_spec(source, name=name, preset=preset, overrides=overrides)
    from splat_assets.launch import add_dataset

    changed = add_dataset(spec, replace=replace)
    say(
        f"{'Registered' if changed else 'Already registered:'} {spec.name} "
        f"({spec.source}, preset {spec.preset})."
    )
    say(f"Next: splat-assets run {spec.name}")


def list_datasets(as_json: bool = options.JSON) -> None:
    """List the registered datasets."""
    from splat_assets.artifacts.store import ArtifactStore
    from splat_assets.cli.figures import headline
    from splat_assets.cli.specs import open_registry
    from splat_assets.settings import load_settings
    from splat_assets.stages import ASSETS, statuses

    specs, problems = open_registry().list()
    store = ArtifactStore.open(load_settings())
    rows: list[dict[str, Any]] = []
    for spec, states in zip(specs, statuses(specs, store), strict=True):
        rows.append(
            {
                **spec.model_dump(mode="json", exclude={"options"}),
                "assets": {asset: states[asset].state for asset in ASSETS},
            }
        )
        final = states[ASSETS[-1]].manifest
        rows[-1]["result"] = headline(ASSETS[-1], final.summary, final.skipped) if final else ""
    if as_json:
        say_json({"datasets": rows, "problems": problems})
        return
    for problem in problems.values():
        warn(problem)
    if not rows:
        say("No datasets yet; `splat-assets add SOURCE` registers one, `splat-assets demo` tries.")
        return
    say_table(
        ("NAME", "PRESET", "CURRENT", "RESULT", "SOURCE"),
        [
            (
                row["name"],
                row["preset"],
                f"{list(row['assets'].values()).count('current')} of {len(ASSETS)}",
                row["result"],
                row["source"],
            )
            for row in rows
        ],
    )


def status(
    name: str | None = typer.Argument(None, help="A dataset; default: all of them."),
    as_json: bool = options.JSON,
) -> None:
    """Show where every asset of a dataset stands."""
    from splat_assets.launch import all_asset_states, asset_states

    if name is not None:
        states = asset_states(name)
        if as_json:
            say_json(_complete(states))
        else:
            _say_states(states)
        return
    everything, problems = all_asset_states()
    if as_json:
        say_json([_complete(states) for states in everything])
        return
    for problem in problems.values():
        warn(problem)
    if not everything:
        say("No datasets yet; `splat-assets add SOURCE` registers one.")
    for number, states in enumerate(everything):
        if number:
            say()
        _say_states(states)


def _complete(states: dict[str, Any]) -> dict[str, Any]:
    """Every asset with the same first keys, so that scripts need not ask whether they are there."""
    first = {"state": "missing", "run_id": None, "seconds": None, "path": None}
    assets = {asset: {**first, **shown} for asset, shown in states["assets"].items()}
    return {**states, "assets": assets}


def _say_states(states: dict[str, Any]) -> None:
    from splat_assets.cli.figures import headline

    revision = f" @ {states['revision'][:12]}" if states["revision"] else ""
    size = f", {show_bytes(states['disk_bytes'])} on disk" if states["disk_bytes"] else ""
    say(f"{states['name']}  ({states['source']}{revision}, preset {states['preset']}{size})")
    rows = []
    for asset, shown in states["assets"].items():
        made = bool(shown.get("run_id"))
        figures = headline(asset, shown, shown.get("skipped")) if made else ""
        reason = shown.get("reason") or ""
        if reason == "not made yet":
            reason = ""
        took = show_seconds(shown["seconds"]) if shown.get("seconds") is not None else ""
        rows.append((asset, shown["state"], took, ": ".join(x for x in (reason, figures) if x)))
    say_table(("ASSET", "STATE", "TOOK", ""), rows)


def remove(
    name: str = typer.Argument(help="The dataset to forget."),
    delete_artifacts: bool = typer.Option(
        False, "--delete-artifacts", help="Delete everything made from it, too."
    ),
) -> None:
    """Forget a dataset; what was made from it stays unless asked otherwise."""
    from splat_assets.launch import remove_dataset
    from splat_assets.settings import load_settings

    remove_dataset(name, artifacts=delete_artifacts)
    left = load_settings().local_root / name
    if delete_artifacts:
        say(f"Removed {name} and everything made from it.")
    elif left.exists():
        say(f"Removed {name}; what was made from it stays in {left}.")
    else:
        say(f"Removed {name}.")
