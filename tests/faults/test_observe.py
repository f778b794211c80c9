"""`observe` on a disk that fills up, also while it is killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import Command
from tests.faults.processes import read
from tests.faults.table import Result
from tests.full_disk import fill
from tests.observation.entries import whole
from tests.waiting import eventually

pytestmark = pytest.mark.faults


def test_full_disk(small_disk: Path, tmp_path: Path, report: Callable[[Result], None]) -> None:
    """What Envoy logs while records have no room is recorded once, also by the next observer."""
    log, output = tmp_path / "access.log", small_disk / "records.jsonl"
    arguments = ("observe", "--envoy-log", log, "--output", output)
    runs, count = 4, 25
    expected: list[str] = []

    def serve(run: int) -> None:
        names = [f"run {run}-{number}" for number in range(len(expected), len(expected) + count)]
        with log.open("ab") as file:
            file.writelines(line + b"\n" for name in names for line in whole(name))
        expected.extend(names)

    def is_recorded() -> bool:
        return len(read(output).ids) >= len(expected)

    for run in range(runs):
        serve(run)
        observing = Command(*arguments)
        try:
            eventually(is_recorded)
            fill(small_disk / "filler")
            serve(run)
            assert observing.process.stderr is not None
            said = observing.process.stderr.readline()
            assert said.startswith("otel-lifecycle: the ")  # records, or the checkpoint
            assert " cannot be written: No space left" in said
            if run % 2:
                observing.process.kill()
            (small_disk / "filler").unlink()
            if not run % 2:
                eventually(is_recorded)
                observing.process.terminate()
            code, _, rest = observing.wait()
        finally:
            observing.close()
        if not run % 2:
            resumed, summary = rest.splitlines()
            assert (code, resumed) == (0, "otel-lifecycle: observing resumed")
            assert "0 problems" in summary
    assert Command(*arguments, "--once").wait()[0] == 0
    found = read(output)
    assert sorted(found.ids) == sorted(expected)
    report(
        Result(
            "The disk of the records fills up, and every other `observe` is killed meanwhile",
            "It says so in one line and waits; each request of the log is recorded once.",
            runs,
            len(expected),
            len(found.ids),
            len(found.problems),
        )
    )
