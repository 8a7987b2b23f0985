"""One splat on its way to a goal: aimed, looked at, aimed anew.

The precision comes from the splat's own sensitivity, corrected by what each property's rounding was
seen to cost. A quality or a size that was asked for by number is checked on the decoded file and
approached in a few rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from splat_assets.compression.fallback import Notes, first_that_works
from splat_assets.compression.finetune import MOST_TUNED, Effort, finetune
from splat_assets.compression.judging import Judge, Looks, weigh_errors
from splat_assets.compression.precision import Precision, Sensitivity
from splat_assets.compression.pruning import Pruning
from splat_assets.compression.sog_bundle import EncodedSog, bundle_bytes
from splat_assets.compression.sog_reader import decode_members
from splat_assets.compression.sog_writer import SogEncoder, SogOptions
from splat_assets.gaussians.cleanup import CleanupReport
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View
from splat_assets.progress import Progress

_DB_RANGE = (20.0, 75.0)
_ROUNDS = 6
_CLOSE_DB = 0.15
_LEAST_STEP_DB, _LEAST_CHANGE_DB = 0.3, 0.02
_TUNINGS = 4  # rounds of fine-tuning
_UNEVEN_DB = 0.1  # by which its gain differs from one round to the next
_LOOKS, _OFF_DB = 4, 0.7  # at what a preset will give; from its goal, more after each look
_PARTS_DB = 4.4  # that parts are seen to fall short of what is foretold from few views of each
_LOOKED_AT = 5_000_000  # Gaussians up to which a preset's result is looked at
_CLOSE_SIZE = 0.02
_FACTORS = (0.5, 20.0)
_OF_FINEST = 1.6  # times the error of the finest storage that the whole is allowed at least
_MOST_PRUNED, _PRUNINGS = 0.35, 3  # of the error allowed, that pruning may leave; tries
_HOPELESS = 20.0  # times as much: fewer would not help, what errors cost is known too badly
_PRICES, _SAME_ERROR = 2, 0.1  # of a bit that are tried; difference of ln errors


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

    def __init__(
        self,
        kept: Gaussians,
        cleanup: CleanupReport,
        options: SogOptions,
        weighed: Looks,
        checks: Looks,
        cameras: Sequence[View],
        background: Sequence[float],
        goal: float,
        pruned: bool,
        effort: Effort,
        progress: Progress,
    ) -> None:
        self._original, self._background, self._goal = kept, background, goal
        self._effort = effort
        self._judge = Judge(kept, checks, background)
        self._progress, self._notes = progress, Notes(progress)
        self._cameras = cameras
        self._finetuned_any = False
        self._looks = len(kept) <= _LOOKED_AT
        self._pruned, self._pruned_error = 0, 0.0
        self._sh_factor = self._rest_factor = 1.0
        self._factors_known = False
        # what has been looked at: storage and dB by what was aimed at
        self._tried: dict[float, tuple[Precision, float]] = {}
        self._which = np.arange(len(kept))  # the place in the original of each that is kept
        weighing = progress.span(0.0, 0.1)

        def weigh() -> Sensitivity:
            return weigh_errors(
                self._original,
                weighed,
                background=background,
                report=lambda done: weighing.update(done, "Measuring what each property is worth"),
            )

        self._sensitivity: Sensitivity | None = first_that_works(
            "Measuring what errors cost",
            (
                ("", weigh),
                # without it the file is larger, never worse
                ("everything is stored finely", lambda: None),
            ),
            self._notes,
        )
        # where results are too large to be looked at, nobody would see what pruning costs
        if pruned and self._looks and self._sensitivity is not None:
            kept = self._prune(kept, self._sensitivity)
        self._encoder = SogEncoder(
            kept,
            options,
            sensitivity=self._sensitivity,
            cleanup=cleanup,
            progress=progress,
            notes=self._notes,
        )
        self._which = self._which[self._encoder.sorting.permutation]
        progress.update(0.15, "Choosing the precision")

    def _prune(self, kept: Gaussians, sensitivity: Sensitivity) -> Gaussians:
        """Those of `kept` that are worth their bytes, and `self._sensitivity` for them."""
        keep = first_that_works(
            "Pruning",
            (
                ("", lambda: self._few_enough(kept, sensitivity)),
                ("all Gaussians are kept", lambda: np.ones(len(kept), bool)),
            ),
            self._notes,
        )
        self._pruned = int(len(kept) - keep.sum())
        if not self._pruned:
            return kept
        self._sensitivity = sensitivity.select(keep)
        self._which = self._which[keep]
        return kept.select(keep)

    def _few_enough(self, kept: Gaussians, sensitivity: Sensitivity) -> np.ndarray:
        """[N] bool, those to keep: fewer are left out where that is seen to cost too much."""
        goal = self._goal - self._gain_db
        allowed = _MOST_PRUNED * 10 ** (-goal / 10)
        pruning, share = Pruning(kept, sensitivity, goal), 1.0
        for _ in range(_PRUNINGS):
            keep = pruning.keep(share)
            if keep.all() or not self._looks:
                return keep
            self._pruned_error = self._judge.error(kept.select(keep), np.flatnonzero(keep))
            if self._pruned_error <= allowed:
                return keep
            if self._pruned_error > _HOPELESS * allowed:
                break
            share *= 0.7 * allowed / self._pruned_error
        self._pruned_error = 0.0
        return np.ones(len(kept), bool)

    def once(self) -> TargetedSog:
        """At the goal of a preset; aimed anew where a look at what comes out is clearly off."""
        # fine-tuned once, at the end; what that brings is much the same everywhere
        goal = self._goal - self._gain_db
        aim, reached = goal, None
        tried: list[tuple[float, float, Precision]] = []
        if self._judge.by_parts:
            aim += _PARTS_DB
        precision = self._storage(aim)
        for look in range(1, _LOOKS + 1):
            reached = self._foreseen(precision) if self._looks else None
            if reached is None:
                break
            tried.append((aim, reached, precision))
            if abs(reached - goal) <= look * _OFF_DB:
                break
            known, aim = aim, _next_aim([pair[:2] for pair in tried], goal)
            before, precision = precision, self._at_other_aim(precision, known, aim, bounded=True)
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
        tuned = self._finetuned(precision, _ROUNDS - 1)
        if tuned is not None:
            return self._result(tuned, aim, self._measured(tuned) if self._looks else None)
        if self._gain_db:  # it failed: the rest has to be finer
            self._cameras, self._factors_known = (), False
            self._sh_factor = self._rest_factor = 1.0
            return self.once()
        encoded = self._encoder.encode(precision, self._span(0, 0.0, 0.5))
        return self._result(encoded, aim, reached)

    def fit_quality(self) -> TargetedSog:
        """The smallest found that has at least the goal, else the best."""
        goal, gain = self._goal, self._gain_db
        best: tuple[float, int, float, EncodedSog] | None = None
        for index in range(_TUNINGS if gain else 1):
            aim, precision, before = self._search(goal - gain)
            tuned = self._finetuned(precision, index)
            encoded = tuned or self._encoder.encode(precision, self._span(index, 0.0, 0.5))
            if not self._looks:
                return self._result(encoded, aim)
            reached = before if tuned is None else self._measured(tuned)
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
            precision = self._storage(goal)
            reached = self._foreseen(precision) if self._looks else None
            if reached is None or self._sensitivity is None or precision.bit_price <= 0:
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
            precision = self._at_other_aim(self._tried[begin][0], begin, aim)
            reached = self._foreseen(precision)
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
        low, high = _DB_RANGE[0], first.aimed_db
        aim = (low + high) / 2
        best: tuple[float, EncodedSog] | None = None
        smallest: tuple[int, float, EncodedSog] | None = None
        for index in range(_ROUNDS + 1):
            encoded = self._encoded(aim, index)
            size = len(bundle_bytes(encoded))
            if smallest is None or size < smallest[0]:
                smallest = (size, aim, encoded)
            if size <= most:
                best, low = (aim, encoded), aim
                if size >= (1 - _CLOSE_SIZE) * most:
                    break
            else:
                high = aim
            if best is None and aim > _DB_RANGE[0] and index >= 2:
                aim = _DB_RANGE[0]  # does anything fit?
            elif best is None and aim <= _DB_RANGE[0]:
                break
            else:
                aim = (low + high) / 2
        if best is None:
            assert smallest is not None
            self._notes(f"{most / 1e6:g} MB could not be reached; merge Gaussians first (convert)")
            best = smallest[1:]
        tuned = self._finetuned(best[1].precision, _ROUNDS)
        most = max(most, len(bundle_bytes(best[1])))
        if tuned is not None and len(bundle_bytes(tuned)) <= most:
            return self._result(tuned, best[0])
        return self._result(best[1], best[0])

    @property
    def _gain_db(self) -> float:
        """What fine-tuning will bring."""
        tuned = self._cameras and len(self._original) <= MOST_TUNED
        return self._effort.gain_db if tuned else 0.0

    def _encoded(self, aim: float, index: int) -> EncodedSog:
        """As it should have `aim` dB before fine-tuning."""
        return self._encoder.encode(self._storage(aim), self._span(index, 0.0, 0.5))

    def _at_other_aim(
        self, precision: Precision, known: float, aim: float, *, bounded: bool = False
    ) -> Precision:
        """`precision` was for the aim `known`: all errors are about as large as the price of a
        bit. Finer palettes, if `bounded`, are not bought where the rest cannot be as fine."""
        if self._sensitivity is None:
            return precision
        price = precision.bit_price * 10 ** ((known - aim) / 10)
        if bounded:
            finest = _OF_FINEST * self._sensitivity.error(Precision())
            least = self._sensitivity.fitting(finest).bit_price
            price = max(price, min(least, precision.bit_price))
        return self._sensitivity.at(price)

    def _storage(self, aim: float) -> Precision:
        return first_that_works(
            "Choosing the precision",
            (("", lambda: self._precision(aim)), ("everything is stored finely", Precision)),
            self._notes,
        )

    def _span(self, index: int, first: float, last: float) -> Progress:
        """Of one round's part of the progress."""
        share = 0.8 / (_ROUNDS + 1)
        return self._progress.span(0.2 + share * (index + first), 0.2 + share * (index + last))

    def _finetuned(self, precision: Precision, index: int) -> EncodedSog | None:
        """Fine-tuned while it is rounded, where there are cameras to judge by."""
        if not self._cameras:
            return None
        progress = self._span(index, 0.5, 1.0)

        def adjust() -> EncodedSog | None:
            values = finetune(
                self._encoder.draft(precision),
                self._original,
                self._cameras,
                background=self._background,
                effort=self._effort,
                report=lambda fraction: progress.update(fraction, "Fine-tuning"),
            )
            return None if values is None else self._encoder.encode(precision, values=values)

        adjusted = first_that_works(
            "Fine-tuning",
            (("", adjust), ("all is rounded as it was", lambda: None)),
            self._notes,
        )
        self._finetuned_any |= adjusted is not None
        return adjusted

    def _precision(self, goal: float) -> Precision:
        """The coarsest storage with which pictures should have `goal` dB, palette included."""
        if self._sensitivity is None:
            return Precision()
        allowed = 10 ** (-float(np.clip(goal, *_DB_RANGE)) / 10)
        price = self._sensitivity.precision(-10 * math.log10(allowed)).bit_price
        allowed = max(allowed - self._pruned_error, (1 - _MOST_PRUNED) * allowed)
        for _ in range(_PRICES):
            stored = self._sensitivity.at(price)
            # parts are judged anew anyway, and take longer to draw
            if self._looks and not self._factors_known and not self._judge.by_parts:
                self._learn_factors(stored)
                self._factors_known = True
            # finer palettes are wasted where the rest cannot be stored as finely
            least = self._rest_factor * _OF_FINEST * self._sensitivity.error(Precision())
            total = self._rest_factor * self._sensitivity.error(stored)
            if self._original.sh_degree:
                total += self._sh_factor * self._encoder.sh_error(stored)
            if abs(math.log(total / max(allowed, least))) < _SAME_ERROR:
                break
            price *= max(allowed, least) / total
        return stored

    def _learn_factors(self, precision: Precision) -> None:
        """How much more than foretold errors cost: Gaussians that share a pixel err alike."""
        gaussians = self._encoder.gaussians
        rows = self._judge.shown(self._which)
        seen, which = gaussians.select(rows), self._which[rows]
        exact = self._judge.draw(seen, which)
        stored = self._encoder.preview(precision, rows)

        def factor(changed: Gaussians, foretold: float) -> float:
            seen = self._judge.error(changed, which, exact)
            return float(np.clip(seen / max(foretold, 1e-30), *_FACTORS))

        assert self._sensitivity is not None
        # without what constant colours make up for
        adapted = self._encoder.adapted(precision).select(rows)
        rest = replace(stored, shN=seen.shN, sh0=stored.sh0 - (adapted.sh0 - seen.sh0))
        self._rest_factor = factor(rest, self._sensitivity.error(precision))
        if seen.sh_degree:
            sh = replace(seen, shN=stored.shN, sh0=adapted.sh0)
            self._sh_factor = factor(sh, self._encoder.sh_error(precision))

    def _measured(self, encoded: EncodedSog) -> float | None:
        """PSNR of its pictures against the original's; None where they cannot be drawn."""
        return self._looked(lambda: (decode_members(encoded.files), self._which[encoded.order]))

    def _foreseen(self, precision: Precision) -> float | None:
        """The same of what would be encoded."""
        rows = self._judge.shown(self._which)
        return self._looked(lambda: (self._encoder.preview(precision, rows), self._which[rows]))

    def _looked(self, make: Callable[[], tuple[Gaussians, np.ndarray]]) -> float | None:
        return first_that_works(
            "Looking at the result",
            (
                ("", lambda: self._judge.psnr(*make())),
                ("its quality is as foretold, unchecked", lambda: None),
            ),
            self._notes,
        )

    def _result(
        self, encoded: EncodedSog, aim: float, measured: float | None = None
    ) -> TargetedSog:
        return TargetedSog(
            encoded, aim, tuple(self._notes), self._finetuned_any, self._pruned, measured
        )


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
    return float(np.clip(nearest[0] + step, *_DB_RANGE))
