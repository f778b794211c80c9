"""`otel-lifecycle report --output`: writes the report as a page."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from dataclasses import dataclass

from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.page import NoRecordsError, ReportOptions, Targets, write_page
from otel_lifecycle.analysis.tables import Progress, Records
from otel_lifecycle.cli.errors import CommandError
from otel_lifecycle.cli.selection import Selection, write_selected


@dataclass(frozen=True)
class PageOptions(Selection):
    """The options of the command."""

    ttft: float | None
    tpot: float | None
    link: str


def run_page(options: PageOptions) -> int:
    """Write the page; return the exit code."""
    shown = ReportOptions(
        Targets(options.ttft, options.tpot), options.link, ", ".join(map(str, options.paths))
    )

    def write(records: Records) -> str:
        return plural(write_page(records, options.output, shown), "request")

    try:
        return write_selected(options, write, "the report failed", progress=_progress())
    except NoRecordsError as error:
        raise CommandError(f"{shown.source}: {error}") from error


@contextlib.contextmanager
def _progress() -> Generator[Progress]:
    """Show the number of records on a terminal; elsewhere say nothing."""
    if not sys.stderr.isatty():
        yield lambda loaded: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading records") as status:
        yield lambda loaded: status.update(f"{loaded:,} records read")
