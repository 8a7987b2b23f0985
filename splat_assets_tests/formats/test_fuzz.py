"""A seeded portion of the fuzzing (see `fuzz`): thousands of damaged files, none of them dangerous.

python -m splat_assets_tests.formats.fuzz --inputs 100000
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from splat_assets_tests.formats import fuzz
from splat_assets_tests.formats.fuzz_inputs import damaged_input, seeds


@pytest.mark.slow
def test_damaged_files_never_crash_hang_or_take_all_memory(tmp_path: Path) -> None:
    said: list[int] = []
    outcome = fuzz.run_guarded(
        900, seed=7, limit_mb=768, timeout=20, say=lambda outcome, done: said.append(done)
    )
    assert outcome.failures == []
    assert outcome.inputs == 900 and said == [900]
    assert outcome.slowest_seconds < 20
    refused = sum((counter for counter in outcome.counts.values()), Counter())["refused"]
    assert 0.4 < refused / 900 < 0.95  # the damage is neither harmless nor always fatal
    assert all(counter["read"] and counter["refused"] for counter in outcome.counts.values())


def test_an_input_can_be_made_again(tmp_path: Path) -> None:
    def made(number: int, again: str) -> bytes:
        folder = tmp_path / again
        folder.mkdir(exist_ok=True)
        _, path = damaged_input(seeds(), 3, number, folder)
        return path.read_bytes() if path.is_file() else b""

    inputs = [made(number, "first") for number in range(330)]
    # whatever was made before
    again = [made(number, "second") for number in reversed(range(330))]
    assert inputs == again[::-1]
    assert len(set(inputs)) > 250


def test_inputs_beside_a_fatal_one_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process dies at one input; all others are read, and the failure is told once."""
    children: list[tuple[int, int]] = []

    class Child:
        returncode = 0

        def __init__(self, command: list[str], **_: object) -> None:
            at = command.index("--child")
            self.first, self.count = int(command[at + 1]), int(command[at + 2])
            self.scratch = Path(command[command.index("--scratch") + 1])
            children.append((self.first, self.count))

        def communicate(self, timeout: float) -> tuple[str, None]:
            if self.first <= 7 < self.first + self.count:
                (self.scratch / "mark").write_text("7")
                self.returncode = 1
                return "", None
            part = {"counts": {"ply": {"read": self.count}}, "failures": []}
            return json.dumps({**part, "slowest_seconds": 0.1, "peak_mb": 1.0}), None

    monkeypatch.setattr(fuzz.subprocess, "Popen", Child)
    outcome = fuzz.run_guarded(20, seed=0, limit_mb=1, timeout=1, say=lambda *_: None)
    assert children == [(0, 20), (0, 7), (8, 12)]
    assert outcome.inputs == 20 and len(outcome.failures) == 1


def test_what_goes_wrong_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: errors, long or many-lined refusals and slow readers are failures."""
    import time

    from splat_assets.errors import UserError
    from splat_assets.formats import registry

    def reader(problem: Exception | None, seconds: float = 0.0):  # type: ignore[no-untyped-def]
        def read(path: Path) -> None:
            time.sleep(seconds)
            if problem:
                raise problem

        return read

    for function, expected in (
        (reader(UserError("a.sog is damaged.")), "refused"),
        (reader(UserError("two\nlines")), "many lines"),
        (reader(MemoryError("much")), "MemoryError"),
        (reader(None, 5.0), "longer than"),
    ):
        monkeypatch.setattr(registry, "read_splat", function)
        assert fuzz._try_to_read(tmp_path / "a", 0.3).startswith(expected)
