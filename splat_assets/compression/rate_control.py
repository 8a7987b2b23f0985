"""How finely to store one splat for a quality: rate control, as video encoders have it.

The precision comes from the splat's own sensitivity, corrected by what each property's rounding was
seen to cost; what would come out can be looked at before it is encoded.
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
from splat_assets.compression.sog_bundle import EncodedSog
from splat_assets.compression.sog_reader import decode_members
from splat_assets.compression.sog_writer import SogEncoder, SogOptions
from splat_assets.gaussians.cleanup import CleanupReport
from splat_assets.gaussians.gaussians import Gaussians
from splat_assets.gaussians.splat_model import View
from splat_assets.progress import Progress

DB_RANGE = (20.0, 75.0)
_LOOKED_AT = 5_000_000  # Gaussians up to which results are looked at
_FACTORS = (0.5, 20.0)
_OF_FINEST = 1.6  # times the error of the finest storage that the whole is allowed at least
_MOST_PRUNED, _PRUNINGS = 0.35, 4  # of the error allowed, that pruning may leave; tries
_NEARLY, _AIMED = 0.6, 0.85  # of that, which is near enough; which is aimed at
# of the error foretold, with which the error seen grows about; at least
_PRUNED_POWER, _LEAST_POWER = 0.6, 0.2
_HOPELESS = 20.0  # times as much: fewer would not help, what errors cost is known too badly
_PRICES, _SAME_ERROR = 2, 0.1  # of a bit that are tried; difference of ln errors


@dataclass(frozen=True)
class Job:
    """What is to be encoded, from where it is looked at, and how it is tuned."""

    gaussians: Gaussians  # cleaned, one at least
    cleanup: CleanupReport
    options: SogOptions  # `precision` is not used
    weighed: Looks  # where errors are weighed
    checks: Looks  # where results are looked at
    tuned: Sequence[View]  # in which it is fine-tuned; none of them: it is not
    background: Sequence[float]
    effort: Effort


class RateControl:
    """One splat, prepared once and then stored at any quality."""

    def __init__(self, job: Job, goal: float, pruned: bool, progress: Progress) -> None:
        """Weigh what errors cost, and bring the Gaussians into their order.

        Args:
            goal: dB that are wanted in the end, which tells what may be left out if `pruned`.
        """
        self._job = job
        self._original = job.gaussians
        self._judge = Judge(job.gaussians, job.checks, job.background)
        self.notes = Notes(progress)
        self.finetuned_any = False  # whether anything was
        self.pruned, self._pruned_error = 0, 0.0  # Gaussians left out, and what that costs
        # too large ones are not looked at: their quality is as foretold
        self._looks = len(job.gaussians) <= _LOOKED_AT
        self._tunes = bool(job.tuned) and len(job.gaussians) <= MOST_TUNED
        self._sh_factor = self._rest_factor = 1.0
        self._factors_known = False
        # the place in the original of each that is kept
        self._which = np.arange(len(job.gaussians))
        weighing = progress.span(0.0, 0.1)

        def weigh() -> Sensitivity:
            return weigh_errors(
                job.gaussians,
                job.weighed,
                background=job.background,
                report=lambda done: weighing.update(done, "Measuring what each property is worth"),
            )

        # without it the file is larger, never worse
        self._sensitivity: Sensitivity | None = first_that_works(
            "Measuring what errors cost",
            (("", weigh), ("everything is stored finely", lambda: None)),
            self.notes,
        )
        kept = job.gaussians
        # where results are too large to be looked at, nobody would see what pruning costs
        if pruned and self._looks and self._sensitivity is not None:
            kept = self._prune(kept, self._sensitivity, goal - self.gain_db)
        self._encoder = SogEncoder(
            kept,
            job.options,
            sensitivity=self._sensitivity,
            cleanup=job.cleanup,
            progress=progress,
            notes=self.notes,
        )
        self._which = self._which[self._encoder.sorting.permutation]
        progress.update(0.15, "Choosing the precision")

    @property
    def gain_db(self) -> float:
        """What fine-tuning will bring."""
        return self._job.effort.gain_db if self._tunes else 0.0

    @property
    def by_parts(self) -> bool:
        """Whether parts are looked at alone."""
        return self._judge.by_parts

    def without_tuning(self) -> None:
        """From now on, nothing is fine-tuned."""
        self._tunes = self._factors_known = False
        self._sh_factor = self._rest_factor = 1.0

    def for_db(self, aim: float) -> Precision:
        """The coarsest storage with which pictures should have `aim` dB before fine-tuning."""
        return first_that_works(
            "Choosing the precision",
            (("", lambda: self._precision(aim)), ("everything is stored finely", Precision)),
            self.notes,
        )

    def for_other_db(
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

    def encoded(self, precision: Precision, progress: Progress) -> EncodedSog:
        """As it is rounded. Raises `Cancelled` when asked to stop."""
        return self._encoder.encode(precision, progress)

    def finetuned(self, precision: Precision, progress: Progress) -> EncodedSog | None:
        """Fine-tuned while it is rounded; None where there are no cameras to judge by, or where
        that failed."""
        if not self._tunes:
            return None

        def adjust() -> EncodedSog | None:
            values = finetune(
                self._encoder.draft(precision),
                self._original,
                self._job.tuned,
                background=self._job.background,
                effort=self._job.effort,
                report=lambda fraction: progress.update(fraction, "Fine-tuning"),
            )
            return None if values is None else self._encoder.encode(precision, values=values)

        adjusted = first_that_works(
            "Fine-tuning",
            (("", adjust), ("all is rounded as it was", lambda: None)),
            self.notes,
        )
        self.finetuned_any |= adjusted is not None
        return adjusted

    def measured(self, encoded: EncodedSog) -> float | None:
        """PSNR of its pictures against the original's; None where they are not or cannot be
        drawn."""
        return self._looked(lambda: (decode_members(encoded.files), self._which[encoded.order]))

    def foreseen(self, precision: Precision) -> float | None:
        """The same of what would be encoded."""
        rows = self._judge.shown(self._which)
        return self._looked(lambda: (self._encoder.preview(precision, rows), self._which[rows]))

    def _looked(self, make: Callable[[], tuple[Gaussians, np.ndarray]]) -> float | None:
        if not self._looks:
            return None
        return first_that_works(
            "Looking at the result",
            (
                ("", lambda: self._judge.psnr(*make())),
                ("its quality is as foretold, unchecked", lambda: None),
            ),
            self.notes,
        )

    def _prune(self, kept: Gaussians, sensitivity: Sensitivity, goal: float) -> Gaussians:
        """Those of `kept` that are worth their bytes, and `self._sensitivity` for them."""
        keep = first_that_works(
            "Pruning",
            (
                ("", lambda: self._few_enough(kept, sensitivity, goal)),
                ("all Gaussians are kept", lambda: np.ones(len(kept), bool)),
            ),
            self.notes,
        )
        self.pruned = int(len(kept) - keep.sum())
        if not self.pruned:
            return kept
        self._sensitivity = sensitivity.select(keep)
        self._which = self._which[keep]
        return kept.select(keep)

    def _few_enough(self, kept: Gaussians, sensitivity: Sensitivity, goal: float) -> np.ndarray:
        """[N] bool, those to keep: fewer are left out where that is seen to cost too much."""
        allowed = _MOST_PRUNED * 10 ** (-goal / 10)
        pruning, share = Pruning(kept, sensitivity, goal), 1.0
        chosen, enough = np.ones(len(kept), bool), 0.0  # at the largest share that was fine
        power = _PRUNED_POWER
        tried: dict[float, float] = {}
        for _ in range(_PRUNINGS):
            keep = pruning.keep(share)
            if keep.all():
                break
            error = self._judge.error(kept.select(keep), np.flatnonzero(keep))
            if error > _HOPELESS * allowed:
                break
            tried[share] = error = max(error, 1e-30)
            if error <= allowed and share > enough:
                chosen, enough, self._pruned_error = keep, share, error
                if share == 1.0 or error > _NEARLY * allowed:
                    break
            (low, least), (high, most) = min(tried.items()), max(tried.items())
            if low < high and least < most:
                power = math.log(most / least) / math.log(high / low)
                power = max(power, _LEAST_POWER)
            share = min(1.0, share * (_AIMED * allowed / error) ** (1 / power))
        return chosen

    def _precision(self, goal: float) -> Precision:
        """The coarsest storage with which pictures should have `goal` dB, palette included."""
        if self._sensitivity is None:
            return Precision()
        allowed = 10 ** (-float(np.clip(goal, *DB_RANGE)) / 10)
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
