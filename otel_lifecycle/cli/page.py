"""`otel-lifecycle report --output`: writes the report as a page."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import duckdb

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.page import NoRecordsError, ReportOptions, Targets, write_page
from otel_lifecycle.analysis.tables import Progress, first_line, is_parquet
from otel_lifecycle.cli.errors import USAGE, CommandError
from otel_lifecycle.cli.printing import open_printer
from otel_lifecycle.cli.record_paths import warn_of_missing
from otel_lifecycle.cli.selection import (
    check_output,
    condition,
    interruptible,
    load,
    warn_of_problems,
)


@dataclass(frozen=True)
class PageOptions:
    """The options of the command."""

    paths: list[Path]
    output: Path
    ttft: float | None
    tpot: float | None
    link: str
    where: str
    since: str


def run_page(options: PageOptions) -> int:
    """Write the page; return the exit code."""
    missing = warn_of_missing(options.paths, is_parquet)
    if missing == len(options.paths):
        return USAGE
    check_output(options.output, options.paths)
    where = condition(options.where, options.since)
    shown = ReportOptions(
        Targets(options.ttft, options.tpot), options.link, ", ".join(map(str, options.paths))
    )
    try:
        with (
            interruptible(),
            _progress() as progress,
            load(options.paths, where, progress=progress) as records,
        ):
            written = write_page(records, options.output, shown)
    except NoRecordsError as error:
        raise CommandError(f"{shown.source}: {error}") from error
    except duckdb.Error as error:
        raise CommandError(f"the report failed: {first_line(error)}") from error
    except OSError as error:
        raise CommandError(f"--output {options.output}: {error.strerror or error}") from error
    open_printer()(f"{options.output}: {plural(written, 'request')}")
    exit_code = warn_of_problems(records)
    return USAGE if missing else exit_code


@contextlib.contextmanager
def _progress() -> Generator[Progress]:
    """Show the number of records on a terminal; elsewhere say nothing."""
    if not sys.stderr.isatty():
        yield lambda loaded: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading records") as status:
        yield lambda loaded: status.update(f"{loaded:,} records read")
