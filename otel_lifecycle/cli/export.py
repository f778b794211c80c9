"""`otel-lifecycle export`: writes records in the formats of other tools."""

from __future__ import annotations

from dataclasses import dataclass

from otel_lifecycle.analysis.exports import (
    ExportError,
    exported_up_to,
    write_csv,
    write_mooncake,
    write_parquet,
    write_perfetto,
)
from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.tables import Records
from otel_lifecycle.cli.errors import CommandError, warn
from otel_lifecycle.cli.selection import Selection, write_selected


@dataclass(frozen=True)
class ExportOptions(Selection):
    """The options of the command."""

    format: str
    rows: str


def run(options: ExportOptions) -> int:
    """Write the file or folder; return the exit code."""
    parquet = options.format == "parquet"
    try:
        return write_selected(
            options,
            lambda records: _write(options, records),
            f"--output {options.output}",
            start=lambda: exported_up_to(options.output) if parquet else None,
        )
    except ExportError as error:
        raise CommandError(str(error)) from error


def _write(options: ExportOptions, records: Records) -> str:
    match options.format:
        case "parquet":
            return plural(write_parquet(records, options.output), "request")
        case "csv":
            rows = "endpoints" if options.rows == "endpoints" else "requests"
            return plural(write_csv(records, options.output, rows), "row")
        case "perfetto":
            return plural(write_perfetto(records, options.output), "request")
        case "llm-d":
            from otel_lifecycle.analysis.exports.llm_d import write_llm_d

            return plural(write_llm_d(records, options.output), "training row")
        case _:
            written = write_mooncake(records, options.output)
            left_out = records.count() - written.requests
            if left_out:
                warn(f"{plural(left_out, 'request')} omitted: input or output length is unknown")
            unknown = written.requests - written.with_blocks
            if unknown:
                warn(
                    f"{plural(unknown, 'request')} without promptBlocks: these share no blocks, so "
                    "a replay has fewer prefix-cache hits"
                )
            return plural(written.requests, "request")
