"""One way for long work to say how far it is, and to learn that it should stop.

Library functions take a `Progress` and call `update` often; where the reports go (a terminal bar,
the Dagster UI, a JSONL file, nowhere) is the sink's business, and so is throttling.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from splat_assets.errors import Cancelled

Figures = dict[str, float]


@dataclass(frozen=True)
class Report:
    """One progress report: `fraction` of the whole step in [0, 1], what is happening, figures."""

    fraction: float
    message: str
    figures: Figures = field(default_factory=dict)
    warning: bool = False
    elapsed_sec: float = 0.0


class Sink(Protocol):
    """Where reports go. Called on every update: must be cheap, and throttle itself."""

    def __call__(self, report: Report) -> None: ...


class Progress:
    """Passed to every long function. `update` raises `Cancelled` once a stop was asked for.

    `span(a, b)` gives a child whose 0..1 maps onto a..b of this one, so that a function can be
    composed without knowing where in the whole it runs.
    """

    def __init__(
        self,
        sink: Sink | None = None,
        should_cancel: Callable[[], bool] | None = None,
        *,
        start: float = 0.0,
        stop: float = 1.0,
        began: float | None = None,
    ) -> None:
        self._sink = sink
        self._should_cancel = should_cancel
        self._start, self._stop = start, stop
        self._began = time.monotonic() if began is None else began

    def update(self, fraction: float, message: str = "", **figures: float) -> None:
        """Report `fraction` (0..1 of this span). Raises `Cancelled` when a stop was asked for."""
        self.check()
        self._emit(fraction, message, figures, warning=False)

    def warn(self, message: str) -> None:
        """Tell the user something that is worth reading although the work goes on."""
        self._emit(0.0, message, {}, warning=True)

    def check(self) -> None:
        """Raise `Cancelled` when a stop was asked for; cheap enough for inner loops."""
        if self._should_cancel is not None and self._should_cancel():
            raise Cancelled("Stopped on request.")

    def span(self, start: float, stop: float) -> Progress:
        """A child progress covering `start`..`stop` of this one."""
        width = self._stop - self._start
        return Progress(
            self._sink,
            self._should_cancel,
            start=self._start + start * width,
            stop=self._start + stop * width,
            began=self._began,
        )

    def _emit(self, fraction: float, message: str, figures: Figures, *, warning: bool) -> None:
        if self._sink is None:
            return
        clamped = min(max(fraction, 0.0), 1.0)
        absolute = self._start + clamped * (self._stop - self._start)
        elapsed = time.monotonic() - self._began
        self._sink(Report(absolute, message, dict(figures), warning, elapsed))


def silent() -> Progress:
    """A progress that goes nowhere and never cancels."""
    return Progress()
