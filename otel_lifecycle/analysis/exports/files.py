"""Writes CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from otel_lifecycle.analysis.exports.whole_file import whole_file
from otel_lifecycle.analysis.tables.database import Records, literal


def write_csv(
    records: Records, path: Path, rows: Literal["requests", "endpoints"] = "requests"
) -> int:
    """Write one of the two tables; return the number of rows."""
    with whole_file(path) as unfinished:
        ((written,),) = records.connection.execute(
            f"COPY (FROM {rows}) TO {literal(unfinished)} (FORMAT csv, HEADER)"
        ).fetchall()
    return int(written)
