"""When to stop: the held-out PSNR has reached its target, or no longer grows."""

from __future__ import annotations

import math
from collections.abc import Sequence

MIN_GAIN_DB = 0.05  # a score counts as better from this much on


def should_end(
    psnr_db: Sequence[float], *, patience: int = 0, target_psnr_db: float | None = None
) -> bool:
    """Whether the last of these scores, oldest first, is a reason to end the run.

    Args:
        psnr_db: of the held-out views at equal intervals; NaN where there was none.
        patience: so many scores in a row without a better one are a plateau; 0: never.
        target_psnr_db: reaching it is enough.
    """
    known = [value for value in psnr_db if not math.isnan(value)]
    if not known:
        return False
    if target_psnr_db is not None and known[-1] >= target_psnr_db:
        return True
    best, since = -math.inf, 0
    for value in known:
        if value >= best + MIN_GAIN_DB:
            best, since = value, 0
        else:
            since += 1
    return 0 < patience <= since
