"""`watch add|list|remove`: what the daemon looks out for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from splat_assets.cli import options
from splat_assets.cli.output import say, say_json, say_table, warn

if TYPE_CHECKING:
    from splat_assets.watching.watch_list import DropBox, HubWatch, WatchFile

watch = typer.Typer(
    no_args_is_help=True,
    help="Let new datasets come by themselves, from the Hugging Face Hub and from drop boxes.",
)


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.add_typer(watch, name="watch")


@watch.command()
def add(
    author: str | None = typer.Option(None, "--author", "-a", help="Hub user or organisation."),
    search: str | None = typer.Option(None, "--search", help="Text in the repository's name."),
    tags: list[str] = typer.Option([], "--tag", "-t", help="Tag on the Hub (LeRobot); repeatable."),
    repos: list[str] = typer.Option([], "--repo", "-r", help="Exact org/name; repeatable."),
    folder: str | None = typer.Option(
        None, "--folder", "-f", help="Drop box: a folder, or a prefix of a bucket (s3://…)."
    ),
    exclude: list[str] = typer.Option([], "--exclude", help="Glob of names to leave out."),
    name: str | None = typer.Option(None, "--name", "-n", help="Name of the entry."),
    preset: str | None = options.PRESET,
    overrides: list[str] = options.SET,
    max_gb: float | None = typer.Option(
        None, "--max-gb", help="Leave larger repositories out; default: 20."
    ),
    settle_sec: float | None = typer.Option(
        None, "--settle-sec", help="Drop box: seconds without a change; default: 30."
    ),
    runs_per_tick: int | None = typer.Option(
        None, "--runs-per-tick", help="New runs at once; default and most: 25."
    ),
    runs_per_hour: int | None = typer.Option(
        None, "--runs-per-hour", help="New runs in any hour; default: as many as the queue takes."
    ),
    register_only: bool = typer.Option(
        False, "--register-only", help="Register only; reconstruct by a backfill."
    ),
) -> None:
    """Watch the Hub for what matches, or a folder for what is put there."""
    from pathlib import Path

    from splat_assets.cli.specs import parse_overrides
    from splat_assets.errors import UserError
    from splat_assets.watching.watch_list import DropBox, HubWatch, make_watch

    common: dict[str, Any] = {
        "name": name,
        "preset": preset,
        "options": parse_overrides(overrides),
        "runs_per_tick": runs_per_tick,
        "runs_per_hour": runs_per_hour,
        "launch": False if register_only else None,
    }
    of_hub = {
        "author": author,
        "search": search,
        "tags": tuple(tags),
        "repos": tuple(repos),
        "exclude": tuple(exclude),
        "max_gb": max_gb,
    }
    given = [f"--{key.rstrip('s').replace('_', '-')}" for key, value in of_hub.items() if value]
    made: HubWatch | DropBox
    if folder is not None:
        if given:
            raise UserError(f"--folder is a drop box and {given[0]} asks the Hub; add two entries.")
        path = folder if "://" in folder else str(Path(folder).expanduser().resolve())
        if "://" not in path and not Path(path).is_dir():
            raise UserError(f"There is no folder {path}; make it first.")
        made = make_watch(DropBox, **_given(common | {"path": path, "settle_sec": settle_sec}))
    elif settle_sec is not None:
        raise UserError("--settle-sec is for drop boxes (--folder).")
    else:
        made = make_watch(HubWatch, **_given(common | of_hub))
    entry = _file().add(made)
    say(f"Watching {entry.label} as {entry.name!r} (preset {entry.preset}).")
    say("The daemon looks out for it while `splat-assets dev` runs.")


@watch.command(name="list")
def list_watches(as_json: bool = options.JSON) -> None:
    """List what is watched and what came of it."""
    from splat_assets.cli.specs import open_registry
    from splat_assets.watching.ledger import open_ledger
    from splat_assets.watching.watch_list import HubWatch

    file = _file()
    watches = file.load()
    rows: list[dict[str, Any]] = []
    if watches.hub or watches.drop_boxes:
        with open_ledger(open_registry()) as ledger:
            for entry in watches:
                rows.append(
                    {
                        "name": entry.name,
                        "kind": "hub" if isinstance(entry, HubWatch) else "drop_box",
                        "watches": entry.label,
                        "preset": entry.preset,
                        "counts": ledger.counts(entry.name),
                        "left_out": {e.label: e.reason for e in ledger.reasons(entry.name)},
                    }
                )
    if as_json:
        say_json({"file": str(file), "watches": rows, "problems": list(watches.problems)})
        return
    for problem in watches.problems:
        warn(problem)
    if not rows:
        say("Nothing is watched; `splat-assets watch add --author ORG` or `--folder PATH` begins.")
        return
    say_table(
        ("NAME", "PRESET", "WATCHES", "FOUND"),
        [
            (
                row["name"],
                row["preset"],
                row["watches"],
                ", ".join(f"{count} {state}" for state, count in row["counts"].items()) or "-",
            )
            for row in rows
        ],
    )
    for row in rows:
        for reason in row["left_out"].values():
            say(f"{row['name']}: {reason}")


@watch.command()
def remove(name: str = typer.Argument(help="The entry to remove.")) -> None:
    """Stop watching; datasets that came of it stay."""
    entry = _file().remove(name)
    say(f"No longer watching {entry.label}; its datasets stay.")


def _file() -> WatchFile:
    from splat_assets.cli.specs import open_registry
    from splat_assets.watching.watch_list import WatchFile

    return WatchFile.of(open_registry())


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Without what was not typed, so that the defaults stand."""
    return {key: value for key, value in values.items() if value not in (None, (), {})}
