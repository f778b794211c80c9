"""Writes records in the formats of other tools.

`llm_d` is imported by itself: it needs an extra that the others do not.
"""

from otel_lifecycle.analysis.exports.files import write_csv
from otel_lifecycle.analysis.exports.mooncake import write_mooncake
from otel_lifecycle.analysis.exports.parquet import ExportError, exported_up_to, write_parquet
from otel_lifecycle.analysis.exports.perfetto import write_perfetto

__all__ = [
    "ExportError",
    "exported_up_to",
    "write_csv",
    "write_mooncake",
    "write_parquet",
    "write_perfetto",
]
