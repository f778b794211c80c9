"""Loads the requests of a command, checks its output, and reports skipped lines."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Generator, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import duckdb

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.tables import Progress, QueryError, Records, first_line
from otel_lifecycle.cli.errors import FAILED, USAGE, CommandError, warn
from otel_lifecycle.config.durations import parse_go_duration
from otel_lifecycle.records import Position
from otel_lifecycle.records.names import absolute, record_files


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
def interruptible() -> Generator[None]:
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
