"""Records as tables: one row per request, and one row per endpoint of a request."""

from otel_lifecycle.analysis.tables.columns import (
    ENDPOINT_COLUMNS,
    REQUEST_COLUMNS,
    Column,
)
from otel_lifecycle.analysis.tables.database import (
    Progress,
    QueryError,
    Records,
    first_line,
    is_parquet,
)
from otel_lifecycle.analysis.tables.table import read_table

__all__ = [
    "ENDPOINT_COLUMNS",
    "REQUEST_COLUMNS",
    "Column",
    "Progress",
    "QueryError",
    "Records",
    "first_line",
    "is_parquet",
    "read_table",
]
