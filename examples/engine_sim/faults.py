"""Faults that can be switched on to test a router."""

from __future__ import annotations

from enum import Enum

SLOW_FACTOR = 10.0
CHUNKS_BEFORE_CUT = 3


class Fault(Enum):
    """A fault until it is changed; all but the last affect every request."""

    NONE = "none"
    HTTP_500 = "http_500"  # answers 500 at once
    DROP_MID_STREAM = "drop_mid_stream"  # closes the connection after a few chunks
    TRUNCATE = "truncate"  # ends the stream properly, but without usage and `[DONE]`
    HANG = "hang"  # never answers
    SLOW = "slow"  # everything takes ten times as long
    NPU_EXPORTER_DOWN = "npu_exporter_down"  # it has no NPU metrics
