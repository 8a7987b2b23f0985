"""`convert`: splat files of any format into one, with edits on the way."""

from __future__ import annotations

from pathlib import Path

import typer

from splat_assets.cli import options
from splat_assets.cli.output import say, say_json, show_bytes, show_seconds, warn
from splat_assets.errors import UserError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command()(convert)


def convert(
    files: list[Path] = typer.Argument(
        metavar="IN… OUT",
        help="Splat files to merge, then the file to write; endings say how. "
        "A streamed SOG is FOLDER/lod-meta.json.",
    ),
    up: str | None = typer.Option(
        None, help="Which way is up in the inputs (y, -y, z, …) where a file has it wrong."
    ),
    scale: float = typer.Option(1.0, help="Factor for the whole scene."),
    rotate: str = typer.Option("", metavar="X,Y,Z", help="Degrees about x, then y, then z."),
    translate: str = typer.Option("", metavar="X,Y,Z", help="Offset, after scale and rotation."),
    box: str = typer.Option("", metavar="X0,Y0,Z0,X1,Y1,Z1", help="Keep what is inside."),
    sphere: str = typer.Option("", metavar="X,Y,Z,R", help="Keep what is inside."),
    drop_invisible: bool = typer.Option(False, "--drop-invisible", help="Opacity below 1/255."),
    drop_stray: bool = typer.Option(False, "--drop-stray", help="Far away from all others."),
    sh_degree: int | None = typer.Option(None, min=0, max=3, help="At most this SH degree."),
    decimate: str = typer.Option("", metavar="N|P%", help="At most so many, by merging."),
    force: bool = options.FORCE_FILE,
    as_json: bool = options.JSON,
) -> None:
    """Convert splat files; several are merged. Axes are turned to what the format expects."""
    from splat_assets.cli.bars import one_bar
    from splat_assets.formats.convert import convert as run
    from splat_assets.formats.edit import Edit
    from splat_assets.formats.registry import writable_format
    from splat_assets.memory import keep_memory

    keep_memory()
    if len(files) < 2:
        raise UserError("Give the files to read and, last, the file to write.")
    *sources, target = files
    is_streamed = writable_format(target).name == "streamed-sog"
    options.check_output(target, force, own_folder=is_streamed)
    count, share = _amount(decimate)
    edit = Edit(
        up=up,
        scale=scale,
        rotate_deg=_numbers("rotate", rotate, 3) or (0.0, 0.0, 0.0),  # type: ignore[arg-type]
        translate=_numbers("translate", translate, 3) or (0.0, 0.0, 0.0),  # type: ignore[arg-type]
        box=_numbers("box", box, 6),  # type: ignore[arg-type]
        sphere=_numbers("sphere", sphere, 4),  # type: ignore[arg-type]
        drop_invisible=drop_invisible,
        drop_stray=drop_stray,
        sh_degree=sh_degree,
        count=count,
        share=share,
    )
    with one_bar("convert") as progress:
        done = run(sources, target, edit, progress=progress)
    if as_json:
        say_json(done.to_dict())
        return
    for note in done.notes:
        warn(f"{note}.")
    gone = ", ".join(f"{number:,} {why}" for why, number in done.dropped.items())
    say(
        f"{target} ({done.format}, {done.num_gaussians:,} Gaussians, {show_bytes(done.bytes)}) "
        f"in {show_seconds(done.seconds)}" + (f"; {gone}" if gone else "")
    )


def _numbers(name: str, text: str, count: int) -> tuple[float, ...] | None:
    if not text:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise UserError(f"--{name} needs {count} numbers with commas between, not {text!r}.")
    return numbers


def _amount(text: str) -> tuple[int | None, float | None]:
    """`--decimate` as a count or as a share of all."""
    try:
        if text.endswith("%"):
            return None, float(text[:-1]) / 100
        return (int(text) if text else None), None
    except ValueError:
        raise UserError(f"--decimate needs a number or a percentage, not {text!r}.") from None
