"""A log that another program writes, renames, copies, cuts and compresses."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_lifecycle.observation.log_file import LONGEST_LINE, LogFile
from otel_lifecycle.records import FilePosition


class Log:
    """A log, and what a follower has read of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "access.log"
        self.follower = LogFile(self.path)
        self.read: list[bytes | None] = []
        self.problems: list[str] = []
        self._time = 1_795_970_684

    def write(self, text: bytes, path: Path | None = None) -> None:
        """Appends to a file, and sets its time to another second."""
        path = path or self.path
        with path.open("ab") as file:
            file.write(text)
        self._time += 1
        os.utime(path, (self._time, self._time))

    def poll(self) -> list[bytes | None]:
        """Reads to the end; returns all lines so far."""
        while True:
            read = self.follower.poll()
            self.read += read.lines
            self.problems += read.problems
            if read.caught_up:
                return self.read

    def restart(self) -> None:
        """Another follower goes on where this one was."""
        position = self.follower.position
        self.follower.close()
        self.follower = LogFile(self.path, position)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path)
    yield log
    log.follower.close()


def test_lines(log: Log) -> None:
    """Whole lines are read once, as they come; a line without its end waits for it."""
    assert log.poll() == []
    log.write(b"a\nb")
    assert log.poll() == [b"a"]
    assert log.follower.unfinished == f"{log.path}:2"
    log.write(b"c\n")
    assert log.poll() == [b"a", b"bc"]
    assert log.problems == []


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("name", ["access.log.1", "access.log-20261129", "access-20261129.log"])
def test_renamed(log: Log, name: str, stopped: bool) -> None:
    """A renamed log is read to its end, then the new one; also if that happened unseen."""
    log.write(b"a\n")
    log.poll()
    if stopped:
        log.restart()
    renamed = log.path.rename(log.path.with_name(name))
    log.path.touch()  # by logrotate, before Envoy knows
    log.write(b"b\n", renamed)
    if not stopped:
        assert log.poll() == [b"a", b"b"]
    log.write(b"c\n", renamed)
    log.write(b"d\n")

    assert log.poll() == [b"a", b"b", b"c", b"d"]
    assert log.problems == []


@pytest.mark.parametrize("stopped", [False, True])
def test_renamed_to_any_name(log: Log, stopped: bool) -> None:
    """The file that was being read is found under any name that begins like its own."""
    log.write(b"a\n")
    log.poll()
    if stopped:
        log.restart()
    renamed = log.path.rename(log.path.with_name("access.log.kept-for-later"))
    log.write(b"b\n", renamed)
    log.write(b"c\n")

    assert log.poll() == [b"a", b"b", b"c"]
    assert log.problems == []


def test_rotated_several_times_while_stopped(log: Log) -> None:
    """All files that were closed meanwhile are read, compressed ones too, the oldest first."""
    log.write(b"a\n")
    log.poll()
    log.restart()
    log.write(b"b\n")
    for number, text in enumerate((b"c\n", b"d\n", b"e\n")):
        closed = log.path.rename(log.path.with_name(f"access.log.{3 - number}"))
        if number < 2:
            status = closed.stat()
            compressed = closed.with_name(f"{closed.name}.gz")
            compressed.write_bytes(gzip.compress(closed.read_bytes()))
            os.utime(compressed, ns=(status.st_atime_ns, status.st_mtime_ns))
            closed.unlink()
        log.write(text)

    assert log.poll() == [b"a", b"b", b"c", b"d", b"e"]
    assert log.problems == []


@pytest.mark.parametrize("stopped", [False, True])
def test_copied_and_cut(log: Log, stopped: bool) -> None:
    """A log that was copied and emptied is finished in the copy."""
    log.write(b"a\nb\n")
    log.poll()
    log.write(b"c\n")
    shutil.copy2(log.path, log.path.with_name("access.log.1"))
    os.truncate(log.path, 0)
    if stopped:
        log.restart()
    log.write(b"longer than what was there before\n")

    assert log.poll() == [b"a", b"b", b"c", b"longer than what was there before"]
    assert log.problems == []


def test_rotated_before_its_first_line_was_read(log: Log) -> None:
    """A log that was empty when the position was saved is found under its later names."""
    log.write(b"before\n", log.path.with_name("access.log.9"))
    saved_ns = log.path.with_name("access.log.9").stat().st_mtime_ns + 1
    log.write(b"a\n")
    log.path.rename(log.path.with_name("access.log.1"))
    log.write(b"b\n")
    log.follower = LogFile(log.path, FilePosition(), saved_ns)

    assert log.poll() == [b"a", b"b"]


def test_deleted(log: Log) -> None:
    """What was deleted unseen is reported, and reading goes on."""
    log.write(b"a\n")
    log.poll()
    log.restart()
    log.path.unlink()
    assert log.poll() == [b"a"]
    log.write(b"b\n")

    assert log.poll() == [b"a", b"b"]
    assert log.problems == [
        f"{log.path}: the log was replaced before everything after line 1 was read"
    ]


def test_torn_line_of_a_former_file(log: Log) -> None:
    """A line that was cut by the end of its file is reported."""
    log.write(b"a\nb")
    log.poll()
    log.path.rename(log.path.with_name("access.log.1"))
    log.write(b"c\n")

    assert log.poll() == [b"a", b"c"]
    assert [problem.rpartition(": ")[2] for problem in log.problems] == ["the line has no end"]


def test_long_lines(log: Log) -> None:
    """A line that is too long is left out and not kept in memory; the next is read."""
    log.write(b"a\n" + b"x" * (3 * LONGEST_LINE))
    assert log.poll() == [b"a"]
    log.write(b"y\n" + b"z" * LONGEST_LINE + b"\nb\n")

    assert log.poll() == [b"a", None, b"z" * LONGEST_LINE, b"b"]
    log.restart()
    log.write(b"c\n")
    assert log.poll()[-1] == b"c"
    assert log.follower.position.line == 5


def test_not_a_file(tmp_path: Path) -> None:
    """What is no file is reported once, and waited for."""
    follower = LogFile(tmp_path, FilePosition())

    assert [len(follower.poll().problems) for _ in range(3)] == [1, 0, 0]


def test_others_in_the_folder(log: Log) -> None:
    """Files with similar names that are no rotated logs are left alone."""
    log.write(b"a\n")
    log.poll()
    renamed = log.path.rename(log.path.with_name("access.log.1"))
    log.write(b"records\n", log.path.with_name("access.log.jsonl"))
    assert log.poll() == [b"a"]
    log.write(b"b\n", renamed)
    log.write(b"c\n")

    assert log.poll() == [b"a", b"b", b"c"]
