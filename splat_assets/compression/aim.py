"""One splat on its way to a goal: aimed, looked at, aimed anew.

A preset is met once; a quality or a size that was asked for by number is checked on the decoded
file and approached in a few rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from splat_assets.compression.precision import Precision
from splat_assets.compression.rate_control import DB_RANGE, Job, RateControl
from splat_assets.compression.sog_bundle import EncodedSog, bundle_bytes
from splat_assets.progress import Progress

_ROUNDS = 6
_CLOSE_DB = 0.15
_LEAST_STEP_DB, _LEAST_CHANGE_DB = 0.3, 0.02
_TUNINGS = 4  # rounds of fine-tuning
_UNEVEN_DB = 0.1  # by which its gain differs from one round to the next
_LOOKS, _OFF_DB = 4, 0.7  # at what a preset will give; from its goal, more after each look
_PARTS_DB = 4.4  # that parts are seen to fall short of what is foretold from few views of each
_CLOSE_SIZE = 0.02


@dataclass(frozen=True)
class TargetedSog:
    """The encoded splat and how it was aimed."""

    encoded: EncodedSog
    aimed_db: float  # what the precision was chosen for
    notes: tuple[str, ...]  # what could not be done as asked, and what was done instead
    finetuned: bool = False  # what was rounded last made up for the rest
    pruned: int = 0  # Gaussians left out for their small contribution
    measured_db: float | None = None  # of the decoded file, where it was looked at


class Aim:
    """One splat on its way to a goal."""

    def __init__(self, job: Job, goal: float, pruned: bool, progress: Progress) -> None:
        """At `goal` dB; Gaussians are left out for their small contribution if `pruned`."""
        self._goal, self._progress = goal, progress
        self._control = RateControl(job, goal, pruned, progress)
        # what has been looked at: storage and dB by what was aimed at
        self._tried: dict[float, tuple[Precision, float]] = {}

    def once(self) -> TargetedSog:
        """At the goal of a preset; aimed anew where a look at what comes out is clearly off."""
        # fine-tuned once, at the end; what that brings is much the same everywhere
        goal = self._goal - self._control.gain_db
        aim, reached = goal, None
        tried: list[tuple[float, float, Precision]] = []
        if self._control.by_parts:
            aim += _PARTS_DB
        precision = self._control.for_db(aim)
        for look in range(1, _LOOKS + 1):
            reached = self._control.foreseen(precision)
            if reached is None:
                break
            tried.append((aim, reached, precision))
            if abs(reached - goal) <= look * _OFF_DB:
                break
            known, aim = aim, _next_aim([pair[:2] for pair in tried], goal)
            before = precision
            precision = self._control.for_other_db(precision, known, aim, bounded=True)
            if precision == before:  # finer than that cannot be
                break
        if reached is not None:
            # small changes of storage can change dB by more than they should
            enough = [found for found in tried if found[1] >= goal - _OFF_DB]
            aim, reached, precision = (
                min(enough, key=lambda found: found[0])
                if enough
                else max(tried, key=lambda found: found[1])
            )
        tuned = self._control.finetuned(precision, self._span(_ROUNDS - 1, 0.5, 1.0))
        if tuned is not None:
            return self._result(tuned, aim, self._control.measured(tuned))
        if self._control.gain_db:  # it failed: the rest has to be finer
            self._control.without_tuning()
            return self.once()
        encoded = self._control.encoded(precision, self._span(0, 0.0, 0.5))
        return self._result(encoded, aim, reached)

    def fit_quality(self) -> TargetedSog:
        """The smallest found that has at least the goal, else the best."""
        goal, gain = self._goal, self._control.gain_db
        best: tuple[float, int, float, EncodedSog] | None = None
        for index in range(_TUNINGS if gain else 1):
            aim, precision, before = self._search(goal - gain)
            tuned = self._control.finetuned(precision, self._span(index, 0.5, 1.0))
            encoded = tuned or self._control.encoded(precision, self._span(index, 0.0, 0.5))
            reached = before if tuned is None else self._control.measured(tuned)
            if reached is None:
                return self._result(encoded, aim)
            size = len(bundle_bytes(encoded))
            if (
                best is None
                or (reached >= goal and (best[0] < goal or size < best[1]))
                or (reached > best[0] and best[0] < goal)
            ):
                best = (reached, size, aim, encoded)
            if before is None or 0 <= reached - goal <= _CLOSE_DB:
                break
            short = reached < goal
            gain = min(gain, reached - before) - _UNEVEN_DB if short else reached - before
        assert best is not None
        return self._result(best[3], best[2], best[0])

    def _search(self, goal: float) -> tuple[float, Precision, float | None]:
        """What was aimed at, and the coarsest storage seen to have `goal` dB, else the best, and
        its dB; before fine-tuning. What was looked at before is remembered."""
        if not self._tried:
            precision = self._control.for_db(goal)
            reached = self._control.foreseen(precision)
            if reached is None or precision.bit_price <= 0:
                return goal, precision, reached
            self._tried[goal] = precision, reached
        begin = next(iter(self._tried))
        for _ in range(_ROUNDS):
            if any(0 <= reached - goal <= _CLOSE_DB for _, reached in self._tried.values()):
                break
            tried = [(aim, reached) for aim, (_, reached) in self._tried.items()]
            aim = _next_aim(tried, goal + _CLOSE_DB / 2)
            if any(abs(aim - known) < _LEAST_CHANGE_DB for known in self._tried):
                break
            precision = self._control.for_other_db(self._tried[begin][0], begin, aim)
            reached = self._control.foreseen(precision)
            if reached is None:
                break
            self._tried[aim] = precision, reached
        enough = [aim for aim, (_, reached) in self._tried.items() if reached >= goal]
        aim = min(enough) if enough else max(self._tried, key=lambda aim: self._tried[aim][1])
        return aim, *self._tried[aim]

    def fit_size(self, most: float) -> TargetedSog:
        """The best found that has at most `most` bytes, else the smallest."""
        first = self.once()
        if len(bundle_bytes(first.encoded)) <= most:
            return first
        low, high = DB_RANGE[0], first.aimed_db
        aim = (low + high) / 2
        best: tuple[float, EncodedSog] | None = None
        smallest: tuple[int, float, EncodedSog] | None = None
        for index in range(_ROUNDS + 1):
            encoded = self._control.encoded(self._control.for_db(aim), self._span(index, 0.0, 0.5))
            size = len(bundle_bytes(encoded))
            if smallest is None or size < smallest[0]:
                smallest = (size, aim, encoded)
            if size <= most:
                best, low = (aim, encoded), aim
                if size >= (1 - _CLOSE_SIZE) * most:
                    break
            else:
                high = aim
            if best is None and aim > DB_RANGE[0] and index >= 2:
                aim = DB_RANGE[0]  # does anything fit?
            elif best is None and aim <= DB_RANGE[0]:
                break
            else:
                aim = (low + high) / 2
        if best is None:
            assert smallest is not None
            self._control.notes(
                f"{most / 1e6:g} MB could not be reached; merge Gaussians first (convert)"
            )
            best = smallest[1:]
        tuned = self._control.finetuned(best[1].precision, self._span(_ROUNDS, 0.5, 1.0))
        most = max(most, len(bundle_bytes(best[1])))
        if tuned is not None and len(bundle_bytes(tuned)) <= most:
            return self._result(tuned, best[0])
        return self._result(best[1], best[0])

    def _span(self, index: int, first: float, last: float) -> Progress:
        """Of one round's part of the progress."""
        share = 0.8 / (_ROUNDS + 1)
        return self._progress.span(0.2 + share * (index + first), 0.2 + share * (index + last))

    def _result(
        self, encoded: EncodedSog, aim: float, measured: float | None = None
    ) -> TargetedSog:
        control = self._control
        notes = tuple(control.notes)
        return TargetedSog(encoded, aim, notes, control.finetuned_any, control.pruned, measured)


def _next_aim(tried: list[tuple[float, float]], goal: float) -> float:
    """Between the tries on either side of the goal, where the line through them meets it; a little
    more beyond the nearest than it misses where all are on one side. Pairs are (aim, reached)."""
    below = max((pair for pair in tried if pair[1] < goal), default=None)
    above = min((pair for pair in tried if pair[1] >= goal), default=None)
    if below is not None and above is not None and below[0] < above[0]:
        share = (goal - below[1]) / max(above[1] - below[1], 1e-6)
        return below[0] + float(np.clip(share, 0.1, 0.9)) * (above[0] - below[0])
    nearest = min(tried, key=lambda pair: abs(pair[1] - goal))
    missing = goal - nearest[1]
    step = math.copysign(max(1.1 * abs(missing), _LEAST_STEP_DB), missing)
    return float(np.clip(nearest[0] + step, *DB_RANGE))
