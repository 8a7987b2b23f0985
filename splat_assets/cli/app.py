"""The `splat-assets` program: its commands, and what a failure looks like in a terminal.

Exit codes: 0 done, 1 failed, 2 the user's mistake, 130 stopped by Ctrl-C. Heavy modules are
imported by the commands that need them, so that `--help` answers at once.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from splat_assets import __version__
from splat_assets.cli import (
    convert_command,
    dataset_commands,
    file_commands,
    gc_command,
    machine_commands,
    run_commands,
    watch_commands,
)
from splat_assets.cli.output import complain
from splat_assets.errors import Cancelled, TransientError, UserError

DONE, FAILED, MISTAKE, STOPPED = 0, 1, 2, 130


class CommandGroup(TyperGroup):
    """Turns the library's exceptions into one sentence and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _end(str(error), MISTAKE)
        except TransientError as error:
            _end(str(error), FAILED)
        except (Cancelled, KeyboardInterrupt) as error:
            _end(str(error) or "Stopped.", STOPPED)
        except BrokenPipeError:  # `splat-assets list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(FAILED) from None


def _end(sentence: str, code: int) -> NoReturn:
    complain(sentence)
    raise typer.Exit(code) from None


app = typer.Typer(
    name="splat-assets",
    cls=CommandGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Name a dataset of pictures, get a small, checked, browsable 3D Gaussian splat of it.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"splat-assets {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    pass


for _module in (
    dataset_commands,
    run_commands,
    watch_commands,
    file_commands,
    convert_command,
    gc_command,
    machine_commands,
):
    _module.register(app)


def main() -> None:
    """Entry point of the `splat-assets` script."""
    try:
        app()
    finally:
        # the process ends: to go through all of numba once more for cycles takes 0.2 s
        gc.freeze()
