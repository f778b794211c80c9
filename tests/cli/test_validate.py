"""`otel-lifecycle validate`."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from otel_lifecycle.cli import main
from tests.cli.records import aggregated, record, write
from tests.rights import without_privileges
from tests.wording import NOT_AN_OBJECT


def test_good_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each file gets a line with its number of records."""
    one = write(tmp_path / "one.jsonl", record("a", aggregated("pod"), 0, e2e_ms=1))
    none = write(tmp_path / "none.jsonl")

    code = main(["validate", str(one), str(none)])

    assert (code, capsys.readouterr().out) == (
        0,
        f"{one}: 1 record, 0 bad lines\n{none}: 0 records, 0 bad lines\n",
    )


def test_bad_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each invalid line is listed with file, line and reason; the valid ones still count."""
    path = write(tmp_path / "records.jsonl", record("a", aggregated("pod"), 0, e2e_ms=1))
    good = path.read_bytes()
    newer = good.replace(b'"schemaVersion":1', b'"schemaVersion":2')
    path.write_bytes(good + b"[]\n" + newer + good)

    code = main(["validate", str(path)])

    assert (code, capsys.readouterr().out) == (
        1,
        f"{path}:2: {NOT_AN_OBJECT}\n"
        f"{path}:3: schemaVersion 2 is newer than 1, the newest this version can read\n"
        f"{path}: 2 records, 2 bad lines\n",
    )


def test_unfinished_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A last line that is still being written is listed but is not an error."""
    path = write(tmp_path / "records.jsonl", record("a", aggregated("pod"), 0, e2e_ms=1))
    path.write_bytes(path.read_bytes() + b'{"schemaVersion"')

    code = main(["validate", str(path)])

    assert (code, capsys.readouterr().out) == (
        0,
        f"{path}:2: skipped, the line has no end yet\n{path}: 1 record, 0 bad lines\n",
    )


def test_worst_result_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be read does not prevent checking the others."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text("[]\n")
    missing = tmp_path / "missing.jsonl"

    code = main(["validate", str(missing), str(bad)])

    output = capsys.readouterr()
    assert (code, output.err, output.out) == (
        2,
        f"otel-lifecycle: {missing}: No such file or directory\n",
        f"{bad}:1: {NOT_AN_OBJECT}\n{bad}: 0 records, 1 bad line\n",
    )


def test_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For a folder each record file and closed segment gets a line, also a truncated one."""
    good = write(tmp_path / "a.jsonl", record("a", aggregated("pod"), 0, e2e_ms=1))
    cut = tmp_path / "b.20261125T025428.123Z.000001.jsonl.gz"
    cut.write_bytes(gzip.compress(good.read_bytes())[:-4])
    last = write(tmp_path / "b.jsonl", record("b", aggregated("pod"), 0, e2e_ms=1))

    code = main(["validate", str(tmp_path)])

    reason = "Compressed file ended before the end-of-stream marker was reached"
    assert (code, capsys.readouterr().out) == (
        1,
        f"{cut}:2: the compression is broken: {reason}\n"
        f"{good}: 1 record, 0 bad lines\n"
        f"{cut}: 1 record, 1 bad line\n"
        f"{last}: 1 record, 0 bad lines\n",
    )


def test_path_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file has one name, however its path is written."""
    path = write(tmp_path / "a.jsonl", record("a", aggregated("pod"), 0, e2e_ms=1))
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")

    code = main(["validate", "../a.jsonl"])

    assert (code, capsys.readouterr().out) == (0, f"{path}: 1 record, 0 bad lines\n")


def test_unreadable_file_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unreadable file in a folder is named, and the others are checked."""
    (tmp_path / "a.jsonl").mkdir()
    good = write(tmp_path / "b.jsonl", record("b", aggregated("pod"), 0, e2e_ms=1))

    code = main(["validate", str(tmp_path)])

    output = capsys.readouterr()
    assert (code, output.err, output.out) == (
        2,
        f"otel-lifecycle: {tmp_path / 'a.jsonl'}: Is a directory\n",
        f"{good}: 1 record, 0 bad lines\n",
    )


def test_folder_that_cannot_be_entered(guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The files of an unreadable folder are named, and the next path is checked."""
    locked = write(guarded / "in.jsonl", record("a", aggregated("pod"), 0, e2e_ms=1))
    (guarded / "in").mkdir()
    locked = locked.rename(guarded / "in" / "in.jsonl")
    (guarded / "in").chmod(0o444)
    good = write(guarded / "good.jsonl", record("b", aggregated("pod"), 0, e2e_ms=1))

    with without_privileges():
        code = main(["validate", str(guarded / "in"), str(good)])

    output = capsys.readouterr()
    assert (code, output.err, output.out) == (
        2,
        f"otel-lifecycle: {locked}: Permission denied\n",
        f"{good}: 1 record, 0 bad lines\n",
    )


def test_closed_folder(guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that cannot be listed is named once."""
    (guarded / "in").mkdir(mode=0o000)

    with without_privileges():
        code = main(["validate", str(guarded / "in")])

    output = capsys.readouterr()
    said = f"otel-lifecycle: {guarded / 'in'}: Permission denied\n"
    assert (code, output.err, output.out) == (2, said, "")
