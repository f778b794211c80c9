"""What a segment costs, however many there are in its folder."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from otel_lifecycle.records import Follower
from otel_lifecycle.records.record_file import RecordFile
from tests.records.helpers import enabled, numbered
from tests.records.segments import append, closed, compress, lines

_SEGMENTS = 100


def work(function: Callable[[], object]) -> int:
    """Calls a function; returns how many functions in Python that took."""
    calls = 0
    gc.collect()
    gc.disable()  # finalizers of other tests' garbage would be counted, too

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(before)
        gc.enable()
    return calls


def write_segments(live: Path, count: int) -> list[str]:
    """Writes closed segments of one record each; returns the request ids."""
    ids = numbered("request", count)
    for number, request_id in enumerate(ids, 1):
        append(closed(live, number), lines(request_id))
    return ids


@pytest.mark.parametrize("limit", [1, 10_000])
@pytest.mark.parametrize("compressed", [False, True])
def test_following(tmp_path: Path, limit: int, compressed: bool) -> None:
    """Twice as many segments are twice the work, read one by one or all at once."""
    taken: list[int] = []
    for count in (_SEGMENTS, 2 * _SEGMENTS):
        folder = tmp_path / str(count)
        ids = write_segments(folder / "records.jsonl", count)
        if compressed:
            for segment in [*folder.iterdir()]:
                compress(segment)
        found: list[str] = []

        def follow(folder: Path = folder, found: list[str] = found) -> None:
            with Follower(folder) as follower:
                caught_up = False
                while not caught_up:
                    batch = follower.poll(limit)
                    found.extend(entry.record.request_id for entry in batch.records)
                    caught_up = batch.caught_up

        taken.append(work(follow))
        assert found == ids
    assert taken[1] < 2.2 * taken[0]


def test_segments_compressed_meanwhile(path: Path) -> None:
    """Segments that are compressed after they were listed are read, and cost no more."""
    taken: list[int] = []
    ids = write_segments(path, 2 * _SEGMENTS)
    with Follower(path) as follower:
        found = [entry.record.request_id for entry in follower.poll(1).records]
        for segment in sorted(path.parent.iterdir()):
            compress(segment)
        for _ in range(2):
            taken.append(
                work(
                    lambda: found.extend(
                        entry.record.request_id for entry in follower.poll(_SEGMENTS - 1).records
                    )
                )
            )
    assert found == ids[: 2 * _SEGMENTS - 1]
    assert taken[1] < 1.2 * taken[0]


def test_rotation(tmp_path: Path) -> None:
    """Closing a segment costs the same, however many were closed before."""
    taken: list[int] = []
    for count in (_SEGMENTS, 2 * _SEGMENTS):
        live = tmp_path / str(count) / "records.jsonl"
        write_segments(live, count)
        file = RecordFile(enabled(live, rotate_bytes=1), pytest.fail)
        for request_id in ("a", "b"):
            file.append(lines(request_id))
        taken.append(work(lambda file=file: file.append(lines("c"))))
        assert closed_numbers(live) == list(range(1, count + 3))
        file.close()
    assert taken[1] < 1.2 * taken[0]


def closed_numbers(live: Path) -> list[int]:
    """The numbers of the closed segments."""
    return sorted(int(file.name.split(".")[-2]) for file in live.parent.iterdir() if file != live)
