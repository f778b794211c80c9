"""Selects the requests of a command, and reports skipped lines."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.tables import Records
from otel_lifecycle.cli.errors import FAILED, USAGE, CommandError, warn
from otel_lifecycle.config.durations import parse_go_duration


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
    if not records.problem_count:
        return 0
    warn(f"{plural(records.problem_count, 'problem')} skipped, the first: {records.problems[0]}")
    return max(FAILED if problem.line else USAGE for problem in records.problems)
