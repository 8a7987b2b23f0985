"""`gc`: what lies around without use, on disk and in the history of runs."""

from __future__ import annotations

import typer

from splat_assets.cli import options
from splat_assets.cli.output import say, say_json, say_table, show_bytes


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(gc)


def gc(
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be removed."),
    days: float = typer.Option(
        30.0, "--days", min=0.0, help="Runs that ended longer ago go, unless the UI needs them."
    ),
    orphans: bool = typer.Option(
        False, "--orphans", help="Delete the artifacts of datasets that are not registered, too."
    ),
    as_json: bool = options.JSON,
) -> None:
    """Remove old runs and what killed work left behind; name what belongs to nothing."""
    from splat_assets.artifacts.store import ArtifactStore
    from splat_assets.cli.specs import open_registry
    from splat_assets.housekeeping import find_waste, remove
    from splat_assets.instance import close_dead_runs, open_instance
    from splat_assets.run_history import forget_runs, old_runs
    from splat_assets.settings import load_settings

    registry = open_registry()
    found = find_waste(ArtifactStore.open(load_settings()), registry)
    with open_instance() as instance:
        if not dry_run:
            close_dead_runs(instance)
        runs = old_runs(instance, days=days)
        unknown = sorted(set(instance.get_dynamic_partitions("dataset")) - set(registry.names()))
        if not dry_run:
            forget_runs(instance, runs)
    gone = [f for f in found if f.removable or (orphans and f.kind == "dataset_not_registered")]
    if not dry_run:
        remove(found, orphans=orphans)
    if as_json:
        say_json(
            {
                "dry_run": dry_run,
                "runs": [record.dagster_run.run_id for record in runs],
                "bytes": sum(f.bytes for f in gone),
                "removed": [_plain(f.__dict__) for f in gone],
                "kept": [_plain(f.__dict__) for f in found if f not in gone],
                "partitions_without_dataset": unknown,
            }
        )
        return
    if found:
        say_table(
            ("", "WHAT", "NAME", "SIZE", ""),
            [
                (
                    ("would go" if dry_run else "removed") if f in gone else "kept",
                    f.kind.replace("_", " "),
                    f.name,
                    show_bytes(f.bytes),
                    f.detail,
                )
                for f in found
            ],
        )
    for name in unknown:
        say(f"Partition {name} has no registry file; the daemon's sensor removes it.")
    verb = "Would remove" if dry_run else "Removed"
    size = show_bytes(sum(f.bytes for f in gone))
    say(f"{verb} {size} on disk and {len(runs)} runs that ended over {days:g} days ago.")


def _plain(values: dict) -> dict:
    return {**values, "path": str(values["path"])}
