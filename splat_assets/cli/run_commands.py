"""`run` and `demo`: materialize a dataset's chain in this terminal, with progress."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from splat_assets.cli import options
from splat_assets.cli.output import complain, say, say_json, say_table, show_seconds, warn

if TYPE_CHECKING:
    from splat_assets.datasets.spec import DatasetSpec
    from splat_assets.launch import RunOutcome

DEMO_FOLDER = "_demo"  # below the data root; no dataset can have this name


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(run)
    app.command()(demo)


def run(
    target: str = typer.Argument(metavar="NAME|SOURCE", help="A dataset, or a source to register."),
    to: str | None = typer.Option(None, "--to", metavar="ASSET", help="Stop after this asset."),
    force: bool = typer.Option(False, "--force", "-f", help="Redo what is up to date, too."),
    name: str | None = options.NAME,
    preset: str | None = options.PRESET,
    overrides: list[str] = options.SET,
    as_json: bool = options.JSON,
) -> None:
    """Bring a dataset up to date: fetch, select frames, solve cameras, train, compress."""
    from splat_assets.cli.specs import resolve_target

    spec, is_new = resolve_target(target, name=name, preset=preset, overrides=overrides)
    if is_new:
        from splat_assets.launch import add_dataset

        is_known = spec.name == target
        add_dataset(spec, replace=is_known or _same_source(spec))
    outcome = _run_with_bars(spec.name, to=to, force=force)
    if as_json:
        say_json(_outcome_as_dict(spec.name, outcome))
    else:
        _say_outcome(outcome)
    _end_as(outcome)


def demo(
    name: str = typer.Option("demo", "--name", "-n", help="Name of the dataset."),
    num_images: int = typer.Option(24, "--images", min=4, max=500, help="Photos to take."),
    width: int = typer.Option(640, "--width", min=160, max=4000, help="Their width in pixels."),
    preset: str | None = options.PRESET,
    overrides: list[str] = options.SET,
    as_json: bool = options.JSON,
) -> None:
    """Try everything on a synthetic capture made on the spot, and compare with its truth."""
    from splat_assets.cli.bars import one_bar
    from splat_assets.cli.specs import new_spec
    from splat_assets.demo import compare_centers, make_capture
    from splat_assets.launch import add_dataset
    from splat_assets.poses.pose_model import PoseModel
    from splat_assets.settings import load_settings

    folder = load_settings().local_root / DEMO_FOLDER / f"{num_images}x{width}"
    with one_bar("capture") as progress:
        capture = make_capture(
            folder,
            num_images=num_images,
            width=width,
            height=width * 3 // 4,
            progress=progress,
        )
    spec = new_spec(str(capture.photos), name=name, preset=preset, overrides=overrides)
    add_dataset(spec, replace=True)
    outcome = _run_with_bars(name)
    error = None
    if "camera_poses" in outcome.assets:
        poses = PoseModel.open(Path(outcome.assets["camera_poses"]["path"]))
        error = compare_centers(capture.truth, poses)
    if as_json:
        say_json({**_outcome_as_dict(name, outcome), "center_error": error})
    else:
        _say_outcome(outcome)
        if error is not None:
            say(f"Camera centres are within {error:.3%} of the scene's size of the exact ones.")
    _end_as(outcome)


def _run_with_bars(name: str, *, to: str | None = None, force: bool = False) -> RunOutcome:
    from splat_assets.cli.bars import Display
    from splat_assets.launch import run_chain

    with Display() as display:
        outcome = run_chain(name, to=to, force=force, sink=display)
        if outcome.succeeded:
            display.close()
    return outcome


def _say_outcome(outcome: RunOutcome) -> None:
    from splat_assets.cli.figures import headline

    rows = []
    for asset, shown in outcome.assets.items():
        took = "unchanged" if shown.get("reused") else show_seconds(shown["seconds"])
        rows.append((asset, took, headline(asset, shown, shown.get("skipped"))))
    say()
    say_table(("ASSET", "TOOK", ""), rows)
    last = list(outcome.assets.values())[-1] if outcome.assets else None
    if last is not None:
        say()
        say(f"Files:  {last['path']}")
    if "compressed_splat" in outcome.assets and last is not None:
        viewer = Path(last["path"]) / "viewer.html"
        if viewer.is_file():
            say(f"Viewer: {viewer}  (open it in a browser; it needs no network)")


def _outcome_as_dict(name: str, outcome: RunOutcome) -> dict[str, Any]:
    return {
        "name": name,
        "run_id": outcome.run_id,
        "succeeded": outcome.succeeded,
        "error": outcome.error,
        "failed_checks": [vars(check) for check in outcome.failed_checks],
        "assets": outcome.assets,
    }


def _end_as(outcome: RunOutcome) -> None:
    """Warn of gates that were not passed, and end with code 1 when the run failed."""
    for check in outcome.failed_checks:
        if not check.blocking:
            warn(f"{check.asset}: {check.message}")
    if outcome.succeeded:
        return
    complain(outcome.error or "The run failed.")
    if outcome.log is not None:
        complain(f"What the step printed is in {outcome.log}.")
    raise typer.Exit(1)


def _same_source(spec: DatasetSpec) -> bool:
    """True when the registry knows this name with this source: only its options change."""
    from splat_assets.cli.specs import open_registry

    registry = open_registry()
    return spec.name in registry.names() and registry.get(spec.name).source == spec.source
