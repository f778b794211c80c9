"""Writes Parquet files, partitioned by day and model; each run adds the new records."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from otel_lifecycle.analysis.exports.whole_file import whole_file
from otel_lifecycle.analysis.tables.database import (
    ENDPOINTS,
    REQUESTS,
    Records,
    literal,
)
from otel_lifecycle.records import Position

_POSITION = "position.json"
_UNFINISHED = ".unfinished"
_PARTITIONS = "CAST(started_at AS DATE) AS day, model AS model_name"


class ExportError(ValueError):
    """An export cannot be continued; the text gives the reason."""


def exported_up_to(folder: Path) -> Position:
    """Return the position up to which the record files were exported to this folder.

    Raises:
        ExportError: `position.json` is not a position.
        OSError: It cannot be read.
    """
    path = folder / _POSITION
    try:
        return Position.from_json(path.read_bytes())
    except FileNotFoundError:
        return Position()
    except ValueError as error:
        raise ExportError(
            f"{path}: {error}; to export everything again, delete the folder"
        ) from error


def write_parquet(records: Records, folder: Path) -> int:
    """Add records to a folder of Parquet files; return the number of requests.

    `requests/` and `endpoints/` have the two tables, as `day=.../model_name=.../*.parquet`;
    `position.json` has the position up to which the record files were read. An interrupted run
    leaves the folder unchanged, or is repeated by the next run with the same result.

    Args:
        records: Loaded from the position of `exported_up_to`.
        folder: Created if missing.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / _UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    # Named after the start position: the next run replaces one killed between its renames.
    run = hashlib.sha256(records.start_position.to_json()).hexdigest()[:16]
    # By default it holds half a million of these wide rows a thread: more than the memory limit.
    records.connection.execute("SET partitioned_write_flush_threshold = 20_000")
    records.connection.execute("SET preserve_insertion_order = false")
    for table in (REQUESTS, ENDPOINTS):
        records.connection.execute(
            f"COPY (SELECT *, {_PARTITIONS} FROM {table}) TO {literal(unfinished / table)} "
            "(FORMAT parquet, COMPRESSION zstd, "
            f"PARTITION_BY (day, model_name), FILENAME_PATTERN {literal(run + '-{i}')})"
        )
    for file in sorted(unfinished.rglob("*.parquet")):
        target = folder / file.relative_to(unfinished)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
    shutil.rmtree(unfinished, ignore_errors=True)
    with whole_file(folder / _POSITION) as position:
        position.write_bytes(records.position.to_json() + b"\n")
    return records.count()
