"""`otel-lifecycle export`: writes records in the formats of other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from otel_lifecycle.analysis.exports import (
    ExportError,
    exported_up_to,
    write_csv,
    write_mooncake,
    write_parquet,
    write_perfetto,
)
from otel_lifecycle.analysis.formatting import plural
from otel_lifecycle.analysis.tables import Records, first_line, is_parquet
from otel_lifecycle.cli.errors import USAGE, CommandError, warn
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
class ExportOptions:
    """The options of the command."""

    paths: list[Path]
    format: str
    output: Path
    rows: str
    where: str
    since: str


def run(options: ExportOptions) -> int:
    """Write the file or folder; return the exit code."""
    missing = warn_of_missing(options.paths, is_parquet)
    if missing == len(options.paths):
        return USAGE
    check_output(options.output, options.paths)
    where = condition(options.where, options.since)
    parquet = options.format == "parquet"
    try:
        start_position = exported_up_to(options.output) if parquet else None
        with interruptible(), load(options.paths, where, start_position) as records:
            written = _write(options, records)
    except ExportError as error:
        raise CommandError(str(error)) from error
    except duckdb.Error as error:
        raise CommandError(f"--output {options.output}: {first_line(error)}") from error
    except OSError as error:
        raise CommandError(f"--output {options.output}: {error.strerror or error}") from error
    open_printer()(f"{options.output}: {written}")
    exit_code = warn_of_problems(records)
    return USAGE if missing else exit_code


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
            left_out = records.count() - written
            if left_out:
                warn(f"{plural(left_out, 'request')} omitted: input or output length is unknown")
            warn(
                "records do not show which prompts share blocks: a replay has no prefix-cache hits"
            )
            return plural(written, "request")
