"""Reads records as an Arrow table, which pandas, Polars and DuckDB accept."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from otel_lifecycle.analysis.tables.database import Records

if TYPE_CHECKING:
    import pyarrow


def read_table(
    *paths: str | os.PathLike[str],
    rows: Literal["requests", "endpoints"] = "requests",
    where: str = "",
) -> pyarrow.Table:
    """Return the records of files as an Arrow table; needs the extra `table`.

    Each column has its declared type, even if it is null in every row. Times are UTC, latencies
    milliseconds; `docs/tables.md` lists the columns.

    Args:
        *paths: Record files, as for `read_records`, or Parquet files and folders written by
            `export`.
        rows: One row per request, or one row per endpoint that carried it.
        where: SQL over the columns of `requests`.

    Raises:
        RecordError: A line is not a record, or a file cannot be read.
        QueryError: `where` is not valid SQL.
    """
    with Records(*paths, where=where) as records:
        for problem in records.problems:
            raise problem
        return records.connection.sql(f"SELECT * FROM {rows}").to_arrow_table()
