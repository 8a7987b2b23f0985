"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import typer

NAME = typer.Option(None, "--name", "-n", help="Its name; default: made from the source.")
PRESET = typer.Option(None, "--preset", "-p", help="preview, standard or high.")
SET = typer.Option(
    [], "--set", "-s", metavar="STAGE.OPTION=VALUE", help="Override an option; may be repeated."
)
JSON = typer.Option(False, "--json", help="Machine-readable output.")
FORCE_FILE = typer.Option(False, "--force", "-f", help="Overwrite an existing file.")
OUTPUT = typer.Option(..., "--output", "-o", help="The file to write.")


def check_output(path: Path, force: bool, *, own_folder: bool = False) -> Path:
    """`path` when it may be written; `UserError` otherwise. A folder of its own may be missing."""
    from splat_assets.errors import UserError

    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it.")
    if path.exists() and not force:
        raise UserError(f"{path} exists; pass --force to overwrite it.")
    folder = path.absolute().parent.parent if own_folder else path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"The folder {folder} does not exist; make it first.")
    return path
