"""`otel-lifecycle tail`."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from otel_lifecycle import LifecycleRecord
from otel_lifecycle.cli import main
from tests.cli.command import Command
from tests.cli.records import aggregated, record, write
from tests.rights import without_privileges
from tests.wording import NOT_AN_OBJECT

RECORDS = [record(name, aggregated("pod"), 0, e2e_ms=1) for name in "abc"]


def printed(text: str) -> list[LifecycleRecord]:
    """Return the records of an output."""
    return [msgspec.json.decode(line, type=LifecycleRecord) for line in text.splitlines()]


def test_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The records of all files are printed as JSON Lines, closed segments first."""
    write(tmp_path / "records.20261125T025428.123Z.000001.jsonl", RECORDS[0])
    live = write(tmp_path / "records.jsonl", RECORDS[1])
    other = write(tmp_path / "other.jsonl", RECORDS[2])

    code = main(["tail", str(live), str(other)])

    output = capsys.readouterr()
    assert (code, output.err, printed(output.out)) == (0, "", RECORDS)


def test_hostile_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text from clients is printed with the same value, and without terminal controls."""
    hostile = msgspec.structs.replace(RECORDS[0], request_id="\x1b[2J\x9b31m\u202e\u2066\u061c\x7f")
    path = write(tmp_path / "records.jsonl", hostile)

    assert main(["tail", str(path)]) == 0

    output = capsys.readouterr().out
    assert output.removesuffix("\n").isprintable()
    assert printed(output) == [hostile]


@pytest.mark.parametrize("command", ["tail", "validate", "report"])
def test_hostile_names(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    """File names, and messages about their lines, have no terminal controls either."""
    path = write(tmp_path / "\x1b[2J\u202e.jsonl", RECORDS[0])
    path.write_bytes(path.read_bytes() + b'{"\x1b[2J\xc2\x9b\xe2\x80\xae": 1}\n')

    assert main([command, str(path), str(tmp_path / "\x9b.jsonl")]) == 2

    output = capsys.readouterr()
    assert all(map(str.isprintable, (output.out + output.err).split("\n")))
    assert "\\u001b[2J\\u202e.jsonl" in output.err + output.out


def test_bad_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Invalid lines are reported on standard error, and the others are printed."""
    path = write(tmp_path / "records.jsonl", *RECORDS[:2])
    path.write_bytes(b"[]\n" + path.read_bytes() + b"{")

    code = main(["tail", str(path)])

    output = capsys.readouterr()
    assert (code, printed(output.out)) == (1, RECORDS[:2])
    assert output.err == (
        f"otel-lifecycle: {path}:1: {NOT_AN_OBJECT}\n"
        f"otel-lifecycle: {path}:4: skipped, the line has no end yet\n"
    )


def test_one_bad_path_of_several(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing path is reported, and the records of the others are printed."""
    path = write(tmp_path / "records.jsonl", *RECORDS)
    missing = tmp_path / "missing.jsonl"
    (empty := tmp_path / "empty").mkdir()

    code = main(["tail", str(missing), str(path), str(empty)])

    output = capsys.readouterr()
    assert (code, printed(output.out)) == (2, RECORDS)
    assert output.err == (
        f"otel-lifecycle: {missing}: No such file or directory\n"
        f"otel-lifecycle: {empty}: contains no record files (*.jsonl, *.jsonl.gz)\n"
    )


def test_unreadable_segment(guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unreadable segment is reported, and later records are printed."""
    segment = write(guarded / "records.20261125T025428.123Z.000001.jsonl", RECORDS[0])
    write(guarded / "records.jsonl", RECORDS[1])
    segment.chmod(0o000)

    with without_privileges():
        code = main(["tail", str(guarded)])

    output = capsys.readouterr()
    assert (code, printed(output.out)) == (2, RECORDS[1:2])
    assert output.err == f"otel-lifecycle: {segment}: Permission denied\n"


def test_follow(tmp_path: Path, start: Callable[..., Command]) -> None:
    """It waits for new files and records, through rotation, until it is stopped."""
    live = tmp_path / "records.jsonl"
    process = start("tail", "--follow", tmp_path).process
    assert process.stdout is not None
    write(live, RECORDS[0])
    assert printed(process.stdout.readline()) == RECORDS[:1]
    live.rename(tmp_path / "records.20261125T025428.123Z.000001.jsonl")
    write(live, RECORDS[1])
    assert printed(process.stdout.readline()) == RECORDS[1:2]
    process.terminate()
    assert process.wait(timeout=60) == -signal.SIGTERM
