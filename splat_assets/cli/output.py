"""How the command line writes: results to stdout, everything else to stderr, numbers for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


def stdout() -> Console:
    """For results. Made anew each time, because tests and pipes replace the stream."""
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """For progress, warnings and errors."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str = "") -> None:
    """One line of result, printed as it is (no markup)."""
    stdout().print(text, markup=False)


def warn(sentence: str) -> None:
    stderr().print("[yellow]Warning:[/] ", end="")
    stderr().print(sentence, markup=False)


def complain(sentence: str) -> None:
    stderr().print("[red]Error:[/] ", end="")
    stderr().print(sentence, markup=False)


def say_json(value: Any) -> None:
    """`value` as JSON; numbers that are not finite become null, as JSON has none."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))


def say_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A borderless table; the last column takes the room that is left."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*(_escape(cell) for cell in row))
    console = stdout()
    if not console.is_terminal:
        console.width = 200
    console.print(table, soft_wrap=False)


def show_bytes(count: float) -> str:
    """1234567 → `1.2 MB` (powers of 1000)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def show_seconds(seconds: float) -> str:
    """0.42 → `0.4 s`, 75 → `1 min 15 s`, 5400 → `1 h 30 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and numbers
        return _plain(value.tolist())
    return value
