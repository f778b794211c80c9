"""Values that compare equal to any measured time, and values that depend on the installed SDK."""

from __future__ import annotations

import re

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import TraceFlags


class Measured:
    """Equal to any number that is not negative."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and other >= 0

    def __repr__(self) -> str:
        return "<measured>"


class AnyFloat:
    """Equal to any float, also a negative one."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float)

    def __repr__(self) -> str:
        return "<float>"


class Matching:
    """Equal to text that matches a pattern completely."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.fullmatch(self._pattern, other) is not None

    def __repr__(self) -> str:
        return f"<matching {self._pattern}>"


MEASURED = Measured()
ANY_FLOAT = AnyFloat()
TIMESTAMP = Matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
DATETIME = Matching(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
TRACE_ID = Matching("[0-9a-f]{32}")
SPAN_ID = Matching("[0-9a-f]{16}")

# The trace flags of a new trace; newer SDKs also set the one that says its id is random.
SAMPLED = int(TracerProvider().get_tracer("").start_span("").get_span_context().trace_flags)
SAMPLED_OUT = SAMPLED & ~TraceFlags.SAMPLED
