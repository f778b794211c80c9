"""Wrong usage prints one line, and importing the command line is cheap."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from otel_lifecycle.cli import main
from tests.cli.command import Command
from tests.records.segments import lines
from tests.wording import missing, refusal

POSITIVE = msgspec.defstruct("Positive", [("input_length", Annotated[int, msgspec.Meta(ge=1)])])


@pytest.mark.parametrize(
    ("arguments", "command", "parts"),
    [
        ("", "", ["COMMAND"]),
        ("demo --bogus", "", ["--bogus"]),
        ("demo --engines 0", "demo", ["--engines", "must be a whole number >= 1, got '0'"]),
        ("demo --requests 1.5", "demo", ["--requests", "must be a whole number >= 1, got '1.5'"]),
        ("demo --speed nan", "demo", ["--speed", "must be a number > 0, got 'nan'"]),
    ],
)
def test_wrong_arguments(
    start: Callable[..., Command], arguments: str, command: str, parts: list[str]
) -> None:
    """The exit code is 2, and one line names the problem and the remedy."""
    code, out, line = start(*arguments.split()).wait()
    name = f"otel-lifecycle {command}".strip()

    assert (code, out, line.count("\n")) == (2, "", 1)
    assert line.startswith(f"{name}: ")
    assert line.endswith(f" (try {name} --help)\n")
    assert [part for part in parts if part not in line] == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            "demo --engines 1",
            "otel-lifecycle: --engines 1: pd mode needs at least one prefill and one decode engine",
        ),
        ("demo --trace /missing", "otel-lifecycle: /missing: No such file or directory"),
        ("demo --output /dev/null", "otel-lifecycle: --output /dev/null: Not a directory"),
        ("report /missing", "otel-lifecycle: /missing: No such file or directory"),
        ("validate /missing", "otel-lifecycle: /missing: No such file or directory"),
        ("validate /dev", "otel-lifecycle: /dev: contains no record files (*.jsonl, *.jsonl.gz)"),
        ("tail /missing", "otel-lifecycle: /missing: No such file or directory"),
    ],
)
def test_wrong_usage(start: Callable[..., Command], arguments: str, line: str) -> None:
    """The exit code is 2, and one line names the problem, its value and what is allowed."""
    assert start(*arguments.split()).wait() == (2, "", f"{line}\n")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "contains no request"),
        (["{}"], f"1: {missing('timestamp')}"),
        (
            [
                '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}',
                '{"timestamp": 0, "input_length": 513, "output_length": 1, "hash_ids": [1]}',
            ],
            "2: input_length 513 needs 2 hash_ids of 512 tokens each, but has 1",
        ),
        (
            ['{"timestamp": 0, "input_length": 0, "output_length": 1, "hash_ids": []}'],
            "1: " + refusal('{"input_length": 0}', POSITIVE),
        ),
    ],
)
def test_bad_trace(
    lines: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An invalid trace is refused with its line and the reason."""
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f"{line}\n" for line in lines))

    code = main(["demo", "--trace", str(trace)])

    separator = ":" if lines else ": "
    assert (code, capsys.readouterr().err) == (
        2,
        f"otel-lifecycle: {trace}{separator}{reason}\n",
    )


def test_records_of_a_former_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A demo never mixes its records with those of an earlier run."""
    (tmp_path / "records.jsonl").touch()

    code = main(["demo", "--output", str(tmp_path)])

    assert (code, capsys.readouterr().err) == (
        2,
        f"otel-lifecycle: --output {tmp_path}: contains the records.jsonl of an earlier run\n",
    )


@pytest.mark.parametrize(("command", "extra"), [("demo", "demo"), ("report records.jsonl", "cli")])
def test_without_the_extra(command: str, extra: str) -> None:
    """Without its extra a command says what to install."""
    code = "import sys; sys.modules['rich'] = None; from otel_lifecycle.cli import main; "
    result = subprocess.run(
        [sys.executable, "-c", f"{code}sys.exit(main(sys.argv[1:]))", *command.split()],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stderr) == (
        2,
        f"otel-lifecycle: {command.split()[0]} needs rich: pip install 'otel-lifecycle[{extra}]'\n",
    )


def test_light_import() -> None:
    """Importing the command line imports nothing of the extra `demo`."""
    code = "import sys, otel_lifecycle.cli; print({'httpx', 'rich', 'uvicorn'} & {*sys.modules})"

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


_WRITES = ["tail {records}", "validate {records}", "report {records}", "doctor"]


@pytest.mark.parametrize("command", _WRITES)
def test_reader_of_a_pipe_leaves(tmp_path: Path, command: str) -> None:
    """If the reader of a pipe leaves, the command exits silently with the signal's code."""
    read, write = os.pipe()
    os.close(read)
    result = run_into(write, command, tmp_path)

    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("command", _WRITES)
def test_output_that_cannot_be_written(tmp_path: Path, command: str) -> None:
    """If the disk is full, the command prints one line and exits with 2."""
    result = run_into(os.open("/dev/full", os.O_WRONLY), command, tmp_path)

    reason = "[Errno 28] No space left on device"
    said = f"otel-lifecycle: stopped by an error: {reason}\n"
    assert (result.returncode, result.stderr) == (2, said)


def test_output_that_is_closed(tmp_path: Path) -> None:
    """Without a standard output a command does its work silently."""
    records = tmp_path / "records.jsonl"
    records.write_bytes(lines("a"))
    program = (
        f"{sys.executable} -c 'import sys; from otel_lifecycle.cli import main; sys.exit(main())'"
    )
    shell = f"{program} tail {records} >&-"
    result = subprocess.run(shell, shell=True, stderr=subprocess.PIPE, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")


def run_into(output: int, command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command on some records with a descriptor as its output; close the descriptor."""
    records = folder / "records.jsonl"
    records.write_bytes(lines("a"))
    program = "import sys; from otel_lifecycle.cli import main; sys.exit(main(sys.argv[1:]))"
    try:
        return subprocess.run(
            [sys.executable, "-c", program, *command.format(records=records).split()],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(output)
