"""Progress in the terminal: a bar per stage, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from splat_assets.cli.output import show_seconds, stderr
from splat_assets.progress import Progress, Report

LINE_EVERY_SEC = 5.0  # of plain output, per stage; grows with the length of the stage
MAX_FIGURES = 3


class Display:
    """Shows reports of stages as they come; a context manager.

    `display(stage, report)` is called by the work itself; a report of another stage ends the one
    before.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or stderr()
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars = RichProgress(
            TextColumn("{task.fields[stage]:<16}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[took]:>11}"),
            TextColumn("{task.fields[text]}", markup=False),
            console=self._console,
            transient=False,
            refresh_per_second=5,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, tuple[float, str]] = {}
        self._stage: str | None = None
        self._elapsed = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live:
            self._bars.stop()

    def __call__(self, stage: str, report: Report) -> None:
        if report.warning:
            self._print(f"{stage}: warning: {report.message}", style="yellow")
            return
        if stage != self._stage:
            self.close()
        self._stage, self._elapsed = stage, report.elapsed_sec
        if self._live:
            self._draw(stage, report.fraction, report.elapsed_sec, _describe(report))
        else:
            self._write_line(stage, report)

    def close(self) -> None:
        """The stage shown last is done."""
        if self._stage is None:
            return
        if self._live:
            self._bars.update(self._tasks[self._stage], completed=1.0, text="done")
        else:
            self._print(f"{self._stage}: done ({show_seconds(self._elapsed)})")
        self._stage = None

    def _draw(self, stage: str, fraction: float, seconds: float, text: str) -> None:
        took = show_seconds(seconds)
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(
                stage, total=1.0, stage=stage, text="", took=""
            )
        self._bars.update(self._tasks[stage], completed=fraction, text=text, took=took)

    def _write_line(self, stage: str, report: Report) -> None:
        now = time.monotonic()
        before, message = self._said.get(stage, (-1e9, ""))
        if now - before < max(LINE_EVERY_SEC, report.elapsed_sec / 20) or (
            report.message == message and report.fraction == 0
        ):
            return
        self._said[stage] = now, report.message
        took = show_seconds(report.elapsed_sec)
        self._print(f"{stage}: {report.fraction:.0%} {_describe(report)} ({took})")

    def _print(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style=style))


@contextmanager
def one_bar(stage: str) -> Iterator[Progress]:
    """A `Progress` for a single piece of work, shown as one bar."""
    with Display() as display:
        yield Progress(lambda report: display(stage, report))
        display.close()


def _describe(report: Report) -> str:
    """Message and figures: `Training · loss 0.213 · num gaussians 8000`."""
    figures = [
        f"{name.replace('_', ' ')} {value:.0f}"
        if value == int(value)
        else f"{name.replace('_', ' ')} {value:.4g}"
        for name, value in report.figures.items()
        if math.isfinite(value) and name != "step"
    ]
    return " · ".join([part for part in (report.message, *figures[:MAX_FIGURES]) if part])
