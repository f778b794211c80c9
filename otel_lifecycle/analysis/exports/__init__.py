"""Writes records in the formats of other tools."""

from otel_lifecycle.analysis.exports.files import write_csv, write_llm_d, write_mooncake
from otel_lifecycle.analysis.exports.parquet import ExportError, exported_up_to, write_parquet
from otel_lifecycle.analysis.exports.perfetto import write_perfetto

__all__ = [
    "ExportError",
    "exported_up_to",
    "write_csv",
    "write_llm_d",
    "write_mooncake",
    "write_parquet",
    "write_perfetto",
]
