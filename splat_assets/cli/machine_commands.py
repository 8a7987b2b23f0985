"""`doctor` and `dev`: this machine, and the web UI on it."""

from __future__ import annotations

import typer

from splat_assets.cli import options
from splat_assets.cli.output import say_json, stdout

_COLORS = {"ok": "green", "warn": "yellow", "missing": "red"}


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(doctor)
    app.command()(dev)


def doctor(as_json: bool = options.JSON) -> None:
    """Say what works on this machine, and what to do about the rest."""
    from splat_assets.doctor import examine

    findings = []
    console = stdout()
    for found in examine():
        findings.append(found)
        if not as_json:
            console.print(f"[{_COLORS[found.state]}]{found.state:<8}[/]", end="")
            console.print(f"{found.name:<12} {found.detail}", markup=False)
            if found.remedy:
                console.print(f"{'':<21}→ {found.remedy}", markup=False)
    if as_json:
        say_json([vars(found) for found in findings])
    if any(found.essential and found.state == "missing" for found in findings):
        raise typer.Exit(1)


def dev(
    port: int = typer.Option(3000, "--port", min=1, max=65535, help="Of the web UI."),
    host: str = typer.Option("127.0.0.1", "--host", help="Address to listen on."),
) -> None:
    """Start the web UI and the daemon. Ctrl-C ends them."""
    from splat_assets.services import run_services

    run_services(port=port, host=host)
