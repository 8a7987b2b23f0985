"""Progress maps spans onto the whole, forwards figures and warnings, and stops on request."""

from __future__ import annotations

import pytest

from splat_assets.errors import Cancelled
from splat_assets.progress import Progress, Report, silent


def test_nested_spans_map_onto_the_whole() -> None:
    reports: list[Report] = []
    whole = Progress(reports.append)
    half = whole.span(0.5, 1.0)
    half.update(0.0, "begin")
    half.span(0.5, 1.0).update(0.5, "three quarters of the second half", images=3.0)
    assert [r.fraction for r in reports] == pytest.approx([0.5, 0.875])
    assert reports[1].figures == {"images": 3.0}


def test_fractions_are_clamped_to_the_span() -> None:
    reports: list[Report] = []
    span = Progress(reports.append).span(0.2, 0.4)
    span.update(-1.0)
    span.update(7.0)
    assert [r.fraction for r in reports] == pytest.approx([0.2, 0.4])


def test_update_raises_once_a_stop_was_asked_for_and_reports_nothing_more() -> None:
    reports: list[Report] = []
    stop = False
    progress = Progress(reports.append, lambda: stop)
    progress.update(0.1)
    stop = True
    with pytest.raises(Cancelled):
        progress.span(0.5, 0.6).update(0.5)
    assert len(reports) == 1


def test_a_warning_is_marked_and_does_not_poll_for_cancel() -> None:
    reports: list[Report] = []
    Progress(reports.append, lambda: True).warn("image 3 is unreadable")
    assert reports[0].warning
    assert reports[0].message == "image 3 is unreadable"


def test_silent_progress_accepts_everything() -> None:
    progress = silent()
    progress.update(0.5, "x", a=1.0)
    progress.warn("y")
    progress.check()
