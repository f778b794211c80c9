"""Loads the records of a command, writes its output, and reports skipped lines."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import duckdb

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.tables import Progress, QueryError, Records, first_line, is_parquet
from otel_lifecycle.cli.errors import FAILED, USAGE, CommandError, warn
from otel_lifecycle.cli.printing import open_printer
from otel_lifecycle.cli.record_paths import warn_of_missing
from otel_lifecycle.config.durations import parse_go_duration
from otel_lifecycle.records import Position
from otel_lifecycle.records.names import absolute, record_files


@dataclass(frozen=True)
class Selection:
    """The records that a command reads, and where it writes.

    Attributes:
        paths: Record files, folders, and tables that `export` wrote.
        output: What to write.
        where: SQL over the columns of requests; empty: all.
        since: A duration or a time; empty: all.
    """

    paths: Sequence[Path]
    output: Path
    where: str
    since: str


def write_selected(
    selection: Selection,
    write: Callable[[Records], str],
    failed: str,
    *,
    start: Callable[[], Position | None] = lambda: None,
    progress: AbstractContextManager[Progress | None] | None = None,
) -> int:
    """Load the records, write the output, print what was written; return the exit code.

    Args:
        selection: The options of the command.
        write: Writes the output; returns what was written.
        failed: How an error of the engine begins.
        start: Returns where to resume in the record files.
        progress: Shows how far loading is.

    Raises:
        CommandError: The records cannot be loaded, or the output not be written.
    """
    missing = warn_of_missing(selection.paths, is_parquet)
    if missing == len(selection.paths):
        return USAGE
    output = selection.output
    check_output(output, selection.paths)
    where = condition(selection.where, selection.since)
    try:
        position = start()
        with (
            _interruptible(),
            progress or contextlib.nullcontext() as told,
            load(selection.paths, where, position, told) as records,
        ):
            written = write(records)
    except duckdb.Error as error:
        raise CommandError(f"{failed}: {first_line(error)}") from error
    except OSError as error:
        raise CommandError(f"--output {output}: {error.strerror or error}") from error
    open_printer()(f"{output}: {written}")
    exit_code = warn_of_problems(records)
    return USAGE if missing else exit_code


def load(
    paths: Iterable[Path],
    where: str,
    position: Position | None = None,
    progress: Progress | None = None,
) -> Records:
    """Load records.

    Raises:
        CommandError: `where` is not valid, or the temporary folder cannot hold the records.
    """
    try:
        return Records(*paths, where=where, position=position, progress=progress)
    except QueryError as error:
        raise CommandError(str(error)) from error
    except duckdb.Error as error:
        raise CommandError(f"loading the records failed: {first_line(error)}") from error
    except OSError as error:
        reason = error.strerror or error
        raise CommandError(f"temporary folder {tempfile.gettempdir()}: {reason}") from error


@contextlib.contextmanager
def _interruptible() -> Generator[None]:
    """Let Control-C end the engine's queries as it ends everything else."""
    try:
        yield
    except RuntimeError as error:
        if "interrupted" not in str(error):
            raise
        raise KeyboardInterrupt from error  # which the engine has taken


def check_output(output: Path, paths: Iterable[Path]) -> None:
    """Refuse to replace devices, pipes, and what the records are read from.

    Raises:
        CommandError: The output must not be replaced.
    """
    if not output.name:
        raise CommandError("--output: must be the name of a file or folder, got ''")
    try:
        found = output.stat()
    except OSError:
        return  # writing it tells what is wrong
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise CommandError(f"--output {output}: exists, and is not a file or folder")
    for path in paths:
        for source in (path, *_files(path)):
            with contextlib.suppress(OSError):
                if os.path.samestat(source.stat(), found):
                    raise CommandError(f"--output {output}: the records are read from it")


def _files(path: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [
            live.with_name(name)
            for live, segments in record_files(absolute(path)).items()
            for name in (live.name, *(name for _, name in segments))
        ]
    return []


def condition(where: str, since: str) -> str:
    """Return the SQL of `--where` and `--since` together.

    Raises:
        CommandError: `since` is neither a duration nor a time.
    """
    if not since:
        return where
    recent = f"started_at >= TIMESTAMPTZ '{_moment(since).isoformat()}'"
    return f"({where}) AND {recent}" if where else recent


def _moment(text: str) -> datetime:
    try:
        return datetime.now(timezone.utc) - timedelta(microseconds=parse_go_duration(text) / 1000)
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise CommandError(
            f"--since {text}: must be a duration such as 30m or a time such as 2026-11-29T08:00:00Z"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def warn_of_problems(records: Records) -> int:
    """Warn about skipped lines; return the exit code."""
    for line in records.unfinished:
        warn(line)
    if not records.problem_count:
        return 0
    warn(f"{plural(records.problem_count, 'problem')} skipped, the first: {records.problems[0]}")
    return max(FAILED if problem.line else USAGE for problem in records.problems)
