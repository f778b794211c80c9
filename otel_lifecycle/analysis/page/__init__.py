"""The report as one page: questions, answers, charts, and how each is computed."""

from otel_lifecycle.analysis.page.document import NoRecordsError, ReportOptions, write_page
from otel_lifecycle.analysis.page.facts import Targets

__all__ = ["NoRecordsError", "ReportOptions", "Targets", "write_page"]
