"""Targets of a request's latencies (service level objectives), and whether it met them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from otel_lifecycle.model.fields import Milliseconds, declare, record_name
from otel_lifecycle.model.latency import ActualLatency
from otel_lifecycle.model.request import SLO, Outcome

# The client was not served: no goodput, however fast it failed.
_FAILED = frozenset({Outcome.ERROR, Outcome.REJECTED, Outcome.EVICTED})


class RecordedTarget(msgspec.Struct, rename=record_name, frozen=True):
    """The target of one latency."""

    target_ms: Annotated[Milliseconds, declare("The target.", attribute=".target")]
    met: Annotated[
        bool | None,
        declare(
            "Whether the request met it; null if that is unknown: the latency was not measured, or "
            "the request was broken off in time.",
            attribute=".met",
        ),
    ] = None


class RecordedSLO(msgspec.Struct, rename=record_name, frozen=True):
    """The targets of a request's latencies, as its client sees them: counted from the arrival."""

    ttft: Annotated[
        RecordedTarget | msgspec.UnsetType,
        declare("Of the time to the first token; absent without a target.", attribute=".ttft"),
    ] = msgspec.UNSET
    tpot: Annotated[
        RecordedTarget | msgspec.UnsetType,
        declare("Of the time per output token; absent without a target.", attribute=".tpot"),
    ] = msgspec.UNSET
    e2e: Annotated[
        RecordedTarget | msgspec.UnsetType,
        declare("Of the time to the end; absent without a target.", attribute=".e2e"),
    ] = msgspec.UNSET


def judge_slo(slo: SLO, outcome: Outcome, actual: ActualLatency) -> RecordedSLO | msgspec.UnsetType:
    """Return the targets of a finished request, and which of them it met.

    A request that ended in an error, or was rejected or evicted, met none: goodput counts requests
    that were served. One that ended otherwise before its time missed those that had passed by then.

    Args:
        slo: Its targets.
        outcome: How it ended.
        actual: Its latencies.
    """
    waited_ms = None if actual.e2e_ms is None else actual.since_arrival(actual.e2e_ms)
    ttft_ms = None if actual.ttft_ms is None else actual.since_arrival(actual.ttft_ms)
    e2e_ms = waited_ms if outcome is Outcome.COMPLETED else None
    # A whole answer has no first token: only of a request that was broken off the wait tells.
    unended_ms = None if outcome is Outcome.COMPLETED else waited_ms

    def judge(
        target_ms: float | None, value_ms: float | None, least_ms: float | None
    ) -> RecordedTarget | msgspec.UnsetType:
        if target_ms is None:
            return msgspec.UNSET
        met: bool | None = None
        if outcome in _FAILED:
            met = False
        elif value_ms is not None:
            met = value_ms <= target_ms
        elif least_ms is not None and least_ms > target_ms:
            met = False
        return RecordedTarget(target_ms, met)

    judged = RecordedSLO(
        judge(slo.ttft_ms, ttft_ms, unended_ms),
        judge(slo.tpot_ms, actual.tpot_ms, None),
        judge(slo.e2e_ms, e2e_ms, unended_ms),
    )
    return msgspec.UNSET if judged == _NOTHING else judged


_NOTHING = RecordedSLO()
