"""`read_records`: what it reads, skips and refuses."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from otel_lifecycle import LifecycleRecord, RecordError, RequestLifecycleTracker, read_records
from tests.records.helpers import recorded, serve
from tests.wording import missing, refusal


@pytest.fixture
def lines(make_tracker: Callable[..., RequestLifecycleTracker], tmp_path: Path) -> list[bytes]:
    """Return the lines of three records."""
    tracker = make_tracker(tmp_path / "written.jsonl")
    serve(tracker, "a", "b", "c")
    assert tracker.flush()
    return (tmp_path / "written.jsonl").read_bytes().splitlines(keepends=True)


def changed(line: bytes, **fields: object) -> bytes:
    """Return the line with other values."""
    return msgspec.json.encode({**msgspec.json.decode(line), **fields}) + b"\n"


@pytest.mark.parametrize("as_type", [Path, str])
def test_oldest_first(
    path: Path, lines: list[bytes], as_type: Callable[[Path], Path | str]
) -> None:
    """All records are read, oldest first, from a path of either type."""
    path = path.with_name("file")
    path.parent.mkdir()
    path.write_bytes(b"".join(lines))
    expected = ["a", "b", "c"]
    assert expected == recorded(as_type(path))


def test_empty_file(tmp_path: Path) -> None:
    """An empty file has no records."""
    (path := tmp_path / "empty.jsonl").touch()
    assert not recorded(path)


def test_no_file(tmp_path: Path) -> None:
    """A missing file raises the operating system's error, as `open` does."""
    with pytest.raises(FileNotFoundError):
        recorded(tmp_path / "missing.jsonl")


@pytest.mark.parametrize(
    "bad",
    [
        b"\n",
        b"{\n",
        b"<html>\n",
        b"[]\n",
        b"{}\n",
        b'{"schemaVersion": 1}\n',
        b'{"schemaVersion": 1, "requestId": 1}\n',
        b'{"schemaVersion": 1, "requestId": "\xff"}\n',
        b'{"unknown":' + b"[" * 10_000 + b"\n",
    ],
    ids=[
        "blank",
        "half",
        "text",
        "array",
        "empty",
        "nothing",
        "type",
        "not UTF-8",
        "nested deeply",
    ],
)
def test_bad_line(
    tmp_path: Path, lines: list[bytes], bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid line is refused with file, line and reason, after the valid lines before it."""
    empty = bad == b"{}\n"
    reason = missing("schemaVersion") if empty else refusal(bad, LifecycleRecord)
    path = tmp_path / "bad.jsonl"
    path.write_bytes(lines[0] + bad + lines[1] + lines[2])
    records = read_records(path)
    assert next(records).request_id == "a"
    with pytest.raises(RecordError) as refused:
        next(records)
    error = refused.value
    assert f"{path}:2: {reason}" == str(error)
    assert (path, 2, reason) == (error.path, error.line, error.reason)
    assert not caplog.messages
    expected = ["a", "b", "c"]
    assert expected == [record.request_id for record in read_records(path, skip_bad=True)]
    assert [f"{path}:2: {reason}"] == caplog.messages


@pytest.mark.parametrize("skip_bad", [False, True])
def test_torn_last_line(
    tmp_path: Path, lines: list[bytes], skip_bad: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A last line without its newline is skipped: a writer may complete it."""
    path = tmp_path / "torn.jsonl"
    expected = ["a", "b"]
    for length in (1, len(lines[2]) // 2, len(lines[2]) - 1):
        caplog.clear()
        path.write_bytes(lines[0] + lines[1] + lines[2][:length])
        records = list(read_records(path, skip_bad=skip_bad))
        assert expected == [record.request_id for record in records]
        assert [f"{path}:3: skipped, the line has no end yet"] == caplog.messages


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schemaVersion": 2}, "2 is newer than 1, the newest this version can read"),
        (
            {"schemaVersion": 2, "outcome": "paused", "requestId": None, "startedAt": 0},
            "2 is newer than 1, the newest this version can read",
        ),
        ({"schemaVersion": 0}, "0 is invalid; versions start at 1"),
        ({"schemaVersion": -7}, "-7 is invalid; versions start at 1"),
    ],
)
def test_other_schema(
    tmp_path: Path, lines: list[bytes], fields: dict[str, object], reason: str
) -> None:
    """A record of another schema is refused: its fields may differ in name and meaning."""
    path = tmp_path / "other.jsonl"
    path.write_bytes(lines[0] + changed(lines[1], **fields))
    with pytest.raises(RecordError) as refused:
        list(read_records(path))
    assert f"{path}:2: schemaVersion {reason}" == str(refused.value)


@pytest.mark.parametrize("field", ["startedAt", "firstByteAt", "firstChunkAt", "completedAt"])
@pytest.mark.parametrize(
    ("date", "reason"),
    [
        ("2026-02-30", ": day is out of range for month"),
        ("1969-12-31", " is before 1970 or after 2262"),
        ("9999-01-01", " is before 1970 or after 2262"),
    ],
)
def test_impossible_moment(
    tmp_path: Path, lines: list[bytes], field: str, date: str, reason: str
) -> None:
    """A time that does not exist, or that no span can have, makes an invalid line."""
    path = tmp_path / "moments.jsonl"
    moment = f"{date}T00:00:00.000000000Z"
    path.write_bytes(lines[0] + changed(lines[1], **{field: moment}))
    with pytest.raises(RecordError) as refused:
        list(read_records(path))
    assert f"{path}:2: timestamp {moment!r}{reason}" == str(refused.value)


def test_the_last_moment(tmp_path: Path, lines: list[bytes]) -> None:
    """The end of what a span can say is exact to the nanosecond."""
    path = tmp_path / "moments.jsonl"
    last, beyond = (f"2262-04-11T23:47:16.85477580{digit}Z" for digit in (7, 8))
    path.write_bytes(changed(lines[0], completedAt=last) + changed(lines[1], completedAt=beyond))
    reading = read_records(path)
    assert next(reading).completed_at == last
    with pytest.raises(RecordError, match=r":2: timestamp .* is before 1970 or after 2262$"):
        next(reading)


def test_unknown_fields(tmp_path: Path, lines: list[bytes]) -> None:
    """Unknown fields are accepted, at any depth, and ignored."""
    path = tmp_path / "extended.jsonl"
    actual = {**msgspec.json.decode(lines[0])["actual"], "added": 1}
    path.write_bytes(changed(lines[0], added={"a": [1, None]}, actual=actual) + lines[0])
    extended, known = read_records(path)
    assert known == extended


def test_constant_memory(tmp_path: Path, lines: list[bytes]) -> None:
    """A large file is read record by record, in constant memory."""
    path = tmp_path / "large.jsonl"
    count = 5_000
    path.write_bytes(lines[0] * count)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        assert count == sum(1 for _ in read_records(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < size / 20
