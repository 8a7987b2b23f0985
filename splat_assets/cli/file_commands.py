"""`export`, `view`, `compress`, `info`: results, and splat files of any origin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from splat_assets.cli import options
from splat_assets.cli.output import say, say_json, say_table, show_bytes, show_seconds, warn
from splat_assets.errors import UserError

if TYPE_CHECKING:
    from splat_assets.datasets.options import CompressOptions

EXPORTS = {
    "sog": ("compressed_splat", "scene.sog"),
    "html": ("compressed_splat", "viewer.html"),
    "report": ("compressed_splat", "report.html"),
    "ply": ("trained_splat", "splat.ply"),
}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(export)
    app.command()(view)
    app.command()(compress)
    app.command()(info)


def export(
    name: str = typer.Argument(help="The dataset."),
    form: str = typer.Option(..., "--format", "-F", help=f"One of {', '.join(EXPORTS)}."),
    output: Path = options.OUTPUT,
    force: bool = options.FORCE_FILE,
    unfinished: bool = typer.Option(
        False, "--unfinished", help="The splat of a training that was stopped, as far as it got."
    ),
) -> None:
    """Copy a dataset's current result to a file."""
    from splat_assets.artifacts.manifest import link_or_copy

    if form not in EXPORTS:
        raise UserError(f"There is no format {form!r}; choose one of {', '.join(EXPORTS)}.")
    if unfinished:
        _export_unfinished(name, form, output, force)
        return
    asset, file = EXPORTS[form]
    source = _current(name, asset) / file
    if not source.is_file():
        raise UserError(
            f"The {asset} of {name!r} holds no {file}; run it again with it switched on."
        )
    options.check_output(output, force)
    arriving = output.with_name(f".{output.name}.tmp")
    try:
        arriving.unlink(missing_ok=True)
        link_or_copy(source, arriving)
        arriving.replace(output)
    finally:
        arriving.unlink(missing_ok=True)
    say(f"{output} ({show_bytes(output.stat().st_size)})")


def view(
    name: str = typer.Argument(help="The dataset."),
    port: int = typer.Option(0, "--port", min=0, max=65535, help="0 takes a free one."),
    browser: bool = typer.Option(True, help="Open the web browser."),
    report: bool = typer.Option(False, "--report", help="The report: what compression cost."),
) -> None:
    """Show a dataset's splat, or its report, in the web browser. Ctrl-C ends it."""
    from splat_assets.viewing.serve import serve

    folder = _current(name, "compressed_splat")
    page = "report.html" if report else "viewer.html"
    serve(folder, port, page=page, open_browser=browser)


def compress(
    source: Path = typer.Argument(metavar="FILE", help="A splat file of any format."),
    output: Path = typer.Option(
        ..., "--output", "-o", help="A .sog to write; FOLDER/lod-meta.json for a streamed SOG."
    ),
    overrides: list[str] = typer.Option(
        [], "--set", "-s", metavar="OPTION=VALUE", help="A compress option; may be repeated."
    ),
    measure: bool = typer.Option(False, "--measure", help="Render both and say what was lost."),
    force: bool = options.FORCE_FILE,
    as_json: bool = options.JSON,
) -> None:
    """Compress a splat file to .sog, or to streamed SOG; no dataset is needed."""
    from splat_assets.cli.bars import one_bar
    from splat_assets.compression.files import compress_file, output_path
    from splat_assets.memory import keep_memory

    keep_memory()

    if not source.exists():
        raise UserError(f"There is no file {source}.")
    wishes = _compress_options(overrides)
    compute = None
    if measure:
        from splat_assets.compute import select_compute
        from splat_assets.settings import load_settings

        compute = select_compute(load_settings().device)
    output = output_path(output)
    options.check_output(output, force, own_folder=output.suffix != ".sog")
    with one_bar("compress") as progress:
        report = compress_file(source, output, wishes, progress=progress, compute=compute)
    if as_json:
        say_json(report)
        return
    size = f"{show_bytes(report['sog_bytes'])}, {report['ratio']:.1f}× smaller"
    lost = f", PSNR {report['psnr_vs_splat_db']:.1f} dB against it" if measure else ""
    say(f"{output} ({size}{lost}) in {show_seconds(report['seconds'])}")


def info(
    file: Path = typer.Argument(
        help="A splat file, the folder form of a .sog, or a folder of photos or robot episodes."
    ),
    as_json: bool = options.JSON,
) -> None:
    """Say what a splat file holds, or a folder: of a LeRobot dataset the cameras to choose from."""
    if not file.exists():
        raise UserError(f"There is no file {file}.")
    found = _describe(file)
    if as_json:
        say_json(found)
        return
    cameras = found.pop("cameras", [])
    width = max(len(key) for key in found)
    for key, value in found.items():
        say(f"{key:<{width}}  {_show(key, value)}")
    if cameras:
        say()
        say_table(
            ("CAMERA", "KIND", "SIZE", "SHOWS", "MOUNT", "TAKEN"),
            [
                (
                    row["camera"],
                    row["kind"],
                    f"{row['width']}×{row['height']}" if row["width"] else "",
                    row["holds"],
                    row["mount"],
                    "by default" if row["taken"] else "",
                )
                for row in cameras
            ],
        )


def _describe(path: Path) -> dict[str, Any]:
    from splat_assets.compression.files import describe_file
    from splat_assets.compression.sog_reader import META
    from splat_assets.formats.registry import LOD_META
    from splat_assets.sources.describe import describe_folder

    is_splat = path.is_file() or (path / META).is_file() or (path / LOD_META).is_file()
    return describe_file(path) if is_splat else describe_folder(path)


def _export_unfinished(name: str, form: str, output: Path, force: bool) -> None:
    """Write the splat in the checkpoint of a stopped training."""
    from splat_assets.artifacts.store import ArtifactStore
    from splat_assets.cli.specs import open_registry
    from splat_assets.gaussians.ply import write_ply
    from splat_assets.gaussians.splat_model import CHECKPOINT
    from splat_assets.settings import load_settings
    from splat_assets.training.checkpoint import unfinished_splat

    if form != "ply":
        raise UserError("An unfinished training is exported as ply (`--format ply`).")
    spec = open_registry().get(name)
    folders = ArtifactStore.open(load_settings()).resume_folders(spec.name, "trained_splat")
    found = next((folder for folder in folders if (folder / CHECKPOINT).is_file()), None)
    if found is None:
        raise UserError(f"{name!r} has no training that was stopped with a checkpoint.")
    options.check_output(output, force)
    splat = unfinished_splat(found)
    write_ply(output, splat.gaussians)
    size = show_bytes(output.stat().st_size)
    say(f"{output} ({size}), as it was at step {splat.step} of {splat.steps}")


def _show(key: str, value: Any) -> str:
    if key.endswith("bytes") and isinstance(value, int | float):
        return show_bytes(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(key, item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_show(key, item) for item in value)
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _compress_options(texts: list[str]) -> CompressOptions:
    from splat_assets.cli.specs import parse_overrides
    from splat_assets.datasets.spec import make_spec

    wishes = parse_overrides([f"compress.{text.removeprefix('compress.')}" for text in texts])
    return make_spec(name="file", source="file", options=wishes).resolve().compress


def _current(name: str, asset: str) -> Path:
    """Local folder of a dataset's current artifact; warns when it is stale."""
    from splat_assets.artifacts.store import ArtifactStore
    from splat_assets.cli.specs import open_registry
    from splat_assets.settings import load_settings
    from splat_assets.stages import status

    spec = open_registry().get(name)
    store = ArtifactStore.open(load_settings())
    folder = store.open_local(name, asset)
    if folder is None:
        raise UserError(f"{name!r} has no {asset} yet; `splat-assets run {name}` makes it.")
    found = status(spec, store)[asset]
    if found.state != "current":
        warn(f"{asset} of {name} is {found.state} ({found.reason}); `splat-assets run {name}`.")
    return folder
