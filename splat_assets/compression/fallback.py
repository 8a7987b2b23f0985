"""Steps that may fail without costing the result: a plainer way is taken instead, and told.

Every step of the encoder that has a plainer substitute goes through `first_that_works`: what failed
and what was done instead becomes one sentence, which ends up in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from splat_assets.errors import Cancelled, UserError
from splat_assets.progress import Progress, silent

T = TypeVar("T")
Way = tuple[str, Callable[[], T]]  # what is said when it had to be taken, and how it is done
_LONGEST = 160  # characters of an error that are shown


class Notes:
    """What did not go as meant: sentences, each told when it is new and kept for the report."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress, self._texts = progress or silent(), dict[str, None]()

    def __call__(self, text: str) -> None:
        if text not in self._texts:
            self._texts[text] = None
            self._progress.warn(text)

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._texts))


def first_that_works(step: str, ways: Sequence[Way[T]], note: Callable[[str], object]) -> T:
    """The result of the first way that does not fail; `note` is told when that is a later one.

    Args:
        step: what it is for, as the beginning of a sentence ("Fitting the codebook of scales").
        ways: from the best to the plainest.

    Raises what the last way raised, and `Cancelled` and `UserError` of any way: being stopped or
    told that the input is at fault is no failure of a step.
    """
    failures: list[Exception] = []
    for outcome, run in ways:
        try:
            result = run()
        except (Cancelled, UserError):
            raise
        except Exception as error:
            failures.append(error)
            continue
        if failures:
            reasons = "; ".join(dict.fromkeys(_reason(error) for error in failures))
            note(f"{step} failed ({reasons}): {outcome}.")
        return result
    raise failures[-1]


def _reason(error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
